//! What a run is asked to do. Names and defaults are those of the command line; unknown names are refused.

use crate::capture::Called;
use crate::error::{Error, Result};
use crate::ids::Profile;
use crate::rows::{Format, OptionalColumns, WriteOptions};
use serde::{Deserialize, Serialize};

const HINT: &str = "see `tito convert --help` for names and values";

macro_rules! policy {
    ($(#[$doc:meta])* $name:ident { $($rest:tt)+ }) => { policy!("kebab-case" $(#[$doc])* $name { $($rest)+ }); };
    ($case:literal $(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = $case)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }
    };
}

policy! {
    /// What becomes of thinking.
    Think {
        /// Stays.
        #[default]
        Keep,
        /// Cut from outputs.
        Strip,
        /// Cut from outputs and from earlier assistant turns in prompts.
        StripAll,
        /// Stays, without loss.
        Mask,
    }
}
policy! {
    /// What becomes of the generation prompt's end.
    Tail {
        /// Stays as captured.
        #[default]
        Captured,
        /// Rewritten to the profile's no-thinking tail.
        NoThink,
    }
}
policy! {
    /// What a row is.
    Rows {
        /// One call.
        #[default]
        Turn,
        /// All calls that a longest sequence holds.
        Merged,
        /// The same; a sequence that holds one call only is written as a row of that call.
        Auto,
    }
}
policy! {
    /// What becomes of calls of which nobody can tell which one the harness kept.
    Ambiguous {
        /// All stay.
        #[default]
        KeepAll,
        /// The last one stays.
        KeepLast,
        /// None stays.
        Drop,
        /// All stay, without loss.
        Mask,
    }
}
policy! {
    /// How weights are stated.
    UpweightAs {
        /// In the `weight` column.
        #[default]
        Weight,
        /// As copies of rows.
        Copies,
    }
}
policy! {
    /// What gets the same total weight, however many ids it trains.
    Normalize {
        /// Nothing.
        #[default]
        None,
        /// Each rollout.
        Rollout,
        /// Each task.
        Task,
    }
}
policy! {
    /// What weights are multiplied by.
    WeightScale {
        /// Nothing; what makes the least weight 1 where normalised weights become copies.
        #[default]
        Auto,
        /// What makes the least weight of a trained id 1.
        #[serde(rename = "min-1")]
        Min1,
        /// What makes the mean weight of a trained id 1.
        #[serde(rename = "mean-1")]
        Mean1,
    }
}
policy! {
    /// What must not stand on both sides.
    ValBy {
        /// A task.
        #[default]
        Task,
        /// What stands before the last `/` of a task.
        Repo,
        /// A rollout.
        Rollout,
    }
}
policy! {
    /// What becomes of an output that does not end in a stop id.
    Truncated {
        /// Left out, counted.
        #[default]
        Drop,
        /// Stays, without loss.
        Mask,
        /// Stays.
        Keep,
    }
}
policy! {
    /// What becomes of an output that never closes thinking.
    Unterminated {
        /// Left out, counted.
        #[default]
        Drop,
        /// Stays as it is.
        Keep,
    }
}
policy! {
    /// What becomes of a row over the length limit.
    Overlong {
        /// The run fails.
        #[default]
        Error,
        /// Left out, counted.
        Drop,
        /// Oldest turns leave the prompt.
        TrimPrompt,
    }
}
policy! {
    /// What becomes of a row that holds the removed text.
    Leaks {
        /// The run fails once all input is read.
        #[default]
        Error,
        /// Left out, counted.
        Drop,
    }
}
policy! {
    /// What becomes of bad data.
    OnBad {
        /// The run fails once all input is read, naming the first and counting all.
        #[default]
        Error,
        /// Left out, counted.
        Skip,
    }
}
policy! {
    /// Whether different tokenizers or templates may stand in one dump.
    GroupBy {
        /// No.
        #[default]
        None,
        /// Yes, each gets its own file.
        Identity,
    }
}
policy! {
    "snake_case"
    /// A column on request.
    Column {
        /// 0 or 1 for each id of the row.
        #[default]
        LossMask,
        /// The weight of each id.
        LossWeights,
        /// The ids, -100 where there is no loss.
        Labels,
        /// Logprobs of the output ids.
        OutputLogprobs,
    }
}

impl Rows {
    /// The word in a file's metadata.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Merged => "merged",
            Self::Auto => "auto",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Files, folders, globs, `-`.
    pub inputs: Vec<String>,
    /// What the files among the inputs are called in rows and reports, one each; none = as they are named.
    pub called: Vec<Called>,
    /// Which part of a run this is: the number of its files.
    pub part: Option<usize>,
    /// Where rows go; `-` is standard output (JSON lines), none reads and counts only.
    pub output: Option<String>,
    /// Format of all input.
    pub from: Option<String>,
    /// Thinking.
    pub think: Think,
    /// Generation prompt's end.
    pub tail: Tail,
    /// Rows.
    pub rows: Rows,
    /// Calls that cannot be told apart.
    pub ambiguous: Ambiguous,
    /// Weight rules.
    pub upweight: Vec<String>,
    /// How weights are stated.
    pub upweight_as: UpweightAs,
    /// Seed of the copies policy and of the validation side.
    pub seed: u64,
    /// What gets the same total weight.
    pub normalize: Normalize,
    /// What weights are multiplied by.
    pub weight_scale: WeightScale,
    /// Keys set apart: below 1 a share of them, else a number.
    pub val: Option<f64>,
    /// Keys of what.
    pub val_by: ValBy,
    /// Truncated outputs.
    pub truncated: Truncated,
    /// Unterminated thinking.
    pub unterminated: Unterminated,
    /// Most ids of a row.
    pub max_length: Option<usize>,
    /// Rows over that.
    pub overlong: Overlong,
    /// A text that leaves the messages of prompts.
    pub drop_section: Option<String>,
    /// A text that no row may hold.
    pub leak_scan: Option<String>,
    /// Words in a row that make a leak.
    pub leak_ngram: usize,
    /// A text whose runs of words are no leaks.
    pub leak_ignore: Option<String>,
    /// Rows that leak.
    pub leaks: Leaks,
    /// Profile; none = found among the built-in ones.
    pub profile: Option<Profile>,
    /// A folder with a `tokenizer.json`, or the file, for policies that are about text.
    pub tokenizer: Option<String>,
    /// Whether answers are compared with what later prompts show of them; changes no row.
    pub prove_think: bool,
    /// Kinds of calls that give rows.
    pub kind: Vec<String>,
    /// Bad data.
    pub bad: OnBad,
    /// Different tokenizers.
    pub group_by: GroupBy,
    /// Threads; 0 = all cores.
    pub workers: usize,
    /// The number of rows there must be.
    pub expect_rows: Option<u64>,
    /// JSON lines instead of parquet.
    pub jsonl: bool,
    /// Columns on request.
    pub columns: Vec<Column>,
    /// Size after which the next file begins.
    pub shard_bytes: Option<u64>,
    /// Ids near which the next file begins.
    pub shard_tokens: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            inputs: Vec::new(),
            called: Vec::new(),
            part: None,
            output: None,
            from: None,
            think: Think::Keep,
            tail: Tail::Captured,
            rows: Rows::Turn,
            ambiguous: Ambiguous::KeepAll,
            upweight: Vec::new(),
            upweight_as: UpweightAs::Weight,
            seed: 0,
            normalize: Normalize::None,
            weight_scale: WeightScale::Auto,
            val: None,
            val_by: ValBy::Task,
            truncated: Truncated::Drop,
            unterminated: Unterminated::Drop,
            max_length: None,
            overlong: Overlong::Error,
            drop_section: None,
            leak_scan: None,
            leak_ngram: 8,
            leak_ignore: None,
            leaks: Leaks::Error,
            profile: None,
            tokenizer: None,
            prove_think: false,
            kind: vec!["solver".to_owned(), "summariser".to_owned()],
            bad: OnBad::Error,
            group_by: GroupBy::None,
            workers: 0,
            expect_rows: None,
            jsonl: false,
            columns: Vec::new(),
            shard_bytes: None,
            shard_tokens: None,
        }
    }
}

