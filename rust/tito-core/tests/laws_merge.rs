//! The forest against brute force: every call compared with every other, id by id; and changes of ids against lists
//! that are taken apart and put together again.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use tito_core::ids::Id;
use tito_core::ids::edit::Edits;
use tito_core::ids::merge::{Forest, shared};

type Call = (Vec<Id>, Vec<Id>);

/// How a call comes from those before it.
#[derive(Debug, Clone)]
enum Step {
    /// Its prompt is the sequence of another, and some more.
    Continue(prop::sample::Index, Vec<Id>, Vec<Id>),
    /// The same prompt.
    Retry(prop::sample::Index, Vec<Id>),
    /// The same prompt and output.
    Twin(prop::sample::Index),
    /// The same ids, cut elsewhere into prompt and output.
    Regrow(prop::sample::Index, prop::sample::Index),
    /// A prompt of its own.
    Start(Vec<Id>, Vec<Id>),
}

fn words(least: usize) -> impl Strategy<Value = Vec<Id>> {
    // Two words: prefixes meet by chance too.
    prop::collection::vec(0..2, least..6)
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let any = any::<prop::sample::Index>;
    let step = prop_oneof![
        4 => (any(), words(0), words(1)).prop_map(|(of, more, output)| Step::Continue(of, more, output)),
        1 => (any(), words(1)).prop_map(|(of, output)| Step::Retry(of, output)),
        1 => any().prop_map(Step::Twin),
        2 => (any(), any()).prop_map(|(of, at)| Step::Regrow(of, at)),
        1 => (words(1), words(1)).prop_map(|(prompt, output)| Step::Start(prompt, output)),
    ];
    prop::collection::vec(step, 1..24).prop_map(|steps| {
        let mut calls: Vec<Call> = vec![(vec![0], vec![1])];
        for step in steps {
            let next = match step {
                Step::Continue(of, more, output) => {
                    let (prompt, said) = of.get(&calls);
                    ([&prompt[..], said, &more].concat(), output)
                }
                Step::Retry(of, output) => (of.get(&calls).0.clone(), output),
                Step::Twin(of) => of.get(&calls).clone(),
                Step::Regrow(of, at) => {
                    let (prompt, said) = of.get(&calls);
                    let at = at.index(said.len());
                    ([&prompt[..], &said[..at]].concat(), said[at..].to_vec())
                }
                Step::Start(prompt, output) => (prompt, output),
            };
            calls.push(next);
        }
        calls
    })
}

fn sequence((prompt, output): &Call) -> Vec<Id> {
    [&prompt[..], output].concat()
}

/// Parents as the rule says; `ranks` breaks ties.
fn brute(calls: &[Call], ranks: &[usize]) -> Vec<Option<u32>> {
    let parent = |call: &Call| {
        let fits = (0..calls.len()).filter(|other| call.0.starts_with(&sequence(&calls[*other])));
        fits.max_by_key(|other| (sequence(&calls[*other]).len(), ranks[*other])).map(|other| other as u32)
    };
    calls.iter().map(parent).collect()
}

/// Parents by the forest. Calls that `leave` says no to are entered only.
fn grown(calls: &[Call], ranks: &[usize], leave: impl Fn(usize) -> bool) -> Vec<Option<u32>> {
    let mut order: Vec<usize> = (0..calls.len()).collect();
    order.sort_by_key(|call| calls[*call].0.len());
    let mut forest = Forest::new(calls.iter().map(|call| sequence(call).len()));
    let mut parents = vec![None; calls.len()];
    let mut before: Option<usize> = None;
    for call in order {
        let (prompt, output) = &calls[call];
        let with = |other: usize| shared((&calls[other].0, &calls[other].1), prompt);
        forest.enter(prompt, before.map_or(0, with));
        parents[call] = forest.candidate().map(|candidate| {
            // What is proven is so, and so is, as far as chance goes, what the hash says.
            assert!(with(candidate.call as usize) >= candidate.length);
            candidate.call
        });
        if leave(call) {
            forest.leave(call as u32, ranks[call], prompt, output);
        }
        before = Some(call);
    }
    parents
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_longest_prefix_is_found((calls, ranks) in calls().prop_flat_map(|calls| {
        let ranks: Vec<usize> = (0..calls.len()).collect();
        (Just(calls), Just(ranks).prop_shuffle())
    })) {
        prop_assert_eq!(grown(&calls, &ranks, |_| true), brute(&calls, &ranks));
    }

    /// A parent's whole sequence fits in its child's prompt and its output is not empty, so its prompt is shorter: no
    /// call comes to hang on itself, by whatever way.
    #[test]
    fn there_are_no_cycles(calls in calls()) {
        let ranks: Vec<usize> = (0..calls.len()).collect();
        for (call, parent) in grown(&calls, &ranks, |_| true).into_iter().enumerate() {
            if let Some(parent) = parent {
                prop_assert!(calls[parent as usize].0.len() < calls[call].0.len());
            }
        }
    }

    #[test]
    fn calls_that_did_not_leave_are_no_parents(calls in calls(), out in any::<u32>()) {
        let ranks: Vec<usize> = (0..calls.len()).collect();
        let stays = |call: usize| out >> (call % 32) & 1 == 1;
        let kept: Vec<usize> = (0..calls.len()).filter(|call| stays(*call)).collect();
        let parents = grown(&calls, &ranks, stays);
        for (call, parent) in parents.into_iter().enumerate() {
            let with: Vec<Call> = kept.iter().map(|at| calls[*at].clone()).chain([calls[call].clone()]).collect();
            let places: Vec<usize> = (0..with.len()).collect();
            // A twin of the call itself does not begin its own prompt.
            let expected = brute(&with, &places)[with.len() - 1].map(|at| kept[at as usize] as u32);
            prop_assert_eq!(parent, expected);
        }
    }

    #[test]
    fn changes_do_what_they_say(
        pieces in prop::collection::vec((prop::collection::vec(0..9, 0..5), prop::option::of(prop::collection::vec(10..19, 0..4))), 1..8),
        split in any::<prop::sample::Index>(),
        order in any::<u64>(),
    ) {
        // Each piece stays, or is replaced.
        let (mut before, mut after, mut changes, mut places) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (ids, with) in &pieces {
            let start = before.len();
            match with {
                Some(with) if !ids.is_empty() => {
                    changes.push((start..start + ids.len(), with));
                    after.extend_from_slice(with);
                }
                _ => {
                    places.extend((0..ids.len()).map(|at| (start + at, after.len() + at)));
                    after.extend_from_slice(ids);
                }
            }
            before.extend_from_slice(ids);
        }
        let mut edits = Edits::default();
        changes.sort_by_key(|(range, _)| (range.start as u64 + 1).wrapping_mul(order | 1));
        for (range, with) in &changes {
            edits.put(range.clone(), *with);
        }
        let at = split.index(before.len() + 1);
        prop_assert_eq!(edits.apply(&before[..at], &before[at..]), after.clone());
        prop_assert_eq!(edits.length(before.len()), after.len());
        prop_assert_eq!(edits.moved(before.len()), after.len());
        for (from, to) in places {
            prop_assert_eq!(edits.moved(from), to);
        }
        let first = changes.iter().map(|(range, _)| range.start).min();
        prop_assert_eq!(edits.touches(at), first.is_some_and(|first| first < at));
        prop_assert_eq!(edits.is_empty(), changes.is_empty());
    }
}
