//! From planned rows to batches: ids are gathered, or left where they lie when no row differs from its call.

use super::build::{Logprobs, Plan, Planned, Prompt};
use super::survey::Side;
use crate::capture::Parsed;
use crate::error::Result;
use crate::ids::think::{cut_into, keep_spans};
use crate::ids::{Id, loss};
use crate::rows::{Batch, LossSpan, OptionalColumns, Ragged, RowMeta};
use std::ops::Range;

/// Ids of a batch at most (a page of them is 8 MiB).
const BATCH_IDS: usize = 2 << 20;

/// What the ranges of a stretch's calls point into.
#[derive(Debug, Default)]
pub struct Arena {
    /// Prompts.
    pub prompts: Vec<Id>,
    /// Outputs.
    pub outputs: Vec<Id>,
    /// Logprobs.
    pub logprobs: Vec<f32>,
}

/// The same, to look at.
#[derive(Debug, Clone, Copy)]
pub struct Ids<'a> {
    /// Prompts.
    pub prompts: &'a [Id],
    /// Outputs.
    pub outputs: &'a [Id],
    /// Logprobs.
    pub logprobs: &'a [f32],
}

impl Arena {
    /// What it holds.
    #[must_use]
    pub fn view(&self) -> Ids<'_> {
        Ids { prompts: &self.prompts, outputs: &self.outputs, logprobs: &self.logprobs }
    }
}

impl Parsed<'_> {
    /// What the ranges of its calls point into.
    #[must_use]
    pub fn view(&self) -> Ids<'_> {
        Ids { prompts: &self.prompts.values, outputs: &self.outputs.values, logprobs: &self.logprobs }
    }
}

/// Which file rows go to.
pub type Target = (Option<usize>, Side);

/// Makes batches of planned rows, each handed on before the next is made, and gives the arena's memory back. Rows of
/// different identities or sides never share a batch; prompts that no policy changed are not copied.
///
/// # Errors
/// Whatever `emit` returns.
pub fn batches(
    plan: &Plan,
    planned: Vec<Planned>,
    mut arena: Arena,
    mut emit: impl FnMut(Target, &mut Batch) -> Result<()>,
) -> Result<Arena> {
    // A shard ends between batches, so they are a fraction of it.
    let most = plan.options.shard_tokens.map_or(BATCH_IDS, |size| (size / 8).clamp(1, BATCH_IDS));
    let mut groups: Vec<(Target, Vec<Planned>)> = Vec::new();
    for row in planned {
        let target = (row.identity, row.side);
        match groups.iter_mut().find(|(known, _)| *known == target) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((target, vec![row])),
        }
    }
    if let [(target, rows)] = &groups[..]
        && let Some(ranges) = as_they_lie(rows, &mut arena, most)
    {
        let prompts = Ragged { values: std::mem::take(&mut arena.prompts), ranges };
        let mut rest = Gather::new(plan);
        rows.iter().for_each(|row| rest.add_output(row, 0, &arena));
        let shapes: Vec<_> = prompts.ranges.iter().map(ExactSizeIterator::len).collect();
        let mut batch = rest.finish(prompts, rows.iter().map(|row| row.meta_of_copy(0)).collect(), &shapes);
        emit(*target, &mut batch)?;
        arena.prompts = batch.input_ids.values;
        return Ok(arena);
    }
    for (target, rows) in groups {
        let mut gather = Gather::new(plan);
        let (mut prompts, mut metas, mut shapes) = (Ragged::default(), Vec::new(), Vec::new());
        for row in rows {
            for copy in 0..row.copies {
                let length = row.prompt.len();
                if !metas.is_empty() && prompts.values.len() + length + gather.outputs.values.len() > most {
                    emit(target, &mut gather.finish(prompts, metas, &shapes))?;
                    gather = Gather::new(plan);
                    (prompts, metas, shapes) = (Ragged::default(), Vec::new(), Vec::new());
                }
                let start = prompts.values.len();
                prompts.values.reserve(length);
                row.prompt.ids(arena.view()).iter().for_each(|ids| prompts.values.extend_from_slice(ids));
                prompts.ranges.push(start..prompts.values.len());
                shapes.push(length);
                gather.add_output(&row, copy, &arena);
                metas.push(row.meta_of_copy(copy));
            }
        }
        if !metas.is_empty() {
            emit(target, &mut gather.finish(prompts, metas, &shapes))?;
        }
    }
    Ok(arena)
}

