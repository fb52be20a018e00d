//! The core against `tests/golden/think.json`, which the reference twin wrote.
#![allow(clippy::unwrap_used)]

mod edited;

use edited::{with_tail, without_thinking};
use serde::Deserialize;
use std::collections::BTreeMap;
use tito_core::ids::think::{Opened, ThinkCounts, ThinkRule, cut, cut_into, keep_spans};
use tito_core::ids::turns::{Tail, TurnRule};
use tito_core::ids::{Id, Profile};

#[derive(Deserialize)]
struct Golden {
    profiles: BTreeMap<String, serde_json::Value>,
    cases: Vec<Case>,
    prompts: Vec<PromptCase>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    profile: String,
    opened: String,
    output: Vec<Id>,
    expected: Vec<Id>,
    spans: Vec<(usize, usize)>,
    flags: Vec<String>,
}

#[derive(Deserialize)]
struct PromptCase {
    name: String,
    profile: String,
    prompt: Vec<Id>,
    opened: String,
    tail: String,
    turn_starts: Vec<usize>,
    assistant_turns: Vec<(usize, usize)>,
    strip_all: Option<Vec<Id>>,
    counts: BTreeMap<String, u64>,
    no_think_tail: Option<Vec<Id>>,
    trims: Vec<(usize, Option<(usize, usize)>)>,
}

fn golden() -> (Golden, BTreeMap<String, TurnRule>) {
    let golden: Golden = serde_json::from_str(include_str!("../../../tests/golden/think.json")).unwrap();
    let rule = |json: &serde_json::Value| TurnRule::new(&Profile::from_json(&json.to_string()).unwrap());
    let rules = golden.profiles.iter().map(|(name, json)| (name.clone(), rule(json))).collect();
    (golden, rules)
}

fn opened(name: &str) -> Opened {
    match name {
        "yes" => Opened::Yes,
        "pair" => Opened::Pair,
        "no" => Opened::No,
        "unknown" => Opened::Unknown,
        other => panic!("no such state: {other}"),
    }
}

fn counts(of: &BTreeMap<String, u64>) -> ThinkCounts {
    ThinkCounts {
        seen: of["seen"],
        stripped: of["stripped"],
        absent: of["absent"],
        unterminated: of["unterminated"],
        odd: of["odd"],
        split_marker: of["split_marker"],
        cut_ids: of["cut_ids"],
    }
}

#[test]
fn outputs() {
    let (golden, rules) = golden();
    assert!(golden.cases.len() > 400);
    for case in &golden.cases {
        let (output, name) = (case.output.as_slice(), &case.name);
        let (kept, found) = rules[&case.profile].think().strip(output, opened(&case.opened));
        let spans: Vec<_> = found.spans.iter().map(|span| (span.start, span.end)).collect();
        let flags = [
            ("absent", found.absent),
            ("unterminated", found.unterminated),
            ("odd", found.odd),
            ("split_marker", found.split_marker),
            ("markers", found.markers),
        ];
        let flags: Vec<_> = flags.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
        assert_eq!(spans, case.spans, "{name}");
        assert_eq!(flags, case.flags, "{name}");
        assert_eq!(kept, case.expected, "{name}");
        let mut behind = vec![1, 2];
        cut_into(&mut behind, output, &found.spans);
        assert_eq!(behind[2..], cut(output, &found.spans), "{name}");
        let ranges = keep_spans(output.len(), &found.spans);
        assert_eq!(ranges.into_iter().flatten().map(|at| output[at]).collect::<Vec<_>>(), case.expected, "{name}");
    }
}

#[test]
fn batches() {
    let (golden, rules) = golden();
    for (name, rule) in &rules {
        let cases: Vec<_> = golden.cases.iter().filter(|case| case.profile == *name).collect();
        let states: Vec<_> = cases.iter().map(|case| opened(&case.opened)).collect();
        let (mut values, mut offsets, mut counts) = (vec![7, 7], vec![2], ThinkCounts::default());
        for case in &cases {
            values.extend_from_slice(&case.output);
            offsets.push(values.len() as i64);
            counts.add(&rule.think().find(&case.output, opened(&case.opened)));
        }
        let (kept, ends, batch_counts) = rule.think().strip_batch(&values, &offsets, &states).unwrap();
        assert_eq!(batch_counts, counts);
        assert_eq!(ends[0], 0);
        for (case, ends) in cases.iter().zip(ends.windows(2)) {
            assert_eq!(kept[ends[0] as usize..ends[1] as usize], case.expected, "{}", case.name);
        }
        let mut twice = counts;
        twice += counts;
        assert_eq!((twice.seen, twice.cut_ids), (2 * counts.seen, 2 * counts.cut_ids));
    }
}

#[test]
fn batches_refuse_wrong_offsets() {
    let (_, rules) = golden();
    let rule: &ThinkRule = rules["qwen3"].think();
    let one = [Opened::No];
    for offsets in [&[0, 5][..], &[2, 1], &[-1, 1], &[0, i64::MAX]] {
        assert!(rule.strip_batch(&[7, 8], offsets, &one).is_err(), "{offsets:?}");
    }
    assert!(rule.strip_batch(&[7, 8], &[0, 1, 2], &[Opened::No; 3]).is_err());
    for offsets in [&[][..], &[0]] {
        let (kept, ends, counts) = rule.strip_batch(&[7, 8], offsets, &one).unwrap();
        assert_eq!((kept, ends, counts), (vec![], vec![0], ThinkCounts::default()));
    }
}

#[test]
fn prompts() {
    let (golden, rules) = golden();
    assert!(golden.prompts.len() > 100);
    for case in &golden.prompts {
        let (rule, prompt, name) = (&rules[&case.profile], case.prompt.as_slice(), &case.name);
        let tail = match rule.tail_of(prompt) {
            Tail::Think => "think",
            Tail::NoThink => "no_think",
            Tail::Other => "other",
        };
        let turns: Vec<_> = rule.assistant_turns(prompt).map(|turn| (turn.start, turn.end)).collect();
        let (stripped, stripped_counts) = without_thinking(rule, prompt);
        assert_eq!(rule.think().opened_by(prompt), opened(&case.opened), "{name}");
        assert_eq!(tail, case.tail, "{name}");
        assert_eq!(rule.turn_starts(prompt), case.turn_starts, "{name}");
        assert_eq!(turns, case.assistant_turns, "{name}");
        assert_eq!(stripped, case.strip_all, "{name}");
        assert_eq!(stripped_counts, counts(&case.counts), "{name}");
        assert_eq!(with_tail(rule, prompt), case.no_think_tail, "{name}");
        for (max_len, dropped) in &case.trims {
            let trimmed = rule.trim_prompt(prompt, *max_len).map(|dropped| (dropped.start, dropped.end));
            assert_eq!(trimmed, *dropped, "{name} to {max_len}");
        }
    }
}
