//! Changes to a list of ids, made all at once: ranges replaced by other ids, and where each position goes.

use super::Id;
use std::borrow::Cow;
use std::ops::Range;

/// Ranges in ascending order, not overlapping, each with the ids that stand there afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits<'a> {
    list: Vec<Edit<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit<'a> {
    range: Range<usize>,
    with: Cow<'a, [Id]>,
    /// Where the end of the range goes.
    end: usize,
}

impl<'a> Edits<'a> {
    /// Nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a change, wherever it stands among the others.
    pub fn put(&mut self, range: Range<usize>, with: impl Into<Cow<'a, [Id]>>) {
        let at = self.list.partition_point(|other| other.range.start < range.start);
        self.list.insert(at, Edit { range, with: with.into(), end: 0 });
        let (mut from, mut to) = at.checked_sub(1).map_or((0, 0), |at| (self.list[at].range.end, self.list[at].end));
        for edit in &mut self.list[at..] {
            edit.end = to + edit.range.start - from + edit.with.len();
            (from, to) = (edit.range.end, edit.end);
        }
    }

    /// Whether something before a position changes.
    #[must_use]
    pub fn touches(&self, before: usize) -> bool {
        self.list.first().is_some_and(|edit| edit.range.start < before)
    }

    /// The length afterwards of a list that is `length` long.
    #[must_use]
    pub fn length(&self, length: usize) -> usize {
        self.list.last().map_or(length, |edit| length - edit.range.end + edit.end)
    }

    /// Where a position goes. One inside a range goes to the end of what replaces it.
    #[must_use]
    pub fn moved(&self, position: usize) -> usize {
        let before = self.list.partition_point(|edit| edit.range.start < position);
        before.checked_sub(1).map_or(position, |at| {
            let edit = &self.list[at];
            edit.end + position.saturating_sub(edit.range.end)
        })
    }

    /// The ids afterwards.
    #[must_use]
    pub fn apply(&self, prompt: &[Id], output: &[Id]) -> Vec<Id> {
        let mut made = Vec::with_capacity(self.length(prompt.len() + output.len()));
        let mut from = 0;
        for edit in &self.list {
            push(&mut made, prompt, output, from..edit.range.start);
            made.extend_from_slice(&edit.with);
            from = edit.range.end;
        }
        push(&mut made, prompt, output, from..prompt.len() + output.len());
        made
    }
}

/// Appends a range of two lists that stand one behind the other.
fn push(made: &mut Vec<Id>, prompt: &[Id], output: &[Id], range: Range<usize>) {
    let at = prompt.len();
    if range.start < at {
        made.extend_from_slice(&prompt[range.start..range.end.min(at)]);
    }
    if range.end > at {
        made.extend_from_slice(&output[range.start.max(at) - at..range.end - at]);
    }
}
