//! What is found out about a call before any policy looks at it, and the order in which a rollout's calls stand.

use super::identity::Identities;
use crate::capture::{Call, Finish, Parsed, Skip};
use crate::error::Place;
use crate::ids::Id;
use crate::rows::Text;
use serde::{Deserialize, Serialize};
use twox_hash::xxhash3_128;

/// Lengths and hashes of a call's ids. Where the ids themselves are not at hand it stands for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest {
    /// Ids of the prompt.
    pub prompt: u32,
    /// Ids of the output.
    pub output: u32,
    /// Hash of the prompt.
    pub prompt_hash: u64,
    /// Hash of prompt and output: what the `capture_hash` column holds.
    pub hash: [u8; 16],
}

impl Digest {
    /// xxh3-128 over prompt and output (32 bit, little endian each) and the prompt's length (64 bit). The length stands
    /// last, so that a prompt's hash goes on from that of the prompt it goes on from.
    #[must_use]
    pub fn of(prompt: &[Id], output: &[Id]) -> Self {
        Digests::default().next(prompt, output, 0)
    }

    /// Ids of prompt and output.
    #[must_use]
    pub fn length(&self) -> usize {
        self.prompt as usize + self.output as usize
    }
}

/// Digests of calls, each hashed only where its prompt is new.
#[derive(Default)]
struct Digests {
    /// The last prompt, hashed.
    prompt: xxhash3_128::Hasher,
}

impl Digests {
    /// The digest of a call whose prompt begins with the `shared` ids that were the whole prompt before; 0 if it does not.
    fn next(&mut self, prompt: &[Id], output: &[Id], shared: usize) -> Digest {
        if shared == 0 {
            self.prompt = xxhash3_128::Hasher::new();
        }
        self.prompt.write(bytemuck::cast_slice(&prompt[shared..]));
        let mut whole = self.prompt.clone();
        whole.write(bytemuck::cast_slice(output));
        whole.write(&(prompt.len() as u64).to_le_bytes());
        Digest {
            prompt: prompt.len() as u32,
            output: output.len() as u32,
            prompt_hash: self.prompt.finish_128() as u64,
            hash: whole.finish_128().to_be_bytes(),
        }
    }
}

/// A call and what was found out about it before its row is made.
#[derive(Debug, Clone)]
pub struct Sighted<'a> {
    /// The call.
    pub call: &'a Call,
    /// File as the user named it.
    pub file: &'a Text,
    /// Format.
    pub format: &'static str,
    /// Whose ids these are.
    pub identity: Option<usize>,
    /// Lengths and hashes of the ids; missing lists count as empty.
    pub digest: Digest,
    /// Turn as the rollout numbers it.
    pub turn: Option<i32>,
    /// Another call of the rollout has the same prompt.
    pub retried: bool,
    /// Known already to give no row.
    pub skip: Option<Skip>,
}

impl Sighted<'_> {
    pub(super) fn place(&self) -> Place {
        Place::record(self.file, self.call.record).at_turn(self.turn)
    }

    /// Whether the two are choices of one reply.
    pub(super) fn same_reply(&self, other: &Self) -> bool {
        match (&self.call.call_id, &other.call.call_id) {
            (Some(a), Some(b)) => a == b,
            (None, None) => {
                let at = |s: &Self| (s.call.record, s.call.reply);
                at(self) == at(other) && self.file == other.file
            }
            _ => false,
        }
    }

    /// Calls without a time stand last.
    fn time(&self) -> f64 {
        self.call.started.unwrap_or(f64::INFINITY)
    }
}

/// Looks at the calls of a stretch: everything that needs no knowledge of other stretches.
#[must_use]
pub fn sight<'a>(parsed: &'a Parsed<'_>, identities: &Identities) -> Vec<Sighted<'a>> {
    let mut sighted = Vec::with_capacity(parsed.calls.len());
    let (mut digests, mut before) = (Digests::default(), 0..0);
    for piece in &parsed.pieces {
        for call in &parsed.calls[piece.calls.clone()] {
            let prompt = call.prompt.as_ref().map(|range| &parsed.prompts.values[range.clone()]);
            let output = call.output.as_ref().map(|range| &parsed.outputs.values[range.clone()]);
            // Prompts that go on from each other may lie in the same memory.
            let range = call.prompt.clone().unwrap_or_default();
            let goes_on = range.start == before.start && range.end >= before.end;
            let shared = if goes_on { before.len() } else { 0 };
            before = range;
            sighted.push(Sighted {
                call,
                file: &piece.file,
                format: piece.format,
                identity: prompt.and_then(|prompt| identities.of(prompt)),
                digest: digests.next(prompt.unwrap_or_default(), output.unwrap_or_default(), shared),
                turn: call.turn,
                retried: false,
                skip: None,
            });
        }
    }
    sighted
}

