//! Which ids of an output are thinking, and cutting them out.
//!
//! With O an opener, X a closer, T a tool-call opener: `O..X` is cut, and so is `..X` where the prompt left thinking
//! open, where it wrote an empty pair and the model reasoned anyway, or where nobody tells how it ended. Text before an
//! opener stays. Behind the first T nothing is cut: what looks like a marker there is an argument of the call. A marker
//! that no rule explains stays and makes the output odd. Newline-only ids directly behind a closer go with it.
//!
//! Law: `strip(strip(x, any), No) == strip(x, any)`. Cutting can join the halves of a marker of several ids, so such
//! outputs are looked at again until nothing more is found.

use super::markers::{Finder, Hits, Inside, Looks};
use super::profile::{Id, Profile};
use crate::error::{Error, Result};
use fearless_simd::{Level, dispatch};
use smallvec::SmallVec;
use std::ops::{AddAssign, Range};

/// Spans of one output. Most outputs have one or none: these need no allocation.
pub type Spans = SmallVec<[Range<usize>; 2]>;

/// How the prompt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Opened {
    /// In an opener that is not closed: the output starts inside thinking.
    Yes,
    /// In a closed pair (usually empty) or a lone closer behind the assistant header.
    Pair,
    /// In an assistant header without a think marker behind it.
    No,
    /// Nobody tells: there is no prompt, or it does not end in an open assistant turn.
    #[default]
    Unknown,
}

/// What was found in one output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// What to cut: sorted, not empty, at least one id apart (pairs that touch are one span).
    pub spans: Spans,
    /// The output holds no marker and the prompt left no thinking open.
    pub absent: bool,
    /// Thinking is open at the end; it stays.
    pub unterminated: bool,
    /// A marker stays that no rule explains.
    pub odd: bool,
    /// A marker was matched as several ids.
    pub split_marker: bool,
    /// The output itself holds a marker. A closer that is an ordinary turn end (`lone_close` false) is one only where it
    /// ends thinking.
    pub markers: bool,
}

impl Found {
    /// How many ids the spans hold.
    #[must_use]
    pub fn cut_ids(&self) -> usize {
        self.spans.iter().map(ExactSizeIterator::len).sum()
    }
}

/// How many outputs were of which kind. One output can be of several: stripped and odd, say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ThinkCounts {
    /// Outputs looked at.
    pub seen: u64,
    /// Outputs with something to cut.
    pub stripped: u64,
    /// Outputs without a marker, the prompt's open tail included.
    pub absent: u64,
    /// Outputs in which thinking is open at the end.
    pub unterminated: u64,
    /// Outputs in which an unexplained marker stays.
    pub odd: u64,
    /// Outputs with a marker of several ids.
    pub split_marker: u64,
    /// Ids in all spans.
    pub cut_ids: u64,
}

impl ThinkCounts {
    /// Counts one output.
    pub fn add(&mut self, found: &Found) {
        self.seen += 1;
        self.stripped += u64::from(!found.spans.is_empty());
        self.absent += u64::from(found.absent);
        self.unterminated += u64::from(found.unterminated);
        self.odd += u64::from(found.odd);
        self.split_marker += u64::from(found.split_marker);
        self.cut_ids += found.cut_ids() as u64;
    }
}

impl AddAssign for ThinkCounts {
    fn add_assign(&mut self, other: Self) {
        self.seen += other.seen;
        self.stripped += other.stripped;
        self.absent += other.absent;
        self.unterminated += other.unterminated;
        self.odd += other.odd;
        self.split_marker += other.split_marker;
        self.cut_ids += other.cut_ids;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Open,
    Close,
    Tool,
}

/// A profile, made ready for finding think spans. Make it once: the hot path then allocates nothing.
#[derive(Debug, Clone)]
pub struct ThinkRule {
    pub(super) marks: Finder<Mark>,
    assistant_start: Finder<()>,
    boundary: Finder<()>,
    after_close: Vec<Id>,
    /// A bit for each value that the low bits of these have.
    after_close_bits: u64,
    lone_close: bool,
    /// A marker of several ids exists, so a cut can join one.
    joins: bool,
    level: Level,
}

/// Where the scan stands between two markers.
#[derive(Clone, Copy)]
enum State {
    Text,
    Thinking {
        from: usize,
    },
    /// A closer would end thinking that began at 0; an opener begins thinking at `opener`, or where it stands.
    Either {
        opener: Option<usize>,
    },
}

impl ThinkRule {
    /// Makes a profile ready.
    #[must_use]
    pub fn new(profile: &Profile) -> Self {
        let markers =
            [(&profile.think_open, Mark::Open), (&profile.think_close, Mark::Close), (&profile.tool_open, Mark::Tool)];
        Self {
            marks: Finder::new(&markers, profile.vocab_size),
            assistant_start: Finder::new(&[(&profile.assistant_start, ())], profile.vocab_size),
            boundary: Finder::new(&[(&profile.turn_end, ()), (&profile.turn_start, ())], profile.vocab_size),
            after_close: profile.after_close.clone(),
            after_close_bits: profile.after_close.iter().fold(0, |bits, id| bits | 1 << (id & 63)),
            lone_close: profile.lone_close,
            joins: markers.iter().any(|(marker, _)| marker.iter().any(|ids| ids.len() > 1)),
            level: Level::new(),
        }
    }

