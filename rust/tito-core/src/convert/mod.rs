//! Captures to rows: the pipeline.
//!
//! Input is cut into stretches that do not depend on the number of workers. Each worker takes a stretch, parses it
//! ([`crate::capture`]), enters it in the ledger (in order), makes and encodes its rows, and appends them (in order).
//! A rollout that one record holds whole goes straight through. From the first record that holds only a part of one,
//! calls are spilled, and come back rollout by rollout when all input is read. Nothing gets its name before the end.
//! Policies that must know all rollouts before the first row is written run the pipeline once without output.

mod batch;
mod build;
mod decide;
mod earlier;
mod expand;
mod identity;
mod judge;
mod leaks;
mod ledger;
mod merged;
mod options;
mod order;
mod output;
mod parts;
mod prove;
mod replay;
mod report;
mod rollout;
mod rollouts;
mod section;
mod sight;
mod spill;
mod survey;
mod threads;
mod used;
mod weave;

pub use batch::{Arena, Ids, Target, batches};
pub use build::{Plan, Planned, settle};
pub use expand::{CallFacts, Given, expand};
pub use identity::Identities;
pub use leaks::LeakScan;
pub use options::{
    Ambiguous, Column, GroupBy, Leaks, Normalize, OnBad, Options, Overlong, Rows, Tail, Think, Truncated, Unterminated,
    UpweightAs, ValBy, WeightScale,
};
pub use parts::{
    Members, Part, Scan, Surveyed, convert_part, judge_parts, plan_parts, scan, settle_parts, split_file, survey_part,
};
pub use prove::{Proof, Shown};
pub use report::{Counts, Example, MergeCounts, RuleCount, ThinkStates, Tokens, TurnCount};
pub use rollout::Rollout;
pub use section::{SectionCounts, Sections};
pub use sight::{Digest, Sighted, arrange, sight};
pub use survey::{Side, Weighing};
pub use used::{Found, Used, UsedCall, used};

use crate::capture::{Kept, Lost, Parsed, Sources, Unit, Who, parse};
use crate::error::{Error, Place, Result};
use crate::ids::weight::Copies;
use crate::rows::{Batch, EncodedBatch, Encoder};
use judge::{judge, judge_counts, judge_number, same_files};
use ledger::Ledger;
use output::Output;
use replay::Replay;
use rollouts::Settled;
use serde_json::{Value, json};
use spill::Spill;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use survey::{Noted, Survey};
use threads::{Gates, Stopped, on_threads};

/// Ids of a stretch that comes back from the spill: one page of prompts.
const STRETCH_IDS: usize = 2 << 20;

/// Threads; more than any machine has cores.
const MOST_WORKERS: usize = 1024;

/// How far a run is, for whoever watches, and the way to stop it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of input read.
    pub bytes: Arc<AtomicU64>,
    /// Bytes of input there are; 0 = not known.
    pub total: AtomicU64,
    /// Calls met.
    pub calls: AtomicU64,
    /// Rows appended.
    pub rows: AtomicU64,
    /// Set it, and the run stops at the next stretch.
    pub cancelled: AtomicBool,
}

/// Sees what a run makes, in place of files.
pub trait Watch: Sync {
    /// A call that was met, whatever becomes of it; from any thread, in any order.
    fn saw(&self, call: &Sighted<'_>);

    /// Rows before their ids are gathered, with the number of their stretch of input; from any thread.
    fn planned(&self, _stretch: u64, _rows: &[Planned]) {}

    /// Rows of one side, copies included; from any thread, in any order.
    ///
    /// # Errors
    /// Whatever stops the run.
    fn made(&self, rows: &Batch, side: Side) -> Result<()>;
}

/// State that is touched in the order of the input.
struct Shared<'p> {
    plan: &'p Plan,
    progress: &'p Progress,
    ledger: Mutex<Ledger>,
    spill: Mutex<Option<Spill>>,
    copies: Mutex<Copies>,
    counts: Mutex<Counts>,
    /// Rows are noted, not written.
    surveys: bool,
    /// Rows are looked at, not written.
    watch: Option<&'p dyn Watch>,
    taker: Mutex<Taker<'p>>,
}

