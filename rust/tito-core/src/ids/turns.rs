//! The turns of a rendered prompt: where they start, thinking in earlier answers, the generation tail, dropping turns.
//!
//! A prompt is only ever cut at positions that its own ids show (turn starts, turn ends, think markers), never rendered
//! anew. An assistant turn is closed when a turn end or another turn start stands behind it; the open one at the end
//! is the generation tail, and only [`TurnRule::no_think_edit`] changes it.

use super::markers::Finder;
use super::profile::{Id, Profile};
use super::think::{Found, Mark, Opened, ThinkCounts, ThinkRule};
use std::ops::Range;

/// What a prompt ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// The generation tail with thinking on.
    Think,
    /// The generation tail with thinking off; also where the profile has the same tail for both.
    NoThink,
    /// Neither.
    Other,
}

/// A message of a rendered prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it stands.
    pub ids: Range<usize>,
    /// How many ids its marker has; 0 = it stands before all markers.
    pub marker: usize,
    /// Whether the word behind the marker names the role.
    pub role: bool,
}

/// A profile, made ready for work on prompts. Make it once.
#[derive(Debug, Clone)]
pub struct TurnRule {
    think: ThinkRule,
    turn_start: Finder<()>,
    assistant_start: Finder<()>,
    boundary: Finder<()>,
    /// Whether the marker alone says whose turn it is; else the id behind it does.
    start_names_role: bool,
    /// The markers behind which a word names the role: those that assistant headers go on from.
    role_markers: Vec<Vec<Id>>,
    /// How thinking in earlier answers begins.
    history: Opened,
    tail_think: Vec<Id>,
    tail_no_think: Option<Vec<Id>>,
    /// What the template writes where an earlier answer has no reasoning; empty = nothing.
    history_pair: Vec<Id>,
}

impl TurnRule {
    /// Makes a profile ready.
    #[must_use]
    pub fn new(profile: &Profile) -> Self {
        let think = ThinkRule::new(profile);
        let tail = profile.tail_no_think.as_deref().unwrap_or_default();
        let first_mark = think.marks.all(tail).find(|hit| hit.kind != Mark::Tool);
        let header = think_header(profile, tail);
        let finder = |markers: &[_]| Finder::new(markers, profile.vocab_size);
        Self {
            turn_start: finder(&[(&profile.turn_start, ())]),
            assistant_start: finder(&[(&profile.assistant_start, ())]),
            boundary: finder(&[(&profile.turn_end, ()), (&profile.turn_start, ())]),
            start_names_role: profile.turn_start.len() > 1,
            role_markers: (profile.turn_start.iter())
                .filter(|way| profile.assistant_start.iter().any(|h| h.len() > way.len() && h.starts_with(way)))
                .cloned()
                .collect(),
            // A template whose no-thinking tail is a lone closer writes one into earlier answers too.
            history: if first_mark.is_some_and(|hit| hit.kind == Mark::Close) { Opened::Pair } else { Opened::No },
            tail_think: profile.tail_think.clone(),
            tail_no_think: profile.tail_no_think.clone(),
            history_pair: if profile.history_pair { tail[header..].to_vec() } else { Vec::new() },
            think,
        }
    }

    /// The think rule of the same profile.
    #[must_use]
    pub fn think(&self) -> &ThinkRule {
        &self.think
    }

    /// Where turns start, the generation tail included.
    #[must_use]
    pub fn turn_starts(&self, prompt: &[Id]) -> Vec<usize> {
        self.turn_start.all(prompt).map(|hit| hit.start).collect()
    }

    /// The messages that are no assistant's, from a turn's marker to the next one's; what stands before the first marker
    /// comes too.
    #[must_use]
    pub fn messages(&self, prompt: &[Id]) -> Vec<Message> {
        let hits: Vec<Range<usize>> = self.turn_start.all(prompt).map(|hit| hit.start..hit.end).collect();
        let first = hits.first().map_or(prompt.len(), |hit| hit.start);
        let ends = hits.iter().skip(1).map(|hit| hit.start).chain([prompt.len()]);
        let turns = hits.iter().zip(ends).filter(|(hit, _)| self.assistant_start.at(prompt, hit.start).is_none());
        let before = (first > 0).then_some(Message { ids: 0..first, marker: 0, role: false });
        let message = |(hit, end): (&Range<usize>, usize)| {
            let role = self.role_markers.iter().any(|way| prompt[hit.clone()] == **way);
            Message { ids: hit.start..end, marker: hit.len(), role }
        };
        before.into_iter().chain(turns.map(message)).collect()
    }

