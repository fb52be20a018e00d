//! The one error of the crate.
//!
//! Every variant says what was wrong, where (file, record, turn, position) and what to do about it. A binding maps
//! `kind()` to its own exception or exit code; nothing else in the crate decides how an error is shown.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// Where in the input something stands. Records count from 1 (the line of a JSONL file, the item of an array).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file as the user named it; `-` is standard input.
    pub file: Option<String>,
    /// The record in the file, counted from 1.
    pub record: Option<u64>,
    /// The turn inside the record, counted from 0.
    pub turn: Option<i32>,
    /// The byte in the record or the index in a list of ids, counted from 0; the message says which.
    pub position: Option<u64>,
}

impl Place {
    /// A whole file.
    #[must_use]
    pub fn file(name: &str) -> Self {
        Self { file: Some(name.to_owned()), ..Self::default() }
    }

    /// One record of a file.
    #[must_use]
    pub fn record(name: &str, record: u64) -> Self {
        Self { file: Some(name.to_owned()), record: Some(record), ..Self::default() }
    }

    /// The same place, at a turn.
    #[must_use]
    pub fn at_turn(mut self, turn: Option<i32>) -> Self {
        self.turn = turn;
        self
    }

    /// The same place, at a position.
    #[must_use]
    pub fn at(mut self, position: u64) -> Self {
        self.position = Some(position);
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(record) = self.record {
            parts.push(format!("record {record}"));
        }
        if let Some(turn) = self.turn {
            parts.push(format!("turn {turn}"));
        }
        if let Some(position) = self.position {
            parts.push(format!("position {position}"));
        }
        match (&self.file, parts.is_empty()) {
            (Some(file), true) => write!(f, "{file}"),
            (Some(file), false) => write!(f, "{file}: {}", parts.join(", ")),
            (None, _) => write!(f, "{}", parts.join(", ")),
        }
    }
}

/// Which of the three non-zero exit codes an error stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The data is bad or a check failed: exit 1.
    Data,
    /// Wrong use: exit 2.
    Usage,
    /// The world is in the way (disk, permission): exit 3.
    World,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data is bad at a place.
    #[error("{place}: {message}")]
    Data {
        /// Where.
        place: Place,
        /// What was seen and what was allowed.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// A check over a whole run failed; no single place is to blame.
    #[error("{message}")]
    Check {
        /// What failed.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// An option or an argument is wrong.
    #[error("{message}")]
    Usage {
        /// What was given and what is allowed.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// `read`, `write`, `rename`, ...
        action: &'static str,
        /// The file.
        path: String,
        /// The system's own words.
        source: std::io::Error,
    },
    /// Another run writes the same output.
    #[error("{path}: another run is writing it")]
    Busy {
        /// The output.
        path: String,
    },
    /// The caller asked the run to stop.
    #[error("stopped; nothing was written under the final name")]
    Cancelled,
}

/// What to do about a file that is not there, or a folder of it.
fn not_there(action: &str, path: &str) -> String {
    match Path::new(path).parent() {
        Some(folder) if action == "write" && !folder.exists() => {
            let folder = folder.display();
            format!("there is no folder {folder}; make it first: mkdir -p {folder}")
        }
        _ if path.contains(['*', '?', '[']) => "check the pattern, and the folder that it names".to_owned(),
        _ => "check the path; unless it begins with /, it starts in the folder where tito runs".to_owned(),
    }
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Bad data at a place.
    pub fn data(place: Place, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Data { place, message: message.into(), hint: hint.into() }
    }

    /// A failed check.
    pub fn check(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Check { message: message.into(), hint: hint.into() }
    }

    /// Wrong use.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    /// A refusal of the operating system, to be used in `map_err`.
    pub fn io(action: &'static str, path: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Which exit code this stands for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Data { .. } | Self::Check { .. } => Kind::Data,
            Self::Usage { .. } => Kind::Usage,
            Self::Io { .. } | Self::Busy { .. } | Self::Cancelled => Kind::World,
        }
    }

    /// What to do about it; always one line, never empty.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Data { hint, .. } | Self::Check { hint, .. } | Self::Usage { hint, .. } => hint.clone(),
            Self::Io { action, path, source } => match source.kind() {
                std::io::ErrorKind::NotFound => not_there(action, path),
                std::io::ErrorKind::PermissionDenied => "check the permissions of the file and its folder".to_owned(),
                std::io::ErrorKind::StorageFull => {
                    "free some space or write elsewhere; nothing was left under the final name".to_owned()
                }
                _ => "see the system's message above".to_owned(),
            },
            Self::Busy { .. } => "wait until it has ended, or write elsewhere".to_owned(),
            Self::Cancelled => "run the same command again to start over".to_owned(),
        }
    }
}