/// What becomes of the rows.
enum Taker<'t> {
    Output(Output),
    /// They are noted.
    Survey(Survey),
    /// They are looked at.
    Watch(&'t dyn Watch),
}

fn open<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A worker that panicked takes the run down; until then the others may still look.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a conversion and gives its report. Without an output it only reads, checks and counts.
///
/// # Errors
/// `Usage` for options, `Io` for files, `Data` and `Check` for what the captures hold. Nothing then stands under the
/// output's name.
pub fn convert(options: Options, progress: &Progress) -> Result<Value> {
    let mut plan = Plan::new(options)?;
    let output = Output::new(&plan.options)?;
    let workers = workers(&plan.options)?;
    let sources = sources_of(&plan.options, progress)?;
    output.spares(&plan.identities, &sources)?;
    let surveyed = survey(&mut plan, progress, workers, &sources, judge)?;
    let done = run(&plan, progress, workers, sources, Taker::Output(output))?;
    judge(&plan, &done.counts, done.sources.files().0.len())?;
    judge_number(&plan, &done.counts)?;
    if let Some(before) = &surveyed {
        same_files(before, &done.sources)?;
    }
    match done.taker {
        Taker::Output(output) => output.finish(&plan, &done.counts, &done.sources),
        Taker::Survey(_) | Taker::Watch(_) => Ok(Value::Null),
    }
}

/// Runs a conversion whose rows are looked at and not written. Bad data is counted, and no rule about whole runs is
/// asked.
///
/// # Errors
/// `Usage` for options, `Io` for files, `Data` for a policy that cannot be applied, and what the watch returns.
pub fn derive(options: Options, watch: &dyn Watch, progress: &Progress) -> Result<Counts> {
    let mut plan = Plan::new(options)?;
    let workers = workers(&plan.options)?;
    let sources = sources_of(&plan.options, progress)?;
    survey(&mut plan, progress, workers, &sources, |_, _, _| Ok(()))?;
    Ok(run(&plan, progress, workers, sources, Taker::Watch(watch))?.counts)
}

fn sources_of(options: &Options, progress: &Progress) -> Result<Sources> {
    Sources::called(&options.inputs, &options.called, options.from.as_deref(), Arc::clone(&progress.bytes))
}

/// Where a policy must know all rollouts first, finds out about them; gives the files that were read for it.
fn survey(
    plan: &mut Plan,
    progress: &Progress,
    workers: usize,
    sources: &Sources,
    judge: impl Fn(&Plan, &Counts, usize) -> Result<()>,
) -> Result<Option<Sources>> {
    let Some(option) = plan.options.needs_survey() else {
        progress.total.store(sources.total_bytes(), Ordering::Relaxed);
        return Ok(None);
    };
    read_twice(option, sources)?;
    progress.total.store(2 * sources.total_bytes(), Ordering::Relaxed);
    let again = sources_of(&plan.options, progress)?;
    let (counts, sources, survey) = note(plan, progress, workers, again)?;
    judge(plan, &counts, sources.files().0.len())?;
    plan.weighing = survey.settle(&plan.options)?;
    progress.calls.store(0, Ordering::Relaxed);
    Ok(Some(sources))
}

/// Runs the pipeline over all input and notes its rollouts.
fn note(plan: &mut Plan, progress: &Progress, workers: usize, sources: Sources) -> Result<(Counts, Sources, Survey)> {
    // Copies are drawn with the weights that the survey finds.
    let stated = std::mem::replace(&mut plan.options.upweight_as, UpweightAs::Weight);
    let done = run(plan, progress, workers, sources, Taker::Survey(Survey::default()))?;
    let noted = match done {
        Ran { counts, sources, taker: Taker::Survey(survey) } => (counts, sources, survey),
        Ran { counts, sources, .. } => (counts, sources, Survey::default()),
    };
    plan.options.upweight_as = stated;
    Ok(noted)
}

fn workers(options: &Options) -> Result<usize> {
    match options.workers {
        0 => Ok(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
        n if n <= MOST_WORKERS => Ok(n),
        n => Err(Error::usage(format!("--workers {n}: at most {MOST_WORKERS}"), "leave it out to use all cores")),
    }
}

/// What a run over all input leaves.
struct Ran<'t> {
    counts: Counts,
    sources: Sources,
    taker: Taker<'t>,
}

