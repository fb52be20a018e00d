//! Laws of stripping, on small alphabets in which markers overlap and cuts join them.
#![allow(clippy::unwrap_used)]

mod edited;

use edited::{with_tail, without_thinking};
use proptest::prelude::*;
use std::ops::Range;
use tito_core::ids::think::{Found, Opened, ThinkRule, cut, keep_spans};
use tito_core::ids::turns::{Tail, TurnRule};
use tito_core::ids::{Id, Marker, Profile};

const IDS: Id = 5;

fn opened() -> impl Strategy<Value = Opened> {
    prop_oneof![Just(Opened::Yes), Just(Opened::Pair), Just(Opened::No), Just(Opened::Unknown)]
}

fn ids(max: usize) -> impl Strategy<Value = Vec<Id>> {
    prop::collection::vec(0..IDS, 0..max)
}

fn marker(max_len: usize) -> impl Strategy<Value = Marker> {
    prop::collection::vec(prop::collection::vec(0..IDS, 1..=max_len), 1..=2)
}

/// Markers of up to `max_len` ids, drawn without regard for each other.
fn profile(max_len: usize) -> impl Strategy<Value = Profile> {
    let think = (marker(max_len), marker(max_len), prop::option::of(marker(max_len)), any::<bool>(), ids(3));
    let turns = (marker(max_len), marker(max_len), marker(max_len), ids(4), prop::option::of(ids(4)));
    (think, turns).prop_map(|(think, turns)| {
        let (think_open, think_close, tool_open, lone_close, after_close) = think;
        let (turn_start, assistant_start, turn_end, tail_think, tail_no_think) = turns;
        let tool_open = tool_open.unwrap_or_default();
        let profile = plain(lone_close);
        Profile {
            vocab_size: IDS,
            id_limit: IDS,
            think_open,
            think_close,
            after_close,
            tool_open,
            turn_start,
            assistant_start,
            turn_end,
            tail_think,
            tail_no_think,
            history_pair: false,
            ..profile
        }
    })
}

/// One id a marker, as nearly all tokenizers have it; ids 0 and 1 are text.
fn plain(lone_close: bool) -> Profile {
    let profile = Profile::from_json(
        r#"{"version": 1, "name": "plain", "vocab_size": 9, "id_limit": 9, "think_open": [[2]], "think_close": [[3]],
            "stray_think": [], "lone_close": true, "after_close": [1], "tool_open": [[4]], "turn_start": [[5]],
            "assistant_start": [[5, 6]], "turn_end": [[7]], "stop_ids": [7], "prompt_start": [], "tail_think": [5, 6],
            "tail_no_think": [5, 6, 2, 1, 3, 1], "history_pair": false, "tokenizer_hash": "", "template_hash": ""}"#,
    );
    Profile { lone_close, ..profile.unwrap() }
}

