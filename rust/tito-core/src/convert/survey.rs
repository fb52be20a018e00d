//! What must be known of all rollouts before the first row is written: what they weigh, and on which side they stand.
//!
//! Where a policy asks for it the input is read twice. The first time the pipeline runs without output and a survey
//! notes the trained ids and weights of each rollout; the second time each call's weight is multiplied by its rollout's
//! factor. Sums are taken over sorted values, so they do not depend on the order of the input.
//!
//! The validation side holds the keys whose SHA-256 of `SEED:KEY` comes first.

use super::build::Planned;
use super::options::{Normalize, Options, UpweightAs, ValBy, WeightScale};
use crate::error::{Error, Result};
use crate::ids::weight::MOST;
use crate::rows::Text;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::hash::Hasher as _;
use std::ops::Range;
use twox_hash::xxhash3_64;

/// Which file a row goes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// What is trained.
    #[default]
    Train,
    /// What is set apart: as it was sampled, weight 1, one copy.
    Val,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Train, Self::Val];

    /// The name in reports and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

impl Options {
    /// The policy for which the input must be read twice.
    #[must_use]
    pub fn needs_survey(&self) -> Option<&'static str> {
        if self.normalize != Normalize::None {
            Some("--normalize")
        } else if self.weight_scale != WeightScale::Auto {
            Some("--weight-scale")
        } else {
            self.val.map(|_| "--val")
        }
    }

    /// The scale in force.
    #[must_use]
    pub fn scale(&self) -> WeightScale {
        match self.weight_scale {
            // A rollout that weighs little would hardly be drawn.
            WeightScale::Auto if self.normalize != Normalize::None && self.upweight_as == UpweightAs::Copies => {
                WeightScale::Min1
            }
            scale => scale,
        }
    }

    /// Refuses a share that is none.
    ///
    /// # Errors
    /// `Usage`.
    pub fn check_val(&self) -> Result<()> {
        match self.val {
            Some(val) if !(val > 0.0 && val.is_finite() && (val < 1.0 || val.fract() == 0.0)) => Err(Error::usage(
                format!("--val {val}: neither a share between 0 and 1 nor a whole number of keys"),
                "give a share like 0.1, or a number like 20; --val-by says of what",
            )),
            _ => Ok(()),
        }
    }
}

impl ValBy {
    fn things(self) -> &'static str {
        match self {
            Self::Task => "tasks",
            Self::Repo => "repositories",
            Self::Rollout => "rollouts",
        }
    }

    /// The key of a rollout; `name` as the capture has it.
    fn key<'a>(self, task: Option<&'a str>, name: Option<&'a str>) -> Option<&'a str> {
        match self {
            Self::Task => task,
            Self::Repo => task.and_then(|task| task.rsplit_once('/')).map(|(repo, _)| repo),
            Self::Rollout => name,
        }
    }
}

/// What a row says of one of its calls.
#[derive(Debug)]
pub(super) struct Noted {
    rollout: u32,
    weight: f32,
    trained: u64,
    task: Option<Text>,
    name: Option<Text>,
}

impl Noted {
    pub(super) fn all(planned: &[Planned]) -> Vec<Self> {
        let of = |row: &Planned, weight, trained| Self {
            rollout: row.rollout,
            weight,
            trained,
            task: row.meta.task_id.clone(),
            name: row.meta.rollout_id.clone(),
        };
        let calls = |row| -> Vec<Self> {
            let row: &Planned = row;
            match &row.parts[..] {
                [] => vec![of(row, row.meta.weight, row.tokens.trained)],
                parts => parts.iter().map(|part| of(row, part.weight, part.tokens.trained)).collect(),
            }
        };
        planned.iter().flat_map(calls).collect()
    }
}

/// What was seen of a rollout.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Seen {
    rows: bool,
    /// Ids that have loss, of calls that weigh more than nothing.
    trained: u64,
    /// Sum of weight times trained ids.
    total: f64,
    /// Least weight of these, and the largest of all.
    low: f32,
    high: f32,
    task: Option<u64>,
    /// Where the key stands among all, and whether there is one.
    key: Option<[u8; 16]>,
}

/// See the module.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Survey {
    rollouts: Vec<Seen>,
}