impl Options {
    /// Reads options from JSON.
    ///
    /// # Errors
    /// `Usage` for an unknown name or value.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::usage(format!("options: {e}"), HINT))
    }

    /// Refuses options that say nothing without another, or contradict it.
    ///
    /// # Errors
    /// `Usage`.
    pub fn check_words(&self) -> Result<()> {
        let lonely = if self.overlong != Overlong::Error && self.max_length.is_none() {
            Some(("--overlong", "is about rows over a limit", "name it with --max-length"))
        } else if self.val_by != ValBy::Task && self.val.is_none() {
            Some(("--val-by", "is about a validation side", "ask for one with --val"))
        } else if self.leaks != Leaks::Error && self.leak_scan.is_none() {
            Some(("--leaks", "is about what a scan finds", "name what to look for with --leak-scan"))
        } else {
            None
        };
        if let Some((option, about, hint)) = lonely {
            return Err(Error::usage(format!("{option} {about}, and there is none"), hint));
        }
        if self.tail == Tail::NoThink && matches!(self.think, Think::Keep | Think::Mask) {
            return Err(Error::usage(
                "--tail no-think says that thinking is off, and --think keep and mask leave it in the output",
                "cut it with --think strip or strip-all, or leave --tail captured",
            ));
        }
        Ok(())
    }

    /// Whether some policy must know the tokenizer.
    #[must_use]
    pub fn needs_profile(&self) -> Option<&'static str> {
        if self.think != Think::Keep {
            Some("--think")
        } else if self.drop_section.is_some() {
            Some("--drop-section")
        } else if self.max_length.is_some() && self.overlong == Overlong::TrimPrompt {
            Some("--overlong trim-prompt")
        } else {
            None
        }
    }

    /// How files are written.
    #[must_use]
    pub fn write_options(&self) -> WriteOptions {
        let has = |column| self.columns.contains(&column);
        WriteOptions {
            format: if self.jsonl { Format::Jsonl } else { Format::Parquet },
            optional: OptionalColumns {
                loss_mask: has(Column::LossMask),
                loss_weights: has(Column::LossWeights),
                labels: has(Column::Labels),
                output_logprobs: has(Column::OutputLogprobs),
            },
            shard_bytes: self.shard_bytes,
            shard_ids: self.shard_tokens,
            part: self.part,
            ..WriteOptions::default()
        }
    }

    /// The policies in force: what is stored in the file. What says where things are or how fast is not among them, so
    /// that the same rows are the same bytes.
    #[must_use]
    pub fn policies(&self) -> serde_json::Value {
        serde_json::json!({
            "think": self.think, "tail": self.tail, "rows": self.rows, "ambiguous": self.ambiguous,
            "upweight": self.upweight,
            "upweight_as": self.upweight_as, "seed": self.seed, "normalize": self.normalize, "weight_scale": self.weight_scale,
            "val": self.val, "val_by": self.val_by, "truncated": self.truncated,
            "unterminated": self.unterminated, "max_length": self.max_length, "overlong": self.overlong,
            "drop_section": self.drop_section, "leak_scan": self.leak_scan, "leak_ngram": self.leak_ngram,
            "leak_ignore": self.leak_ignore, "leaks": self.leaks,
            "kind": self.kind, "bad": self.bad, "group_by": self.group_by, "columns": self.columns,
        })
    }

    /// What was given besides the policies and decides about rows too: stored beside them, so that a run can be
    /// done again.
    #[must_use]
    pub fn given(&self) -> serde_json::Value {
        serde_json::json!({"from": self.from, "profile": self.profile})
    }

    /// Options of a run from what a file tells of its own: its policies and what was given.
    ///
    /// # Errors
    /// `Usage` for an unknown name or value.
    pub fn stored(policies: &str, given: &str) -> Result<Self> {
        let parse = |text: &str| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text);
        let mut all = parse(policies).map_err(|e| Error::usage(format!("policies: {e}"), HINT))?;
        all.extend(parse(given).map_err(|e| Error::usage(format!("given: {e}"), HINT))?);
        serde_json::from_value(all.into()).map_err(|e| Error::usage(format!("options: {e}"), HINT))
    }
}