    /// What the closed assistant turns hold: from behind the header to the turn end or the next turn start.
    pub fn assistant_turns(&self, prompt: &[Id]) -> impl Iterator<Item = Range<usize>> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let header = self.assistant_start.next(prompt, from)?;
            let end = self.boundary.next(prompt, header.end)?.start;
            from = end;
            Some(header.end..end)
        })
    }

    /// What the assistant turn that begins at `start` holds; `None` where no assistant's turn does.
    #[must_use]
    pub fn answer_at(&self, prompt: &[Id], start: usize) -> Option<Range<usize>> {
        let header = self.assistant_start.at(prompt, start)?;
        Some(header.end..self.boundary.next(prompt, header.end).map_or(prompt.len(), |hit| hit.start))
    }

    /// Finds thinking in an earlier answer as a prompt shows it.
    pub fn find_in_answer(&self, answer: &[Id], found: &mut Found) {
        self.think.find_into(answer, self.history, found);
    }

    /// Where an answer's first tool call begins.
    #[must_use]
    pub fn tool_call(&self, answer: &[Id]) -> Option<usize> {
        self.think.marks.all(answer).find(|hit| hit.kind == Mark::Tool).map(|hit| hit.start)
    }

    /// What to cut from the closed assistant turns, in positions of the prompt. The counts are of turns.
    #[must_use]
    pub fn history_spans(&self, prompt: &[Id]) -> (Vec<Range<usize>>, ThinkCounts) {
        let (mut counts, mut found) = (ThinkCounts::default(), Found::default());
        let mut spans = Vec::new();
        for turn in self.assistant_turns(prompt) {
            self.think.find_into(&prompt[turn.clone()], self.history, &mut found);
            counts.add(&found);
            spans.extend(found.spans.iter().map(|span| turn.start + span.start..turn.start + span.end));
        }
        (spans, counts)
    }

    /// What the template writes into an earlier answer that has no reasoning; empty = nothing.
    #[must_use]
    pub fn history_pair(&self) -> &[Id] {
        &self.history_pair
    }

    /// How an answer begins behind its header once the prompt's tail is the no-thinking one: with the pair, or with nothing.
    #[must_use]
    pub fn no_think_opened(&self) -> Opened {
        self.tail_no_think.as_deref().map_or(Opened::Unknown, |tail| self.think.opened_by(tail))
    }

    /// The change that makes a prompt's tail the no-thinking one: what to replace, and by what. `None` when the prompt
    /// ends in no known tail or the template cannot switch thinking off; an empty range when it ends so already. Only the
    /// tail is rewritten: a template that also marks the user's text says so nowhere in the profile.
    #[must_use]
    pub fn no_think_edit(&self, prompt: &[Id]) -> Option<(Range<usize>, &[Id])> {
        let no_think = self.tail_no_think.as_deref()?;
        match self.tail_of(prompt) {
            Tail::NoThink => Some((prompt.len()..prompt.len(), &[])),
            Tail::Think => Some((prompt.len() - self.tail_think.len()..prompt.len(), no_think)),
            Tail::Other => None,
        }
    }

    /// What the prompt ends in. The longer of two tails that both fit is the one meant.
    #[must_use]
    pub fn tail_of(&self, prompt: &[Id]) -> Tail {
        let fits = |tail: &[Id]| !tail.is_empty() && prompt.ends_with(tail);
        let think = fits(&self.tail_think);
        match self.tail_no_think.as_deref() {
            Some(tail) if fits(tail) && !(think && self.tail_think.len() > tail.len()) => Tail::NoThink,
            _ if think => Tail::Think,
            _ => Tail::Other,
        }
    }

    /// Which ids to drop so that at most `max_len` stay: whole turns, the oldest first, as few as will do.
    ///
    /// What stands before the first turn stays, and so do the last turn (the generation tail) and a system turn. A
    /// profile does not name roles, but a system turn is the first and the only one of its role: the first turn stays
    /// unless a later one opens alike. What stays begins with no answer, which would answer nothing, unless an answer
    /// was what followed the first turn: then that turn is the question.
    /// The range is empty when the prompt fits; `None` when it cannot be made to.
    #[must_use]
    pub fn trim_prompt(&self, prompt: &[Id], max_len: usize) -> Option<Range<usize>> {
        let over = prompt.len().saturating_sub(max_len);
        if over == 0 {
            return Some(0..0);
        }
        let starts = self.turn_starts(prompt);
        let (first, later) = starts.split_first()?;
        let role = self.role(prompt, *first);
        let stays = later.iter().all(|start| self.role(prompt, *start) != role);
        let from = if stays { *later.first()? } else { *first };
        let answers = |start: usize| self.assistant_start.at(prompt, start).is_some();
        let asked = stays && answers(from);
        let to = later.iter().find(|start| **start >= from + over && answers(**start) == asked)?;
        Some(from..*to)
    }

    /// The ids that say whose turn starts here.
    fn role<'a>(&self, prompt: &'a [Id], start: usize) -> &'a [Id] {
        let end = self.turn_start.at(prompt, start).map_or(start, |hit| hit.end);
        &prompt[start..prompt.len().min(end + usize::from(!self.start_names_role))]
    }
}

/// Where the assistant header of a generation tail ends.
fn think_header(profile: &Profile, tail: &[Id]) -> usize {
    profile.assistant_start.iter().find(|header| tail.starts_with(header)).map_or(tail.len(), Vec::len)
}
