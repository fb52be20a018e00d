//! Cutting a section of text out of one message of a rendered prompt.
//!
//! The message comes as ids and leaves as ids. Text is cut by this rule: the section goes, and of the white space on its
//! two sides what joined it. White space at the edge of the message's text stays, the section's other side is closed up
//! to it; between two texts the longer joint stays (more newlines, then more characters; of equals the left one). That
//! is what a harness without the section would have rendered, whether it puts the section first, last or in between.
//!
//! The ids left and right stay as captured where that is what the tokenizer makes of the text that is left; else the
//! ids between are made anew. A message whose ids are not what the tokenizer makes of its text is only cut at ids.

use super::Tokenizer;
use crate::error::Result;
use crate::ids::{Id, common_prefix};
use std::ops::Range;

/// See the module.
#[derive(Debug)]
pub struct Section {
    text: String,
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// It does not hold the section.
    Absent,
    /// Ranges of its ids are replaced.
    Made {
        /// Ascending, in positions of the message.
        edits: Vec<(Range<usize>, Vec<Id>)>,
        /// How.
        kind: CutKind,
        /// How often it held the section.
        sections: usize,
    },
    /// It holds the section and cannot be cut.
    Stuck,
    /// It holds the section's text where a word goes on before or behind it: no section ends there.
    InWord,
}

/// How a section was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutKind {
    /// All ids that stay are as captured, and are what the tokenizer makes of the text that is left.
    Pure,
    /// The cut joined ids, so the ids around it were made anew from the text.
    Reencoded,
    /// All ids that stay are as captured; the tokenizer would have made others of the message even before the cut.
    Unproven,
    /// The message held nothing else and left as a whole.
    Whole,
}

impl Section {
    /// A section by its text, as the tokenizer shows it (its normal form). `None` when it is only white space.
    ///
    /// # Errors
    /// `Check` when the tokenizer gives up.
    pub fn new(text: &str, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let text = tokenizer.text(&tokenizer.encode(text.trim())?).trim().to_owned();
        Ok((!text.is_empty()).then_some(Self { text }))
    }

    /// Cuts it out of a message: ids from a turn's start to the next one's. The first `header` ids open the turn;
    /// `role`: the word behind them names the role.
    #[must_use]
    pub fn cut(&self, tokenizer: &Tokenizer, message: &[Id], (header, role): (usize, bool)) -> Cut {
        let mut starts = Vec::with_capacity(message.len() + 1);
        let mut text = Vec::with_capacity(message.len() * 4);
        for id in message {
            starts.push(text.len());
            tokenizer.decode_into(&mut text, std::slice::from_ref(id));
        }
        starts.push(text.len());
        if memchr::memmem::find(&text, self.text.as_bytes()).is_none() {
            return Cut::Absent;
        }
        let Ok(text) = String::from_utf8(text) else { return Cut::Stuck };
        let (mut gone, mut sections, mut left) = (Vec::new(), 0, false);
        for segment in segments(tokenizer, message, &starts, header, role, &text) {
            let Some((ranges, found)) = without(&text[segment.clone()], &self.text) else { return Cut::InWord };
            sections += found;
            gone.extend(ranges.into_iter().map(|range| segment.start + range.start..segment.start + range.end));
            left |= !kept(&text, &gone, segment).trim().is_empty();
        }
        if sections == 0 {
            return Cut::Absent;
        }
        // What stands before the first turn has no marker of its own to take along.
        if !left && header > 0 {
            return Cut::Made { edits: vec![(0..message.len(), Vec::new())], kind: CutKind::Whole, sections };
        }
        let at_id = |position: usize| starts.binary_search(&position).ok();
        let aligned: Option<Vec<Range<usize>>> =
            gone.iter().map(|range| Some(at_id(range.start)?..at_id(range.end)?)).collect();
        let as_cut = |ranges: Vec<Range<usize>>| ranges.into_iter().map(|range| (range, Vec::new())).collect();
        if tokenizer.encode(&text).ok().as_deref() != Some(message) {
            return match aligned {
                Some(ranges) => Cut::Made { edits: as_cut(ranges), kind: CutKind::Unproven, sections },
                None => Cut::Stuck,
            };
        }
        let Ok(new) = tokenizer.encode(&kept(&text, &gone, 0..text.len())) else { return Cut::Stuck };
        if let Some(ranges) = aligned.filter(|ranges| stays(message, ranges) == new) {
            return Cut::Made { edits: as_cut(ranges), kind: CutKind::Pure, sections };
        }
        let first = common_prefix(message, &new);
        let room = message.len().min(new.len()) - first;
        let last = message.iter().rev().zip(new.iter().rev()).take(room).take_while(|(a, b)| a == b).count();
        let with = new[first..new.len() - last].to_vec();
        let kind = if with.is_empty() { CutKind::Pure } else { CutKind::Reencoded };
        Cut::Made { edits: vec![(first..message.len() - last, with)], kind, sections }
    }
}