    /// How a prompt ended: the last think marker behind its last assistant header decides.
    ///
    /// `Unknown` without an assistant header, and when the turn behind the last one is closed: then the output does not
    /// continue that turn (a raw completion, or a template that lets the model go on behind a tool result).
    #[must_use]
    pub fn opened_by(&self, prompt: &[Id]) -> Opened {
        let Some(header) = self.assistant_start.last(prompt) else {
            return Opened::Unknown;
        };
        let tail = &prompt[header.end..];
        if self.boundary.next(tail, 0).is_some() {
            return Opened::Unknown;
        }
        let last = self.marks.all(tail).filter(|hit| hit.kind != Mark::Tool).last();
        match last.map(|hit| hit.kind) {
            Some(Mark::Open) => Opened::Yes,
            Some(Mark::Close) => Opened::Pair,
            Some(Mark::Tool) | None => Opened::No,
        }
    }

    /// Finds the think spans of an output.
    #[must_use]
    pub fn find(&self, output: &[Id], opened: Opened) -> Found {
        let mut found = Found::default();
        self.find_in(output, opened, &mut found);
        found
    }

    /// The same, into a `Found` whose memory is used again.
    pub fn find_into(&self, output: &[Id], opened: Opened, found: &mut Found) {
        let mut spans = std::mem::take(&mut found.spans);
        spans.clear();
        *found = Found { spans, ..Found::default() };
        self.find_in(output, opened, found);
    }

    /// The same, into an empty `Found`.
    #[inline]
    fn find_in(&self, output: &[Id], opened: Opened, found: &mut Found) {
        self.pass(output, opened, found);
        found.absent = !found.markers && opened != Opened::Yes;
        while self.joins && leaves_a_join(output.len(), &found.spans) && self.look_again(output, found) {}
    }

    /// The output without its think spans, and what was found.
    #[must_use]
    pub fn strip(&self, output: &[Id], opened: Opened) -> (Vec<Id>, Found) {
        let mut found = Found::default();
        self.find_in(output, opened, &mut found);
        (cut(output, &found.spans), found)
    }

    /// Strips lists laid end to end (Arrow layout: list `i` is `values[offsets[i]..offsets[i + 1]]`).
    ///
    /// `opened` has one entry a list, or one entry for all. The new offsets start at 0.
    ///
    /// # Errors
    /// `Usage` when offsets are not ascending or leave the values, or when `opened` has another length.
    pub fn strip_batch(
        &self,
        values: &[Id],
        offsets: &[i64],
        opened: &[Opened],
    ) -> Result<(Vec<Id>, Vec<i64>, ThinkCounts)> {
        let lists = offsets.len().saturating_sub(1);
        if opened.len() != lists && opened.len() != 1 {
            return Err(Error::usage(
                format!("{} lists, but `opened` has {} entries", lists, opened.len()),
                "give one entry a list, or one for all",
            ));
        }
        let (mut kept, mut ends) = (Vec::with_capacity(values.len()), Vec::with_capacity(offsets.len()));
        let (mut counts, mut found) = (ThinkCounts::default(), Found::default());
        ends.push(0);
        for (i, ends_of) in offsets.windows(2).enumerate() {
            let list = usize::try_from(ends_of[0])
                .ok()
                .zip(usize::try_from(ends_of[1]).ok())
                .and_then(|(start, end)| values.get(start..end))
                .ok_or_else(|| {
                    let (start, end) = (ends_of[0], ends_of[1]);
                    Error::usage(
                        format!("list {i} is {start}..{end}, but there are {} values", values.len()),
                        "offsets must ascend from 0 or more to at most the number of values",
                    )
                })?;
            self.find_into(list, if opened.len() == 1 { opened[0] } else { opened[i] }, &mut found);
            counts.add(&found);
            cut_into(&mut kept, list, &found.spans);
            ends.push(kept.len() as i64);
        }
        Ok((kept, ends, counts))
    }

    /// One look from left to right; adds spans and flags.
    fn pass(&self, output: &[Id], opened: Opened, found: &mut Found) {
        dispatch!(self.level, simd => self.pass_with(Inside(simd), output, opened, found));
    }

