//! One rollout that is in memory already, through the same policies.

use super::batch::{Arena, batches};
use super::build::{Plan, Planned, settle};
use super::ledger::Ledger;
use super::report::Counts;
use super::rollout::Rollout;
use super::sight::sight;
use super::survey::{Noted, Survey};
use crate::capture::{Call, Finish, Parsed, Piece, Who};
use crate::error::{Error, Result};
use crate::ids::Id;
use crate::ids::weight::Copies;
use crate::rows::{Batch, Text};
use serde::Deserialize;
use std::fmt::Debug;
use std::ops::Range;

/// What is known of a call besides its ids; names as in the project's own JSON lines.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallFacts {
    rollout_id: Option<Text>,
    task_id: Option<Text>,
    pair_id: Option<Text>,
    agent: Option<Text>,
    status: Option<String>,
    attempt: Option<i32>,
    reward: Option<f32>,
    source: Option<Text>,
    call_id: Option<Text>,
    choice: i32,
    kind: Option<Text>,
    turn: Option<i32>,
    annotations: std::collections::BTreeMap<Text, Text>,
    started: Option<f64>,
    finish: Option<String>,
    stop_string: bool,
    stop_token_ids: Vec<Id>,
    parse_error: bool,
}

fn add<T: Copy>(arena: &mut Vec<T>, values: &[T]) -> Range<usize> {
    arena.extend_from_slice(values);
    arena.len() - values.len()..arena.len()
}

/// A prompt that goes on from the one before shares its memory. Gives where it lies, and how many of its ids are that
/// one's.
fn add_prompt(arena: &mut Vec<Id>, before: Option<Range<usize>>, prompt: &[Id]) -> (Range<usize>, usize) {
    match before.filter(|before| before.end == arena.len() && prompt.starts_with(&arena[before.clone()])) {
        Some(before) => {
            arena.extend_from_slice(&prompt[before.len()..]);
            (before.start..arena.len(), before.len())
        }
        None => (add(arena, prompt), 0),
    }
}

/// The largest of some ids, -1 of none.
fn largest(ids: &[Id], name: &str) -> Result<Id> {
    // One bit of the union tells of them all.
    let (largest, bits) = ids.iter().fold((-1, 0), |(most, bits), id| ((*id).max(most), bits | id));
    match ids.iter().find(|id| bits < 0 && **id < 0) {
        None => Ok(largest),
        Some(id) => Err(Error::usage(
            format!("{name}: {id} is no id"),
            "ids are one-dimensional arrays (or lists) of whole numbers from 0 to 2147483647",
        )),
    }
}

/// Refuses calls of different rollouts: the rows of one would go by the name, the task and the reward of another.
fn one_rollout(facts: &[CallFacts]) -> Result<()> {
    fn same<'f, T: PartialEq + Debug + 'f>(
        facts: &'f [CallFacts],
        name: &str,
        of: impl Fn(&'f CallFacts) -> Option<&'f T>,
    ) -> Result<()> {
        let mut said = facts.iter().enumerate().filter_map(|(call, facts)| Some((call, of(facts)?)));
        let Some((first, one)) = said.next() else { return Ok(()) };
        let Some((other, another)) = said.find(|(_, value)| *value != one) else { return Ok(()) };
        Err(Error::usage(
            format!("calls {first} and {other} are not of one rollout: {name} {one:?} and {another:?}"),
            "give the calls of one rollout at a time; what is not known of a call may be None",
        ))
    }
    same(facts, "rollout_id", |facts| facts.rollout_id.as_ref())?;
    same(facts, "task_id", |facts| facts.task_id.as_ref())?;
    same(facts, "pair_id", |facts| facts.pair_id.as_ref())?;
    same(facts, "agent", |facts| facts.agent.as_ref())?;
    same(facts, "attempt", |facts| facts.attempt.as_ref())
}

/// The ids of a rollout's calls, taken one call at a time: nothing of the caller's is held on to.
#[derive(Debug, Default)]
pub struct Given {
    parsed: Parsed<'static>,
    /// The largest id of the prompt before.
    max_before: Id,
}

impl Given {
    /// None so far. Prompts that go on from each other take as much memory as the `longest` with its output.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        let mut given = Self::default();
        given.parsed.prompts.values.reserve_exact(longest);
        given
    }

    /// Takes prompt, output and, where there are any, logprobs of the next call.
    ///
    /// # Errors
    /// `Usage` for a negative id.
    pub fn push(&mut self, prompt: &[Id], output: &[Id], logprobs: Option<&[f32]>) -> Result<()> {
        let parsed = &mut self.parsed;
        let before = parsed.calls.last().and_then(|call| call.prompt.clone());
        let (range, known) = add_prompt(&mut parsed.prompts.values, before, prompt);
        let in_prompt = largest(&prompt[known..], "prompt_ids")?.max(if known > 0 { self.max_before } else { -1 });
        self.max_before = in_prompt;
        parsed.calls.push(Call {
            prompt: Some(range),
            output: Some(add(&mut parsed.outputs.values, output)),
            logprobs: logprobs.map(|values| add(&mut parsed.logprobs, values)),
            max_id: in_prompt.max(largest(output, "output_ids")?),
            ..Call::default()
        });
        Ok(())
    }
}