/// Runs the pipeline over all input.
fn run<'t>(
    plan: &'t Plan,
    progress: &'t Progress,
    workers: usize,
    sources: Sources,
    taker: Taker<'t>,
) -> Result<Ran<'t>> {
    let shared = Shared {
        plan,
        progress,
        ledger: Mutex::default(),
        spill: Mutex::new(None),
        copies: Mutex::new(Copies::new(plan.options.seed)),
        counts: Mutex::default(),
        surveys: matches!(taker, Taker::Survey(_)),
        watch: if let Taker::Watch(watch) = &taker { Some(*watch) } else { None },
        taker: Mutex::new(taker),
    };
    let sources = Mutex::new(sources);
    let gates = Gates::new(workers);
    on_threads(workers, &gates, || read_and_convert(&shared, &sources, &gates))?;
    let spill = lock(&shared.spill).take();
    if let Some(spill) = spill {
        let settled = lock(&shared.ledger).rollouts.settle();
        refuse_unplaced(plan, &settled)?;
        lock(&shared.counts).unplaced += settled.unplaced;
        lock(&shared.counts).without_calls += settled.without_calls;
        lock(&shared.counts).begun_again += settled.begun_again;
        let replay = Replay::new(spill.seal(&settled)?, settled);
        let gates = Gates::new(workers);
        on_threads(workers, &gates, || convert_spilled(&shared, &replay, &gates))?;
    }
    let Shared { ledger, counts, taker, .. } = shared;
    let mut counts = open(counts);
    let ledger = open(ledger);
    (counts.repeated_ids, counts.retold) = (ledger.repeated_ids, ledger.retold);
    Ok(Ran { counts, sources: open(sources), taker: open(taker) })
}

/// Refuses to divide calls of which nobody knows the rollout: it may stand on the other side.
fn refuse_unplaced(plan: &Plan, settled: &Settled) -> Result<()> {
    match &settled.unplaced_in {
        Some(name) if plan.options.val.is_some() => Err(Error::check(
            format!("--val: {} calls do not say which of the rollouts named {name:?} they are of", settled.unplaced),
            "write task, agent and attempt on every line of a rollout, or leave --val out",
        )),
        _ => Ok(()),
    }
}

/// Refuses input that is gone once it is read.
fn read_twice(option: &str, sources: &Sources) -> Result<()> {
    match sources.read_once_only() {
        None => Ok(()),
        Some(name) => Err(Error::usage(
            format!("{option} reads its input twice, and {name} can be read only once"),
            "write it to a file first, like `cat > dump.jsonl`, and convert that",
        )),
    }
}

/// What a stretch gives: encoded rows by file, or what a survey notes of them, and what was counted.
type Done = (Vec<(Target, EncodedBatch)>, Vec<Noted>, Counts);

/// A rollout's number, and its new name where another has the one it goes by.
type Named = (u32, Option<crate::rows::Text>);

