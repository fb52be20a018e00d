//! Changes to a list of ids, made all at once: ranges replaced by other ids, and where each position goes.

use super::Id;
use std::borrow::Cow;
use std::ops::Range;

/// Ranges in ascending order, not overlapping, each with the ids that stand there afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits<'a> {
    list: Vec<(Range<usize>, Cow<'a, [Id]>)>,
}

impl<'a> Edits<'a> {
    /// Nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a change, wherever it stands among the others.
    pub fn put(&mut self, range: Range<usize>, with: impl Into<Cow<'a, [Id]>>) {
        let at = self.list.partition_point(|(other, _)| other.start < range.start);
        self.list.insert(at, (range, with.into()));
    }

    /// The length afterwards of a list that is `length` long.
    #[must_use]
    pub fn length(&self, length: usize) -> usize {
        self.list.iter().fold(length, |sum, (range, with)| sum - range.len() + with.len())
    }

    /// Where a position goes. One inside a range goes to the end of what replaces it.
    #[must_use]
    pub fn moved(&self, position: usize) -> usize {
        let before = self.list.iter().take_while(|(range, _)| range.start < position);
        before.fold(position, |sum, (range, with)| sum + with.len() - range.end.min(position) + range.start)
    }

    /// The ids afterwards.
    #[must_use]
    pub fn apply(&self, ids: &[Id]) -> Vec<Id> {
        let mut made = Vec::with_capacity(self.length(ids.len()));
        let mut from = 0;
        for (range, with) in &self.list {
            made.extend_from_slice(&ids[from..range.start]);
            made.extend_from_slice(with);
            from = range.end;
        }
        made.extend_from_slice(&ids[from..]);
        made
    }
}