fn check_spans(found: &Found, len: usize) -> Result<(), TestCaseError> {
    for span in &found.spans {
        prop_assert!(span.start < span.end && span.end <= len, "{span:?} of {len}");
    }
    for pair in found.spans.windows(2) {
        prop_assert!(pair[0].end < pair[1].start, "{pair:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn strip_leaves_nothing_to_strip(profile in profile(3), output in ids(24), opened in opened()) {
        let rule = ThinkRule::new(&profile);
        let (once, found) = rule.strip(&output, opened);
        check_spans(&found, output.len())?;
        let (twice, again) = rule.strip(&once, Opened::No);
        prop_assert_eq!(&twice, &once);
        prop_assert!(again.spans.is_empty());
    }

    #[test]
    fn cut_and_keep_are_complements(profile in profile(2), output in ids(24), opened in opened()) {
        let found = ThinkRule::new(&profile).find(&output, opened);
        let kept = keep_spans(output.len(), &found.spans);
        let by_keeping: Vec<Id> = kept.iter().cloned().flatten().map(|at| output[at]).collect();
        prop_assert_eq!(&by_keeping, &cut(&output, &found.spans));
        let mut all: Vec<_> = kept.into_iter().chain(found.spans.clone()).flatten().collect();
        all.sort_unstable();
        prop_assert!(all.into_iter().eq(0..output.len()));
        prop_assert_eq!(by_keeping.len() + found.cut_ids(), output.len());
    }

    #[test]
    fn memory_used_again_changes_nothing(
        profile in profile(2),
        first in ids(16),
        second in ids(16),
        opened in opened(),
    ) {
        let rule = ThinkRule::new(&profile);
        let mut found = rule.find(&first, opened);
        rule.find_into(&second, opened, &mut found);
        prop_assert_eq!(found, rule.find(&second, opened));
    }

    #[test]
    fn single_ids(output in ids(24), opened in opened(), lone_close: bool) {
        let (kept, found) = ThinkRule::new(&plain(lone_close)).strip(&output, opened);
        check_spans(&found, output.len())?;
        prop_assert!(!found.split_marker);
        prop_assert!(!(found.absent && (found.odd || found.unterminated || found.markers || !found.spans.is_empty())));
        // Nothing is cut behind a tool call, and each span ends in a closer and its newlines.
        let tool = output.iter().position(|id| *id == 4).unwrap_or(output.len());
        for span in &found.spans {
            prop_assert!(span.end <= tool);
            prop_assert_eq!(output[span.clone()].iter().rev().find(|id| **id != 1), Some(&3));
            prop_assert!(output.get(span.end) != Some(&1));
        }
        // A closer that stays is odd, unless it is an ordinary turn end.
        prop_assert!(!lone_close || found.odd || !kept.contains(&3));
        // Without markers the state decides alone.
        if !output.iter().any(|id| [2, 3].contains(id)) {
            prop_assert_eq!(&kept, &output);
            prop_assert_eq!(found.unterminated, opened == Opened::Yes);
            prop_assert_eq!(found.absent, opened != Opened::Yes);
        }
        if opened == Opened::Yes || (opened == Opened::Unknown && lone_close) {
            let closer = output.iter().position(|id| *id == 3).filter(|at| *at < tool);
            prop_assert_eq!(found.spans.first().map(|span| span.start), closer.map(|_| 0));
        }
    }

    /// Text is passed over by a floor or by first ids, in blocks and one by one.
    #[test]
    fn every_way_over_text_finds_the_same(
        output in prop::collection::vec(prop_oneof![4 => Just(0), 1 => 1..IDS], 0..40),
        text in 0usize..150,
        opened in opened(),
    ) {
        let long: Vec<Id> = output.iter().flat_map(|id| vec![*id; if *id == 0 { text } else { 1 }]).collect();
        let by_few = ThinkRule::new(&plain(true)).find(&long, opened);
        let mut profile = plain(true);
        profile.tool_open.extend([vec![8, 8], vec![7, 7]]);
        prop_assert_eq!(&ThinkRule::new(&profile).find(&long, opened), &by_few);
        // The same ids at the end of a large vocabulary.
        let raised = |ids: &[Id]| ids.iter().map(|id| if *id == 0 { 0 } else { id + 90_000 }).collect::<Vec<_>>();
        let profile = Profile {
            vocab_size: 90_009,
            id_limit: 90_009,
            think_open: vec![vec![90_002]],
            think_close: vec![vec![90_003]],
            tool_open: vec![vec![90_004]],
            after_close: vec![90_001],
            ..plain(true)
        };
        prop_assert_eq!(&ThinkRule::new(&profile).find(&raised(&long), opened), &by_few);
    }

    #[test]
    fn prompts_are_only_touched_in_closed_assistant_turns(profile in profile(2), prompt in ids(40)) {
        let rule = TurnRule::new(&profile);
        let turns: Vec<Range<usize>> = rule.assistant_turns(&prompt).collect();
        prop_assert!(turns.iter().all(|turn| turn.start <= turn.end && turn.end < prompt.len()));
        prop_assert!(turns.windows(2).all(|pair| pair[0].end < pair[1].start));
        let (stripped, counts) = without_thinking(&rule, &prompt);
        prop_assert_eq!(counts.seen, turns.len() as u64);
        prop_assert_eq!(stripped.is_some(), counts.cut_ids > 0);
        let turn_by_turn = |opened| {
            let (mut kept, mut from) = (vec![], 0);
            for turn in &turns {
                kept.extend_from_slice(&prompt[from..turn.start]);
                kept.extend(rule.think().strip(&prompt[turn.clone()], opened).0);
                from = turn.end;
            }
            kept.extend_from_slice(&prompt[from..]);
            kept
        };
        let stripped = stripped.unwrap_or_else(|| prompt.clone());
        prop_assert!(stripped == turn_by_turn(Opened::No) || stripped == turn_by_turn(Opened::Pair));
        prop_assert_eq!(stripped.len() as u64 + counts.cut_ids, prompt.len() as u64);
    }

    #[test]
    fn stripped_prompts_stay_stripped(prompt in prop::collection::vec(0..8, 0..60)) {
        let rule = TurnRule::new(&plain(true));
        if let (Some(stripped), _) = without_thinking(&rule, &prompt) {
            prop_assert_eq!(without_thinking(&rule, &stripped).0, None);
            prop_assert_eq!(rule.turn_starts(&stripped).len(), rule.turn_starts(&prompt).len());
            prop_assert_eq!(rule.think().opened_by(&stripped), rule.think().opened_by(&prompt));
        }
    }

    #[test]
    fn tails(profile in profile(2), prompt in ids(16)) {
        let rule = TurnRule::new(&profile);
        let tail = rule.tail_of(&prompt);
        let Some(rewritten) = with_tail(&rule, &prompt) else {
            prop_assert!(tail == Tail::Other || profile.tail_no_think.is_none());
            return Ok(());
        };
        let no_think = profile.tail_no_think.clone().unwrap();
        let tail_len = if tail == Tail::NoThink { no_think.len() } else { profile.tail_think.len() };
        let head = &prompt[..prompt.len() - tail_len];
        prop_assert_eq!(rewritten, [head, &no_think].concat());
    }

    #[test]
    fn trimming(profile in profile(2), prompt in ids(40), max_len in 0usize..44) {
        let rule = TurnRule::new(&profile);
        let starts = rule.turn_starts(&prompt);
        let dropped = rule.trim_prompt(&prompt, max_len);
        match &dropped {
            Some(dropped) if dropped.is_empty() => prop_assert!(prompt.len() <= max_len),
            Some(dropped) => {
                prop_assert!(prompt.len() - dropped.len() <= max_len);
                prop_assert!(starts.contains(&dropped.start) && starts.contains(&dropped.end));
                prop_assert!(starts[..2].contains(&dropped.start));
                // What stays behind begins with an answer only where one followed the turn that stays before.
                let answers = |at: usize| profile.assistant_start.iter().any(|header| prompt[at..].starts_with(header));
                let asked = dropped.start != starts[0] && answers(dropped.start);
                prop_assert_eq!(answers(dropped.end), asked);
                // One turn less would not do.
                let one_less = starts.iter().rev().find(|start| **start < dropped.end && answers(**start) == asked);
                let one_less = one_less.map_or(dropped.start, |start| dropped.start.max(*start));
                prop_assert!(prompt.len() - (one_less - dropped.start) > max_len);
            }
            None => prop_assert!(prompt.len() > max_len),
        }
        prop_assert!(dropped.is_none() || rule.trim_prompt(&prompt, max_len + 1).is_some());
    }
}
