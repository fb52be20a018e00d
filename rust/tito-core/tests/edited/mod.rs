//! Prompts with what a policy changes in them, put together as the conversion does it.

use tito_core::ids::Id;
use tito_core::ids::edit::Edits;
use tito_core::ids::think::ThinkCounts;
use tito_core::ids::turns::TurnRule;

/// The prompt without the thinking of closed assistant turns, `None` where it has none; the counts are of turns.
pub fn without_thinking(rule: &TurnRule, prompt: &[Id]) -> (Option<Vec<Id>>, ThinkCounts) {
    let (spans, counts) = rule.history_spans(prompt);
    let mut edits = Edits::default();
    spans.into_iter().for_each(|span| edits.put(span, &[][..]));
    ((!edits.is_empty()).then(|| edits.apply(prompt, &[])), counts)
}

/// The prompt with the no-thinking tail, `None` where there is none to put.
pub fn with_tail(rule: &TurnRule, prompt: &[Id]) -> Option<Vec<Id>> {
    let (range, with) = rule.no_think_edit(prompt)?;
    let mut edits = Edits::default();
    edits.put(range, with);
    Some(edits.apply(prompt, &[]))
}