    /// Built for each level as a whole: a call for each marker is a fifth of the time that 300 ids take.
    #[inline(always)]
    fn pass_with(&self, looks: impl Looks, output: &[Id], opened: Opened, found: &mut Found) {
        let mut state = match opened {
            Opened::Yes => State::Thinking { from: 0 },
            Opened::Pair if self.lone_close => State::Either { opener: None },
            Opened::Unknown if self.lone_close => State::Either { opener: Some(0) },
            Opened::Pair | Opened::No | Opened::Unknown => State::Text,
        };
        let mut hits = self.marks.all_by(looks, output);
        while let Some(hit) = hits.next() {
            match (hit.kind, state) {
                (Mark::Open, State::Thinking { .. }) => {}
                (Mark::Open, State::Text) => state = State::Thinking { from: hit.start },
                (Mark::Open, State::Either { opener }) => state = State::Thinking { from: opener.unwrap_or(hit.start) },
                (Mark::Close, State::Thinking { from }) => {
                    let end = self.behind_newlines(output, hit.end);
                    push(&mut found.spans, from..end);
                    hits.from = end;
                    state = State::Text;
                }
                (Mark::Close, State::Either { .. }) => {
                    let end = self.behind_newlines(output, hit.end);
                    push(&mut found.spans, 0..end);
                    hits.from = end;
                    state = State::Text;
                }
                (Mark::Close, State::Text) if self.lone_close => found.odd = true,
                (Mark::Close, State::Text) => continue,
                (Mark::Tool, State::Thinking { .. }) => {
                    found.unterminated |= !self.flag_behind_tool(hits, true, found);
                    return;
                }
                (Mark::Tool, State::Text | State::Either { .. }) => {
                    self.flag_behind_tool(hits, false, found);
                    return;
                }
            }
            found.markers = true;
            found.split_marker |= hit.end - hit.start > 1;
        }
        found.unterminated |= matches!(state, State::Thinking { .. });
    }

    /// Flags what stands behind a tool-call opener; says whether a closer does.
    #[inline(always)]
    fn flag_behind_tool(&self, rest: Hits<'_, Mark, impl Looks>, thinking: bool, found: &mut Found) -> bool {
        let mut closed = false;
        for hit in rest {
            match hit.kind {
                Mark::Open => {}
                Mark::Close if self.lone_close || thinking => closed = true,
                Mark::Close | Mark::Tool => continue,
            }
            found.odd = true;
            found.markers = true;
            found.split_marker |= hit.end - hit.start > 1;
        }
        closed
    }

    fn behind_newlines(&self, output: &[Id], mut at: usize) -> usize {
        let newline = |id: &Id| self.after_close_bits >> (id & 63) & 1 != 0 && self.after_close.contains(id);
        while output.get(at).is_some_and(newline) && self.marks.at(output, at).is_none() {
            at += 1;
        }
        at
    }

    /// Looks at what the spans leave and widens them by what is found there; says whether that was anything.
    #[cold]
    #[inline(never)]
    fn look_again(&self, output: &[Id], found: &mut Found) -> bool {
        let kept: Vec<usize> = keep_spans(output.len(), &found.spans).into_iter().flatten().collect();
        let rest: Vec<Id> = kept.iter().map(|&at| output[at]).collect();
        let outer = std::mem::take(&mut found.spans);
        self.pass(&rest, Opened::No, found);
        let inner = std::mem::take(&mut found.spans);
        let mut spans: Vec<Range<usize>> =
            outer.into_iter().chain(inner.iter().map(|span| kept[span.start]..kept[span.end - 1] + 1)).collect();
        spans.sort_by_key(|span| span.start);
        for span in spans {
            push(&mut found.spans, span);
        }
        !inner.is_empty()
    }
}

/// Adds a span that starts no earlier than the last one, and melts the two if they touch.
fn push(spans: &mut Spans, span: Range<usize>) {
    match spans.last_mut() {
        Some(last) if last.end >= span.start => last.end = last.end.max(span.end),
        _ => spans.push(span),
    }
}

/// Whether something is kept on both sides of a span.
fn leaves_a_join(len: usize, spans: &[Range<usize>]) -> bool {
    spans.iter().any(|span| span.start > 0 && span.end < len)
}

/// The ids outside the spans (sorted, disjoint, inside `ids`).
#[must_use]
#[inline]
pub fn cut(ids: &[Id], spans: &[Range<usize>]) -> Vec<Id> {
    match spans {
        [] => ids.to_vec(),
        [span] if span.start == 0 => ids[span.end..].to_vec(),
        _ => cut_pieces(ids, spans),
    }
}

fn cut_pieces(ids: &[Id], spans: &[Range<usize>]) -> Vec<Id> {
    let cut_ids: usize = spans.iter().map(ExactSizeIterator::len).sum();
    let mut kept = Vec::with_capacity(ids.len().saturating_sub(cut_ids));
    cut_into(&mut kept, ids, spans);
    kept
}

/// The same, behind what `kept` holds already.
pub fn cut_into(kept: &mut Vec<Id>, ids: &[Id], spans: &[Range<usize>]) {
    let mut from = 0;
    for span in spans {
        kept.extend_from_slice(&ids[from..span.start]);
        from = span.end;
    }
    kept.extend_from_slice(&ids[from..]);
}

/// What the spans leave of `0..len`; none of the ranges is empty.
#[must_use]
pub fn keep_spans(len: usize, spans: &[Range<usize>]) -> Vec<Range<usize>> {
    let starts = std::iter::once(0).chain(spans.iter().map(|span| span.end));
    let ends = spans.iter().map(|span| span.start).chain(std::iter::once(len));
    starts.zip(ends).map(|(start, end)| start..end).filter(|range| !range.is_empty()).collect()
}
