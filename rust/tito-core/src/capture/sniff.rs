//! Which format a record is in, by its keys.

use super::call::Parsed;
use super::{Record, calllog, cooperbench, native};
use crate::json::{Cursor, Fault};
use std::fmt;

/// Reads one record.
pub type Reader = for<'a> fn(&mut Cursor<'a>, &mut Parsed<'a>, &Record<'_>) -> Result<(), Fault>;

/// A format: its name, how its records look, and what reads them.
#[derive(Debug)]
pub struct Format {
    /// Name, as `--from` takes it.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// One record that is read, as a line.
    pub example: &'static str,
    /// Keys that its records have at the top; of each group one.
    needs: &'static [&'static [&'static str]],
    /// Whether a record is of this format, told whether it has the keys.
    looks: fn(&Keys, bool) -> bool,
    /// Reads one record.
    pub read: Reader,
}

/// Top-level keys of a record, and the few values that tell formats apart.
#[derive(Debug, Default)]
pub struct Keys {
    keys: Vec<Vec<u8>>,
    object: Option<String>,
    trajectory_format: Option<String>,
}

impl Keys {
    fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|k| k == key.as_bytes())
    }

    fn one_of(&self, group: &[&str]) -> bool {
        group.iter().any(|key| self.has(key))
    }

    /// Whether the record is of a format.
    fn are(&self, format: &Format) -> bool {
        (format.looks)(self, format.needs.iter().all(|group| self.one_of(group)))
    }
}

/// All formats; the first that looks right wins. A new one is a file with a reader and a row here.
pub static FORMATS: [Format; 4] = [
    Format {
        name: "cooperbench",
        about: "CooperBench and mini-swe-agent trajectories with token captures, one a file or one a line",
        example: include_str!("examples/cooperbench.json").trim_ascii_end(),
        needs: &[&["messages"], &["agent_id"], &["feature_id"]],
        looks: |k, whole| {
            let mini = k.trajectory_format.as_ref().is_some_and(|f| f.starts_with("mini-swe-agent"));
            whole || mini && k.has("messages")
        },
        read: cooperbench::read,
    },
    Format {
        name: "calls",
        about: "call logs: request with response or stream, one call a line; what `tito record` writes",
        example: include_str!("examples/calls.json").trim_ascii_end(),
        needs: &[&["response", "stream"]],
        looks: |k, whole| k.has("tito_log") || whole && !k.has("duration_ms") && !k.has("model_parameters"),
        read: calllog::read,
    },
    Format {
        name: "native",
        about: "the project's own lines: prompt_ids (or input_ids) and output_ids with flat metadata",
        example: include_str!("examples/native.json").trim_ascii_end(),
        needs: &[&["prompt_ids", "input_ids"], &["output_ids"]],
        looks: |k, whole| whole && !k.has("capture_hash"),
        read: native::read,
    },
    Format {
        name: "response",
        about: "bare replies of chat or completions routes, one a line, in a list or as server-sent events",
        example: include_str!("examples/response.json").trim_ascii_end(),
        needs: &[&["choices"], &["prompt_token_ids", "usage"]],
        looks: |k, whole| whole || k.object.as_ref().is_some_and(|o| o == "chat.completion" || o == "text_completion"),
        read: calllog::read_bare,
    },
];

/// Their names, as errors list them.
pub(super) fn format_names() -> String {
    FORMATS.iter().map(|f| f.name).collect::<Vec<_>>().join(", ")
}

type Looking = fn(&Keys) -> bool;

/// Formats that are told apart but not read: better a clear word than a guess.
const KNOWN_BY_NAME: [(&str, Looking); 7] = [
    ("an ATIF trajectory", |k| k.has("schema_version") && k.has("steps")),
    ("a SWE-agent trajectory (text only, no ids)", |k| k.has("trajectory") && k.has("history")),
    ("a verifiers trace", |k| k.has("nodes") && k.has("calls") || k.has("traces") && k.has("env")),
    ("a BenchFlow exchange", |k| k.has("request") && k.has("response") && k.has("duration_ms")),
    ("an SGLang native reply", |k| k.has("output_ids") && k.has("meta_info")),
    ("a NeMo Gym token entry", |k| k.has("generation_token_ids")),
    ("a LiteLLM proxy log", |k| k.has("model_parameters") && k.has("response")),
];