/// The stretches of a message's text that markers do not interrupt, as bytes: between special tokens, behind the turn's
/// header and the role's name.
fn segments(
    tokenizer: &Tokenizer,
    message: &[Id],
    starts: &[usize],
    header: usize,
    role: bool,
    text: &str,
) -> Vec<Range<usize>> {
    let mut from = starts[header];
    if role {
        from += text[from..].bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    }
    let mut segments = Vec::new();
    for (at, id) in message.iter().enumerate().skip(header).filter(|(_, id)| tokenizer.is_special(**id)) {
        segments.push(from.min(starts[at])..starts[at]);
        from = starts[at] + tokenizer.bytes_of(*id).len();
    }
    segments.push(from..text.len());
    segments
}

/// The byte ranges to take from a stretch of text, and how often the section stands in it. `None` where it stands inside
/// a word.
fn without(text: &str, section: &str) -> Option<(Vec<Range<usize>>, usize)> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    let mut sections = 0;
    for (start, found) in text.match_indices(section) {
        sections += 1;
        match blocks.last_mut() {
            // Nothing stands between them: they leave as one.
            Some(last) if text[last.end..start].trim().is_empty() => last.end = start + found.len(),
            _ => blocks.push(start..start + found.len()),
        }
    }
    if blocks.iter().any(|block| joins(text, block.start) || joins(text, block.end)) {
        return None;
    }
    for block in &mut blocks {
        let left = text[..block.start].trim_end().len();
        let right = text.len() - text[block.end..].trim_start().len();
        let before = joint(&text[left..block.start]).len();
        let behind = joint(&text[block.end..right]).len();
        let newlines = |range: Range<usize>| text[range].matches('\n').count();
        let longer_behind = (newlines(block.end..block.end + behind), behind) > (newlines(left..left + before), before);
        *block = if left == 0 {
            block.start..block.end + behind
        } else if right == text.len() || longer_behind {
            left..block.end
        } else {
            left + before..block.end + behind
        };
    }
    Some((blocks, sections))
}

/// Whether a word goes on across this position.
fn joins(text: &str, at: usize) -> bool {
    // From here on stand scripts that put no space between words.
    let in_word = |c: char| c < '\u{2E80}' && (c.is_alphanumeric() || c == '_');
    text[..at].chars().next_back().is_some_and(in_word) && text[at..].chars().next().is_some_and(in_word)
}

/// What joins two texts: white space up to the last newline (what follows it is the indent of the text behind), or all
/// of it where there is no newline.
fn joint(space: &str) -> &str {
    space.rfind('\n').map_or(space, |at| &space[..=at])
}

fn kept(text: &str, gone: &[Range<usize>], of: Range<usize>) -> String {
    let mut made = String::with_capacity(of.len());
    let mut from = of.start;
    for range in gone.iter().filter(|range| range.start >= of.start && range.end <= of.end) {
        made.push_str(&text[from..range.start]);
        from = range.end;
    }
    made.push_str(&text[from..of.end]);
    made
}

fn stays(message: &[Id], gone: &[Range<usize>]) -> Vec<Id> {
    let mut made = Vec::with_capacity(message.len());
    let mut from = 0;
    for range in gone {
        made.extend_from_slice(&message[from..range.start]);
        from = range.end;
    }
    made.extend_from_slice(&message[from..]);
    made
}