impl Survey {
    /// Notes calls; `original` gives the name of a rollout that was renamed because another has it.
    pub(super) fn add(&mut self, options: &Options, noted: Vec<Noted>, original: impl Fn(u32) -> Option<Text>) {
        for call in noted {
            let at = call.rollout as usize;
            if at >= self.rollouts.len() {
                self.rollouts.resize(at + 1, Seen::default());
            }
            let seen = &mut self.rollouts[at];
            if !seen.rows {
                seen.rows = true;
                seen.task = call.task.as_deref().map(|task| {
                    let mut hasher = xxhash3_64::Hasher::new();
                    hasher.write(task.as_bytes());
                    hasher.finish()
                });
                if options.val.is_some() {
                    let name = original(call.rollout).or(call.name);
                    let key = options.val_by.key(call.task.as_deref(), name.as_deref());
                    seen.key = key.map(|key| place_of(options.seed, key));
                }
            }
            seen.high = seen.high.max(call.weight);
            if call.weight > 0.0 && call.trained > 0 {
                seen.low = if seen.trained == 0 { call.weight } else { seen.low.min(call.weight) };
                seen.trained += call.trained;
                seen.total += f64::from(call.weight) * call.trained as f64;
            }
        }
    }

    /// Adds the survey of other rollouts behind these; gives their range.
    pub(super) fn append(&mut self, other: Self) -> Range<usize> {
        let start = self.rollouts.len();
        self.rollouts.extend(other.rollouts);
        start..self.rollouts.len()
    }

    /// Decides the sides, then the factors.
    ///
    /// # Errors
    /// `Check` where there are too few keys, or where a row would weigh too much.
    pub(super) fn settle(self, options: &Options) -> Result<Weighing> {
        let mut weighing = Weighing { factors: vec![1.0; self.rollouts.len()], ..Weighing::default() };
        if self.rollouts.iter().any(|seen| seen.rows) {
            self.divide(options, &mut weighing)?;
            self.normalize(options, &mut weighing)?;
        }
        Ok(weighing)
    }

    fn divide(&self, options: &Options, weighing: &mut Weighing) -> Result<()> {
        let Some(val) = options.val else { return Ok(()) };
        let with_rows = || self.rollouts.iter().filter(|seen| seen.rows);
        let mut keys: Vec<_> = with_rows().filter_map(|seen| seen.key).collect();
        keys.sort_unstable();
        keys.dedup();
        let things = options.val_by.things();
        if keys.len() < 2 {
            return Err(match (keys.first(), options.val_by) {
                (None, ValBy::Task) => Error::check(
                    "--val: no row names a task, and each side needs one",
                    "put \"task_id\" at the top of each record, or divide by rollouts: --val-by rollout",
                ),
                _ => Error::check(
                    format!("--val: rows of {} {things}, and each side needs one", keys.len()),
                    "choose another --val-by, or leave --val out",
                ),
            });
        }
        let most = keys.len() - 1;
        let count = if val < 1.0 {
            // Half is rounded up. What is added on top is far below what any share is meant to say, and above what a
            // share like 0.285 loses as a binary fraction.
            ((val * keys.len() as f64 + 0.5 + 1e-9).floor() as usize).clamp(1, most)
        } else if val <= most as f64 {
            val as usize
        } else {
            return Err(Error::check(
                format!("--val {val}: there are rows of {} {things}, and one must be left to train on", keys.len()),
                "ask for fewer, or for a share like 0.1",
            ));
        };
        let last = keys[count - 1];
        weighing.val = self.rollouts.iter().map(|seen| seen.key.is_some_and(|key| key <= last)).collect();
        let without = with_rows().filter(|seen| seen.key.is_none()).count();
        weighing.divided = Some(json!({
            "by": options.val_by, "keys": count, "of_keys": keys.len(), "rollouts_without_key": without,
        }));
        Ok(())
    }