/// One worker while input is read.
fn read_and_convert(
    shared: &Shared<'_>,
    sources: &Mutex<Sources>,
    gates: &Gates<Done>,
) -> std::result::Result<(), Stopped> {
    let mut encoder = Encoder::new(&shared.plan.options.write_options()).map_err(Stopped::at(0))?;
    let mut unit = Unit::default();
    let mut buffers = Arena::default();
    let mut kept = Kept::default();
    loop {
        if shared.progress.cancelled.load(Ordering::Relaxed) {
            return Err(Stopped::at(0)(Error::Cancelled));
        }
        let next = lock(sources).next_unit(unit);
        // Nothing is read behind an error, so it comes last of all.
        let next = next.map_err(|error| Stopped { number: u64::MAX, error: Box::new(error), soft: true })?;
        let Some(next) = next else { return Ok(()) };
        unit = next;
        let mut parsed = Parsed::going_on(buffers.prompts, buffers.outputs, kept);
        parse(&unit, &mut parsed);
        kept = parsed.keep();
        shared.progress.calls.fetch_add(parsed.calls.len() as u64, Ordering::Relaxed);
        let mut counts = Counts::default();
        count_lost(&parsed.lost, &mut counts);
        counts.serve(std::mem::take(&mut parsed.served));
        counts.unread = parsed.unread.like();
        let mut planned = Vec::new();
        let mut sighted = sight(&parsed, &shared.plan.identities);
        if let Some(watch) = shared.watch {
            sighted.iter().for_each(|call| watch.saw(call));
        }
        let Some(entered) = gates.enter.pass(unit.number, || shared.enter(&parsed, &mut sighted)) else {
            return Ok(());
        };
        let renamed = entered.map_err(Stopped::at(unit.number))?;
        if let Some(renamed) = renamed {
            let mut rest = sighted.into_iter();
            for (piece, (number, renamed)) in parsed.pieces.iter().zip(renamed) {
                let calls: Vec<_> = rest.by_ref().take(piece.calls.len()).collect();
                let named = renamed.map(|name| Who { rollout_id: Some(name), ..piece.who.clone() });
                let who = named.as_ref().unwrap_or(&piece.who);
                let known = (piece.numbered, who.rollout_id.is_some());
                let rollout = Rollout::new(who, number, calls, known, parsed.view());
                shared.plan.rows(&rollout, &mut planned, &mut counts).map_err(Stopped::at(unit.number))?;
            }
        }
        let arena = Arena { prompts: parsed.prompts.values, outputs: parsed.outputs.values, logprobs: parsed.logprobs };
        let emitted = shared.emit(unit.number, gates, &mut encoder, planned, arena, counts);
        match emitted.map_err(Stopped::at(unit.number))? {
            Some(used) => buffers = used,
            None => return Ok(()),
        }
    }
}

/// One worker while the spill is read back.
fn convert_spilled(shared: &Shared<'_>, replay: &Replay, gates: &Gates<Done>) -> std::result::Result<(), Stopped> {
    let mut encoder = Encoder::new(&shared.plan.options.write_options()).map_err(Stopped::at(0))?;
    loop {
        if shared.progress.cancelled.load(Ordering::Relaxed) {
            return Err(Stopped::at(0)(Error::Cancelled));
        }
        let Some((number, stretch)) = replay.next(shared.plan).map_err(Stopped::at(0))? else { return Ok(()) };
        let mut counts = Counts::default();
        let mut planned = Vec::new();
        let arena = replay.rows(shared.plan, stretch, &mut planned, &mut counts).map_err(Stopped::at(number))?;
        let emitted = shared.emit(number, gates, &mut encoder, planned, arena, counts);
        if emitted.map_err(Stopped::at(number))?.is_none() {
            return Ok(());
        }
    }
}

impl Plan {
    /// Enters calls in the ledger: tells which came before, and refuses a tokenizer that is another's or unknown.
    fn enter(&self, ledger: &mut Ledger, parsed: &Parsed<'_>, sighted: &mut [Sighted<'_>]) -> Result<()> {
        let options = &self.options;
        let asked = options
            .needs_profile()
            .or((options.profile.is_some() && options.group_by == GroupBy::None).then_some("--profile"));
        let mut sighted = sighted.iter_mut();
        for piece in &parsed.pieces {
            for call in sighted.by_ref().take(piece.calls.len()) {
                ledger.call(piece, call);
                // A helper of another family does no harm when nobody asked for its calls.
                if self.leaves_out(&piece.who, call).is_some() {
                    continue;
                }
                ledger.identity(call, &self.identities, options.group_by)?;
                self.check_tokenizer(call)?;
                if let (Some(option), None, Some(prompt)) = (asked, call.identity, &call.call.prompt)
                    && !prompt.is_empty()
                {
                    return Err(unknown_tokenizer(call, option, &parsed.prompts.values[prompt.clone()], options));
                }
            }
        }
        Ok(())
    }
}

