//! The last lists of a kind, as text, which the next one is compared with: what a rollout says, it says again.

use crate::ids::common_prefix;
use std::borrow::Cow;

/// How many lists are kept: one per rollout that is live at one place of a dump.
const RECENT: usize = 24;

#[derive(Debug)]
struct Entry<'a, T> {
    /// From the opening bracket to the closing one, both included.
    text: Cow<'a, [u8]>,
    known: T,
}

/// See the module. `T` is what is known of a list.
#[derive(Debug)]
pub(super) struct Recent<'a, T>(Vec<Entry<'a, T>>);

impl<T> Default for Recent<'_, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A list that another one begins like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nearest {
    index: usize,
    /// Bytes that both begin with.
    pub(super) common: usize,
}

impl<'a, T> Recent<'a, T> {
    /// The list that what follows begins like the longest, of those that may be compared.
    pub(super) fn nearest(&self, rest: &[u8], may_be: impl Fn(&T) -> bool) -> Option<Nearest> {
        let mut best: Option<Nearest> = None;
        for (index, entry) in self.0.iter().enumerate().rev().filter(|(_, entry)| may_be(&entry.known)) {
            let common = common_prefix(&entry.text, rest);
            if best.is_none_or(|best| common > best.common) {
                best = Some(Nearest { index, common });
            }
            if common + 1 >= entry.text.len() {
                break;
            }
        }
        best
    }

    pub(super) fn known(&self, nearest: Nearest) -> &T {
        &self.0[nearest.index].known
    }

    /// Remembers a list. One that goes on from more than half of its nearest takes its place: one entry a rollout.
    pub(super) fn remember(&mut self, text: &'a [u8], known: T, nearest: Option<Nearest>) {
        match nearest {
            Some(Nearest { index, common }) if common * 2 > self.0[index].text.len() => {
                self.0.remove(index);
            }
            _ if self.0.len() == RECENT => {
                self.0.remove(0);
            }
            _ => {}
        }
        self.0.push(Entry { text: Cow::Borrowed(text), known });
    }

    /// Bytes of the lists, with those that `size` says of what is known of them.
    #[cfg(test)]
    pub(super) fn bytes(&self, size: impl Fn(&T) -> usize) -> usize {
        self.0.iter().map(|entry| entry.text.len() + size(&entry.known)).sum()
    }

    /// Takes the last lists out, as many as `bytes` hold, to compare other text with.
    pub(super) fn keep(
        &mut self,
        bytes: usize,
        size: impl Fn(&T) -> usize,
        kept: impl Fn(T) -> T,
    ) -> Recent<'static, T> {
        let mut entries = std::mem::take(&mut self.0);
        let mut left = bytes;
        let mut fits = |entry: &Entry<'a, T>| {
            let size = entry.text.len() + size(&entry.known);
            left.checked_sub(size).inspect(|rest| left = *rest).is_some()
        };
        let first = entries.len() - entries.iter().rev().take_while(|entry| fits(entry)).count();
        let own = |entry: Entry<'a, T>| Entry { text: Cow::Owned(entry.text.into_owned()), known: kept(entry.known) };
        Recent(entries.drain(first..).map(own).collect())
    }
}