/// Numbers the turns of a rollout where its format has not, marks retries, and gives the order of its rows: by turn,
/// then start time, then call id.
#[must_use]
pub fn arrange(calls: &mut [Sighted<'_>], numbered: bool, known_rollout: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..calls.len()).collect();
    if !numbered && known_rollout && calls.iter().all(|c| !is_solver(c) || c.turn.is_none()) {
        // Histories grow, so among calls of one second the longer prompt came later. Without times the order of the
        // input is all there is.
        if calls.iter().all(|c| c.call.started.is_some()) {
            order.sort_by(|a, b| {
                let (a, b) = (&calls[*a], &calls[*b]);
                let by_prompt = || a.digest.prompt.cmp(&b.digest.prompt);
                a.time().total_cmp(&b.time()).then_with(by_prompt).then_with(|| by_name(a, b))
            });
        }
        number(calls, &order);
    }
    order.sort_by(|a, b| {
        let (a, b) = (&calls[*a], &calls[*b]);
        let turn = |c: &Sighted<'_>| c.turn.unwrap_or(i32::MAX);
        turn(a).cmp(&turn(b)).then(a.time().total_cmp(&b.time())).then_with(|| by_name(a, b))
    });
    mark_retries(calls);
    order
}

fn by_name(a: &Sighted<'_>, b: &Sighted<'_>) -> std::cmp::Ordering {
    a.call.call_id.cmp(&b.call.call_id).then(a.call.choice.cmp(&b.call.choice))
}

fn is_solver(c: &Sighted<'_>) -> bool {
    let failed = c.call.failed || c.call.finish == Finish::Failed;
    c.call.kind.as_deref().is_none_or(|kind| kind == "solver") && c.skip.is_none() && !failed
}

/// Choices of one reply are siblings; a dropped reply carries the number of the next kept one.
fn number(calls: &mut [Sighted<'_>], order: &[usize]) {
    let mut turn = -1;
    let mut last: Option<usize> = None;
    for &at in order {
        calls[at].turn = None;
        if is_solver(&calls[at]) {
            if !last.is_some_and(|last| calls[last].same_reply(&calls[at])) {
                turn += 1;
                last = Some(at);
            }
            calls[at].turn = Some(turn);
            let call = calls[at].call;
            if call.parse_error || matches!(call.set_aside, Some(Skip::Dropped | Skip::Unconsumed)) {
                turn -= 1;
                last = None;
            }
        }
    }
}

fn mark_retries(calls: &mut [Sighted<'_>]) {
    let key = |c: &Sighted<'_>| (c.digest.prompt, c.digest.prompt_hash);
    let mut by_prompt: Vec<usize> =
        (0..calls.len()).filter(|i| calls[*i].skip.is_none() && calls[*i].call.prompt.is_some()).collect();
    by_prompt.sort_by_key(|i| key(&calls[*i]));
    let mut retried = Vec::new();
    for group in by_prompt.chunk_by(|a, b| key(&calls[*a]) == key(&calls[*b])).filter(|group| group.len() > 1) {
        retried.extend_from_slice(group);
    }
    for at in retried {
        calls[at].retried = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn digests_that_go_on_are_those_of_calls_alone(
            calls in prop::collection::vec((any::<bool>(), 0usize..700, 0usize..300), 1..12),
        ) {
            let (mut digests, mut prompt, mut shared) = (Digests::default(), Vec::<Id>::new(), 0);
            for (n, (goes_on, new, output)) in calls.into_iter().enumerate() {
                if !goes_on {
                    prompt.clear();
                    shared = 0;
                }
                prompt.extend((0..new as Id).map(|id| id * 7 + n as Id));
                let output: Vec<Id> = (0..output as Id).collect();
                prop_assert_eq!(digests.next(&prompt, &output, shared), Digest::of(&prompt, &output));
                shared = prompt.len();
            }
        }
    }
}
