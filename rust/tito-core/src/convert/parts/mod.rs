//! A conversion in parts: each is converted on its own, anywhere, and the run is judged once, over all.
//!
//! [`scan`] finds out what belongs together, [`plan_parts`] makes parts of it, and [`crate::capture::split`] gives parts
//! their lines of files that they share. Where a policy must know all rollouts first, the parts are surveyed, and the
//! survey is settled over all. A part is converted as a run of its own: its bytes depend on what is in it, the options,
//! and what the survey decided. In their order parts hold the rows of one run over all input in its order; where
//! rollouts share a name or a call, they stand together.

mod plan;
mod scan;

pub use plan::{Members, plan_parts};
pub use scan::{Scan, scan};

use super::judge::{changed, judge, judge_number};
use super::output::{Output, PASSED_OVER, report};
use super::report::inputs_json;
use super::survey::{Survey, Weighing};
use super::{Counts, GroupBy, Options, Plan, Progress, Ran, Taker, note, run, sources_of, workers};
use crate::capture::{InputFile, split};
use crate::error::{Error, Result};
use crate::rows::told;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a survey found in a part; it travels as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Surveyed {
    counts: Counts,
    survey: Survey,
}

/// What was done with a part; it travels as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    counts: Counts,
    /// Files that were read whole.
    inputs: Vec<InputFile>,
    outputs: Vec<Value>,
}

/// Gives parts their lines of a file that they share, each as `FOLDER/PART.jsonl.zst`. `parts`: the part of each line.
///
/// # Errors
/// `Io`, and `Data` for a file that is no longer what was scanned.
pub fn split_file(path: &str, file: &InputFile, parts: &[u32], folder: &str, progress: &Progress) -> Result<()> {
    let hash = split(Path::new(path), parts, Path::new(folder), Arc::clone(&progress.bytes), &progress.cancelled)?;
    if hash == file.hash { Ok(()) } else { Err(changed(&file.file)) }
}

/// Surveys a part.
///
/// # Errors
/// As `convert`, but for what only a whole run tells.
pub fn survey_part(options: Options, progress: &Progress) -> Result<Surveyed> {
    let mut plan = Plan::new(options)?;
    let workers = workers(&plan.options)?;
    let sources = sources_of(&plan.options, progress)?;
    progress.total.store(sources.total_bytes(), Ordering::Relaxed);
    let (counts, _, survey) = note(&mut plan, progress, workers, sources)?;
    Ok(Surveyed { counts, survey })
}

/// Settles a survey over all parts, in their order; gives each its share. `files`: how many there are.
///
/// # Errors
/// As `convert`, for what a whole survey tells.
pub fn settle_parts(options: Options, parts: Vec<Surveyed>, files: usize) -> Result<Vec<Weighing>> {
    let plan = Plan::new(options)?;
    let (mut counts, mut all, mut ends) = (Counts::default(), Survey::default(), Vec::new());
    for part in parts {
        counts.add(part.counts);
        ends.push(all.append(part.survey));
    }
    judge(&plan, &counts, files)?;
    let whole = all.settle(&plan.options)?;
    Ok(ends.into_iter().map(|range| whole.share(range)).collect())
}

/// Converts a part. Whether its counts are right is for [`judge_parts`] to say.
///
/// # Errors
/// As `convert`, but for what only a whole run tells.
pub fn convert_part(options: Options, weighing: Weighing, progress: &Progress) -> Result<Part> {
    let mut plan = Plan::new(options)?;
    plan.weighing = weighing;
    let output = Output::new(&plan.options)?;
    let sources = sources_of(&plan.options, progress)?;
    progress.total.store(sources.total_bytes(), Ordering::Relaxed);
    let done = run(&plan, progress, workers(&plan.options)?, sources, Taker::Output(output))?;
    let Ran { counts, sources, taker: Taker::Output(output) } = done else { return Err(Error::Cancelled) };
    let report = output.finish(&plan, &counts, &sources)?;
    let named = plan.options.called.iter().map(|called| called.lines.is_none());
    let inputs = sources.files().0.iter().zip(named).filter(|(_, whole)| *whole).map(|(file, _)| file.clone());
    Ok(Part { counts, inputs: inputs.collect(), outputs: report["outputs"].as_array().cloned().unwrap_or_default() })
}

/// Judges a run by all its parts, and gives its report. The parts stand in their order; `files` are those that were
/// scanned, `weighing` is any part's.
///
/// # Errors
/// As `convert`, for what a whole run tells.
pub fn judge_parts(options: Options, weighing: Weighing, files: &[InputFile], parts: Vec<Part>) -> Result<Value> {
    let mut plan = Plan::new(options)?;
    plan.weighing = weighing;
    let (mut counts, mut outputs) = (Counts::default(), Vec::new());
    for part in parts {
        if let Some(other) = part.inputs.iter().find(|input| !files.contains(input)) {
            return Err(changed(&other.file));
        }
        counts.add(part.counts);
        outputs.extend(part.outputs);
    }
    judge(&plan, &counts, files.len())?;
    judge_number(&plan, &counts)?;
    let names: Vec<_> = counts.identities.keys().map(String::as_str).collect();
    if plan.options.group_by == GroupBy::None && names.len() > 1 {
        return Err(Error::check(
            format!("two tokenizers or templates in one dump: {}", names.join(", ")),
            "convert them apart, or give each its own file with --group-by identity",
        ));
    }
    let passed_over: Vec<_> = files.iter().filter(|file| file.format.is_none()).map(|file| &file.file).collect();
    let first: Vec<_> = passed_over.iter().take(PASSED_OVER).collect();
    let passed_over = json!({"files": passed_over.len(), "first": first});
    let mut whole = report(&plan, &counts, [inputs_json(files), passed_over, json!(0)]);
    whole["outputs"] = Value::Array(outputs);
    if plan.options.jsonl {
        // Their manifest is that of the whole run.
        told::seal_manifest(&mut whole);
    }
    Ok(whole)
}