impl Shared<'_> {
    /// Enters a stretch in the ledger. None: its calls were spilled; else the numbers and new names of its rollouts.
    fn enter(&self, parsed: &Parsed<'_>, sighted: &mut [Sighted<'_>]) -> Result<Option<Vec<Named>>> {
        let mut ledger = lock(&self.ledger);
        let mut spill = lock(&self.spill);
        let options = &self.plan.options;
        self.plan.enter(&mut ledger, parsed, sighted)?;
        if spill.is_none() && parsed.pieces.iter().any(|piece| !piece.complete) {
            *spill = Some(Spill::new(&Output::folder(options)));
        }
        let Some(spill) = spill.as_mut() else {
            return Ok(Some(parsed.pieces.iter().map(|piece| ledger.rollouts.whole(piece)).collect()));
        };
        let mut at = 0;
        for piece in &parsed.pieces {
            let number = ledger.rollouts.part(piece);
            for call in &sighted[at..at + piece.calls.len()] {
                spill.push(number, parsed, piece, call)?;
            }
            at += piece.calls.len();
        }
        Ok(None)
    }

    /// Settles the rows of a stretch, encodes and appends them; gives the arena's memory back. None: broken off.
    fn emit(
        &self,
        number: u64,
        gates: &Gates<Done>,
        encoder: &mut Encoder,
        mut planned: Vec<Planned>,
        arena: Arena,
        mut counts: Counts,
    ) -> Result<Option<Arena>> {
        if self.plan.options.upweight_as == UpweightAs::Copies {
            // The draw of one row depends on all rows before it.
            let settled = gates.settle.pass(number, || {
                settle(self.plan, &mut planned, &mut lock(&self.copies), &mut counts);
                Ok::<_, Error>(())
            });
            if settled.is_none() {
                return Ok(None);
            }
        } else {
            settle(self.plan, &mut planned, &mut Copies::new(0), &mut counts);
        }
        let noted = if self.surveys { Noted::all(&planned) } else { Vec::new() };
        let mut encoded: Vec<(Target, EncodedBatch)> = Vec::new();
        let used = if let Some(watch) = self.watch {
            watch.planned(number, &planned);
            batches(self.plan, planned, arena, |(_, side), batch| {
                self.progress.rows.fetch_add(batch.meta.len() as u64, Ordering::Relaxed);
                watch.made(batch, side)
            })?
        } else if self.plan.options.output.is_some() && !self.surveys {
            batches(self.plan, planned, arena, |target, batch| {
                encoded.push((target, encoder.encode(batch)?));
                Ok(())
            })?
        } else {
            arena
        };
        let brought = gates.append.bring(number, (encoded, noted, counts), |(encoded, noted, counts)| {
            lock(&self.counts).add(counts);
            match &mut *lock(&self.taker) {
                Taker::Survey(survey) => {
                    let ledger = lock(&self.ledger);
                    survey.add(&self.plan.options, noted, |rollout| ledger.rollouts.original(rollout));
                }
                Taker::Watch(_) => {}
                Taker::Output(output) => {
                    for (target, batch) in encoded {
                        self.progress.rows.fetch_add(batch.rows() as u64, Ordering::Relaxed);
                        output.append(&self.plan.identities, target, batch)?;
                    }
                }
            }
            Ok::<_, Error>(())
        })?;
        Ok(brought.then_some(used))
    }
}

fn count_lost(lost: &[Lost], counts: &mut Counts) {
    for lost in lost {
        counts.calls_seen += 1;
        counts.skip(lost.bad.reason, 0, || {
            let place = Place::record(&lost.file, lost.record);
            Example {
                place: lost.bad.position.map_or(place.clone(), |at| place.at(at)),
                message: lost.bad.message.clone(),
            }
        });
    }
}

fn unknown_tokenizer(call: &Sighted<'_>, option: &str, prompt: &[crate::ids::Id], options: &Options) -> Error {
    let tail = &prompt[prompt.len().saturating_sub(6)..];
    let place = Place::record(call.file, call.call.record).at_turn(call.call.turn);
    match &options.profile {
        Some(profile) => Error::data(
            place,
            format!(
                "{option} needs a prompt that ends in an assistant turn of profile {}; this one ends in {tail:?}",
                profile.name
            ),
            "give the profile of the tokenizer and template that made the captures",
        ),
        None => Error::data(
            place,
            format!("{option} must know the tokenizer, and no built-in profile fits a prompt that ends in {tail:?}"),
            "name it with --profile TOKENIZER_DIR (or a file made by `tito profile`); --think keep needs none",
        ),
    }
}

/// The report's head: what made it.
fn versions() -> Value {
    json!({"tito": env!("CARGO_PKG_VERSION"), "schema": crate::rows::schema::VERSION})
}