/// Where the ids of the rows lie in the arena's prompts, if they can be written from there: prompts as they were captured,
/// or the one sequence that is all there is, its last output put behind it.
fn as_they_lie(rows: &[Planned], arena: &mut Arena, most: usize) -> Option<Vec<Range<usize>>> {
    if is_plain(rows) && arena.prompts.len() <= 2 * most {
        return Some(rows.iter().map(Planned::captured_prompt).collect());
    }
    match rows {
        [Planned { copies: 1, prompt: Prompt::Whole(prompt, output), .. }] if *prompt == (0..arena.prompts.len()) => {
            arena.prompts.extend_from_slice(&arena.outputs[output.clone()]);
            Some(std::iter::once(0..arena.prompts.len()).collect())
        }
        _ => None,
    }
}

/// Whether the prompts can be written as they lie in the arena.
fn is_plain(rows: &[Planned]) -> bool {
    let mut end = 0;
    rows.iter().all(|row| match &row.prompt {
        Prompt::Captured(range) if row.copies == 1 && range.start >= end => {
            end = range.end;
            true
        }
        _ => false,
    })
}

impl Planned {
    fn captured_prompt(&self) -> Range<usize> {
        match &self.prompt {
            Prompt::Captured(range) => range.clone(),
            Prompt::Changed(_) | Prompt::Whole(..) => 0..0,
        }
    }
}

fn push<T: Copy>(lists: &mut Ragged<T>, values: &[T]) {
    let start = lists.values.len();
    lists.values.extend_from_slice(values);
    lists.ranges.push(start..lists.values.len());
}

/// Output columns of a batch while it grows.
struct Gather {
    columns: OptionalColumns,
    outputs: Ragged<Id>,
    logprobs: Ragged<f32>,
    has_logprobs: Vec<bool>,
}

impl Gather {
    fn new(plan: &Plan) -> Self {
        Self {
            columns: plan.options.write_options().optional,
            outputs: Ragged::default(),
            logprobs: Ragged::default(),
            has_logprobs: Vec::new(),
        }
    }

    fn add_output(&mut self, row: &Planned, copy: u64, arena: &Arena) {
        let start = self.outputs.values.len();
        cut_into(&mut self.outputs.values, &arena.outputs[row.output.clone()], &row.cut);
        self.outputs.ranges.push(start..self.outputs.values.len());
        if self.columns.output_logprobs {
            let start = self.logprobs.values.len();
            match &row.logprobs {
                Logprobs::Captured(range) => {
                    let values = &arena.logprobs[range.clone()];
                    for keep in keep_spans(values.len(), &row.cut) {
                        self.logprobs.values.extend_from_slice(&values[keep]);
                    }
                }
                Logprobs::Row(values) => {
                    self.logprobs.values.extend_from_slice(values);
                    for part in row.parts.iter().filter(|part| part.copies <= copy) {
                        let sample = part.call.start as usize..part.call.end as usize;
                        self.logprobs.values[start..][sample].fill(f32::NAN);
                    }
                }
                Logprobs::None => {}
            }
            self.logprobs.ranges.push(start..self.logprobs.values.len());
            self.has_logprobs.push(!matches!(row.logprobs, Logprobs::None));
        }
    }

    /// `shapes` holds the prompt lengths.
    fn finish(self, prompts: Ragged<Id>, meta: Vec<RowMeta>, shapes: &[usize]) -> Batch {
        let mut batch = Batch { input_ids: prompts, output_ids: self.outputs, meta, ..Batch::default() };
        let (mut mask, mut weights, mut labels) = (Ragged::default(), Ragged::default(), Ragged::default());
        if self.columns.loss_mask || self.columns.loss_weights || self.columns.labels {
            for (row, at) in shapes.iter().enumerate() {
                let output = &batch.output_ids.values[batch.output_ids.ranges[row].clone()];
                let all = [LossSpan { start: *at as i32, end: (at + output.len()) as i32, weight: 1.0 }];
                let spans = batch.meta[row].loss_spans.as_deref().unwrap_or(&all);
                let whole = batch.meta[row].weight;
                let loss = loss::weights(
                    at + output.len(),
                    spans.iter().map(|s| (s.start as usize..s.end as usize, s.weight * whole)),
                );
                if self.columns.loss_mask {
                    push(&mut mask, &loss.iter().map(|w| i8::from(*w != 0.0)).collect::<Vec<_>>());
                }
                if self.columns.labels {
                    let prompt = &batch.input_ids.values[batch.input_ids.ranges[row].clone()];
                    let ids = prompt.iter().chain(output).copied();
                    push(&mut labels, &loss::labels(ids, &loss));
                }
                if self.columns.loss_weights {
                    push(&mut weights, &loss);
                }
            }
        }
        batch.loss_mask = self.columns.loss_mask.then_some(mask);
        batch.loss_weights = self.columns.loss_weights.then_some(weights);
        batch.labels = self.columns.labels.then_some(labels);
        batch.output_logprobs = self.columns.output_logprobs.then_some((self.logprobs, self.has_logprobs));
        batch
    }
}