/// What a first record looks like.
#[derive(Debug)]
pub(super) enum Looks {
    /// A format that is read.
    Like(&'static Format),
    /// No format that is read.
    Unknown(NoFormat),
}

/// Why a file gives no calls.
#[derive(Debug)]
pub(super) enum NoFormat {
    /// Captures of a format that is known and not read: passing them over would lose them.
    Unread(&'static str),
    /// Rows that were made of captures.
    Rows,
    /// Parquet, which no capture is.
    Parquet,
    /// No keys that are known; those that were seen, and the format that is nearest to them.
    Keys(String, Option<Nearest>),
    /// Nothing that has keys; what was seen.
    Other(&'static str),
}

impl NoFormat {
    pub(super) fn is_unread(&self) -> bool {
        matches!(self, Self::Unread(_))
    }

    /// What to do about a file that was named and is none.
    pub(super) fn hint(&self, file: &str) -> String {
        let known = format!("known formats: {}, shown by `tito formats`; --from FORMAT forces one", format_names());
        match self {
            Self::Rows | Self::Parquet => {
                format!("to make rows, name captures; for a trainer: tito convert {file} --format trl -o trl.parquet")
            }
            Self::Keys(_, Some(Nearest { format, missing })) => {
                format!("nearest is {format}, whose records also have {}; {known}", missing.join(" and "))
            }
            _ => known,
        }
    }
}

impl fmt::Display for NoFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread(name) => write!(f, "looks like {name}, which is not read"),
            Self::Rows => write!(f, "holds rows, not captures: their masks and weights would be lost"),
            Self::Parquet => write!(f, "is parquet, which holds rows and no captures"),
            Self::Keys(seen, _) => write!(f, "holds no capture that is known (keys: {seen})"),
            Self::Other(what) => write!(f, "{what}"),
        }
    }
}

/// A format that a record is not in, though it has some of its keys.
#[derive(Debug)]
pub(super) struct Nearest {
    format: &'static str,
    /// Keys that it lacks, as they are told.
    missing: Vec<String>,
}

/// The format that lacks the fewest keys, of those that have one.
fn nearest(keys: &Keys) -> Option<Nearest> {
    let lacks = FORMATS.iter().filter_map(|format| {
        let missing: Vec<_> = format.needs.iter().filter(|group| !keys.one_of(group)).collect();
        let some = !missing.is_empty() && missing.len() < format.needs.len();
        some.then(|| {
            let told = missing.iter().map(|group| format!("{:?}", group[0]));
            Nearest { format: format.name, missing: told.collect() }
        })
    });
    lacks.min_by_key(|near| near.missing.len())
}

/// Finds the format of a record (or of the first item of a list of records).
pub(super) fn sniff(text: &[u8]) -> Looks {
    let mut cursor = Cursor::new(text);
    let mut keys = Keys::default();
    // A fault behind the keys that decide does no harm here: the reader will meet it again and say where.
    let _ = if cursor.peek() == Some(b'[') {
        cursor.array::<Fault>(|c, at| if at == 0 { take_keys(c, &mut keys) } else { Ok(()) }).map(|_| ())
    } else {
        take_keys(&mut cursor, &mut keys)
    };
    if let Some(format) = FORMATS.iter().find(|format| keys.are(format)) {
        return Looks::Like(format);
    }
    if let Some((name, _)) = KNOWN_BY_NAME.iter().find(|(_, looks)| looks(&keys)) {
        return Looks::Unknown(NoFormat::Unread(name));
    }
    if keys.has("capture_hash") && keys.has("output_ids") {
        return Looks::Unknown(NoFormat::Rows);
    }
    let mut seen: Vec<_> = keys.keys.iter().take(12).map(|k| String::from_utf8_lossy(k).into_owned()).collect();
    if keys.keys.len() > 12 {
        seen.push("...".to_owned());
    }
    Looks::Unknown(match seen.is_empty() {
        true => NoFormat::Other("is not JSON with keys"),
        false => NoFormat::Keys(seen.join(", "), nearest(&keys)),
    })
}

fn take_keys(c: &mut Cursor<'_>, keys: &mut Keys) -> Result<(), Fault> {
    c.object::<Fault>(|c, key| {
        keys.keys.push(key.to_vec());
        match key {
            b"object" => keys.object = c.text_value()?.map(|t| t.into_owned()),
            b"trajectory_format" => keys.trajectory_format = c.text_value()?.map(|t| t.into_owned()),
            _ => {}
        }
        Ok(())
    })
    .map(|_| ())
}