/// Makes the rows of one rollout.
///
/// # Errors
/// `Usage` when the lists differ in length or the calls are of several rollouts, `Check` when a policy cannot be applied.
pub fn expand(plan: &mut Plan, given: Given, facts: Vec<CallFacts>) -> Result<(Vec<Batch>, Counts)> {
    let mut parsed = given.parsed;
    if parsed.calls.len() != facts.len() {
        return Err(Error::usage(
            format!("{} calls with {} facts", parsed.calls.len(), facts.len()),
            "give one of each a call",
        ));
    }
    one_rollout(&facts)?;
    let mut who = Who::default();
    let mut calls = std::mem::take(&mut parsed.calls);
    for (index, (call, facts)) in calls.iter_mut().zip(facts).enumerate() {
        *call = Call {
            finish: facts.finish.as_deref().map_or(Finish::Unknown, Finish::parse),
            stop_string: facts.stop_string,
            stop_ids: facts.stop_token_ids.into(),
            call_id: facts.call_id,
            choice: facts.choice,
            kind: facts.kind,
            turn: facts.turn,
            notes: facts.annotations.into_iter().collect(),
            started: facts.started,
            parse_error: facts.parse_error,
            record: index as u64 + 1,
            reply: 0,
            ..std::mem::take(call)
        };
        parsed.check_logprobs(call);
        let more = Who {
            rollout_id: facts.rollout_id,
            task_id: facts.task_id,
            pair_id: facts.pair_id,
            agent: facts.agent,
            status: facts.status.as_deref().map(|word| crate::capture::status(word).into()),
            attempt: facts.attempt,
            reward: facts.reward,
            source: facts.source,
            ..Who::default()
        };
        who.join(&more, true);
    }
    parsed.calls = calls;
    let file: Text = "memory".into();
    parsed.pieces.push(Piece {
        who: who.clone(),
        calls: 0..parsed.calls.len(),
        complete: true,
        numbered: false,
        scope: "".into(),
        file,
        format: "memory",
    });
    let mut sighted = sight(&parsed, &plan.identities);
    plan.enter(&mut Ledger::default(), &parsed, &mut sighted)?;
    let rows = |plan: &Plan| -> Result<(Vec<Planned>, Counts)> {
        let (mut counts, mut planned) = (Counts::default(), Vec::new());
        let rollout = Rollout::new(&who, 0, sighted.clone(), (false, true), parsed.view());
        plan.rows(&rollout, &mut planned, &mut counts).map(|()| (planned, counts))
    };
    if plan.options.needs_survey().is_some() {
        let mut survey = Survey::default();
        survey.add(&plan.options, Noted::all(&rows(plan)?.0), |_| None);
        plan.weighing = survey.settle(&plan.options)?;
    }
    let plan = &*plan;
    let (mut planned, mut counts) = rows(plan)?;
    settle(plan, &mut planned, &mut Copies::new(plan.options.seed), &mut counts);
    super::judge_counts(plan, &counts)?;
    let arena = Arena { prompts: parsed.prompts.values, outputs: parsed.outputs.values, logprobs: parsed.logprobs };
    let mut made = Vec::new();
    batches(plan, planned, arena, |_, batch| {
        made.push(std::mem::take(batch));
        Ok(())
    })?;
    Ok((made, counts))
}