    fn normalize(&self, options: &Options, weighing: &mut Weighing) -> Result<()> {
        let (normalize, scale) = (options.normalize, options.scale());
        if normalize == Normalize::None && scale == WeightScale::Auto {
            return Ok(());
        }
        // (what is made equal, its part, the rollout)
        let mut parts: Vec<(u8, u64, f64, usize)> = Vec::new();
        let (mut trained, mut without_task) = (0, 0_u64);
        for (at, seen) in self.rollouts.iter().enumerate() {
            if !seen.rows || weighing.side(at as u32) == Side::Val {
                continue;
            }
            trained += seen.trained;
            let (kind, unit) = match (normalize, seen.task) {
                (Normalize::Task, Some(task)) => (0, task),
                _ => (1, at as u64),
            };
            without_task += u64::from(normalize == Normalize::Task && seen.task.is_none());
            parts.push((kind, unit, seen.total, at));
        }
        parts.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)));
        let units: Vec<_> = parts.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).collect();
        let totals: Vec<f64> = units.iter().map(|unit| unit.iter().map(|part| part.2).sum()).collect();
        let mut sorted: Vec<f64> = totals.iter().copied().filter(|total| *total > 0.0).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let (weighty, total) = (sorted.len(), sorted.iter().sum::<f64>());
        if total == 0.0 {
            return Err(weightless());
        }
        // Normalising shares the total out anew and leaves it what the rules make it.
        let mut each = total / weighty as f64;
        let mut weighted: Vec<usize> = Vec::with_capacity(parts.len());
        for (unit, sum) in units.iter().zip(&totals).filter(|(_, sum)| **sum > 0.0) {
            for (.., at) in *unit {
                weighing.factors[*at] = if normalize == Normalize::None { 1.0 } else { each / sum };
                weighted.push(*at);
            }
        }
        let weight = |weighing: &Weighing, at: usize, of: fn(&Seen) -> f32| {
            f64::from(of(&self.rollouts[at])) * weighing.factors[at]
        };
        let lightest = weighted.iter().filter(|at| self.rollouts[**at].trained > 0);
        let low = lightest.map(|at| weight(weighing, *at, |seen| seen.low)).fold(f64::INFINITY, f64::min);
        let factor = match scale {
            WeightScale::Auto => 1.0,
            WeightScale::Min1 => 1.0 / low,
            WeightScale::Mean1 => trained as f64 / total,
        };
        weighted.iter().for_each(|at| weighing.factors[*at] *= factor);
        each *= factor;
        let most = weighted.iter().map(|at| weight(weighing, *at, |seen| seen.high)).fold(0.0, f64::max);
        if most > MOST {
            return Err(Error::check(
                format!("rows would weigh {most:.3e} with the lightest at {:.3e}, the limit is {MOST:e}", low * factor),
                "choose --weight-scale mean-1, or weights that are nearer to each other",
            ));
        }
        weighing.told = Some(json!({
            "normalize": normalize, "scale": scale, "factor": factor, "units": weighty,
            "each": (normalize != Normalize::None).then_some(each), "total": total * factor, "trained": trained,
            "least": low * factor, "most": most, "rollouts_without_task": without_task,
        }));
        Ok(())
    }
}

/// Nothing would be learnt, whatever the scale.
pub(super) fn weightless() -> Error {
    Error::check(
        "no id that would be trained weighs more than 0",
        "give what should be trained a weight above 0 with --upweight",
    )
}

/// The first half of the hash: as good as all of it to put keys in an order.
fn place_of(seed: u64, key: &str) -> [u8; 16] {
    let hash = Sha256::digest(format!("{seed}:{key}"));
    let mut place = [0; 16];
    place.copy_from_slice(&hash[..16]);
    place
}

/// What the survey decided; nothing without one.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Weighing {
    factors: Vec<f64>,
    val: Vec<bool>,
    told: Option<Value>,
    divided: Option<Value>,
}

impl Weighing {
    /// What was decided of some rollouts, as if there were no others.
    pub(super) fn share(&self, rollouts: Range<usize>) -> Self {
        Self {
            factors: self.factors.get(rollouts.clone()).unwrap_or_default().to_vec(),
            val: self.val.get(rollouts).unwrap_or_default().to_vec(),
            told: self.told.clone(),
            divided: self.divided.clone(),
        }
    }

    /// The side of a rollout.
    #[must_use]
    pub fn side(&self, rollout: u32) -> Side {
        if self.val.get(rollout as usize).is_some_and(|val| *val) { Side::Val } else { Side::Train }
    }

    /// What weights of a rollout are multiplied by.
    #[must_use]
    pub fn factor(&self, rollout: u32) -> f64 {
        self.factors.get(rollout as usize).copied().unwrap_or(1.0)
    }

    /// How weights were normalised and scaled, for the report; null if they were not.
    #[must_use]
    pub fn told(&self) -> &Value {
        self.told.as_ref().unwrap_or(&Value::Null)
    }

    /// How keys were divided, for the report; null if they were not.
    #[must_use]
    pub fn divided(&self) -> &Value {
        self.divided.as_ref().unwrap_or(&Value::Null)
    }
}
