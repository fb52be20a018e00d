//! Rows against the captures they name: the same conversion is run again, with what the rows file stores of its own
//! run, and each row is compared with what the captures give.
//!
//! Three passes at most, none of which holds rows: the rows files become digests of 32 bytes a row; the captures are
//! converted into the same digests and strike them out, in any order, one for one; only if some are left, those rows
//! are read again and the captures converted once more, to say what differs.

mod account;
mod look;
mod names;
mod stated;

use crate::convert::{GroupBy, Options, Progress, derive};
use crate::error::{Error, Result};
use account::Account;
use look::Look;
use names::Names;
use serde::Deserialize;
use serde_json::Value;
use stated::Stated;

/// What is asked for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Files of rows.
    pub rows: Vec<String>,
    /// Files, folders and globs of captures.
    pub captures: Vec<String>,
    /// A tokenizer's folder or file, where policies of the rows are about text.
    pub tokenizer: Option<String>,
    /// Threads; 0 = all cores.
    pub workers: usize,
    /// Most rows that are listed.
    pub list: usize,
}

/// Compares rows with captures and gives the account: `rows`, `verified`, `failed` by kind, `failures` with place and
/// differences, `captures`, `moved`, `versions`.
///
/// # Errors
/// `Usage` for what cannot be asked, `Io` for files, `Data` for files that are no rows, say nothing of how they were
/// made or were changed there, and for captures that the policies of the rows cannot be applied to.
pub fn verify(request: &Request, progress: &Progress) -> Result<Value> {
    if request.rows.is_empty() || request.captures.is_empty() {
        return Err(Error::usage("nothing to compare", "name rows and the captures they were made of"));
    }
    if request.captures.iter().any(|name| name == "-") {
        return Err(Error::usage("captures cannot come from stdin: they may be read twice", "name files or folders"));
    }
    let mut account = Account::default();
    for group in stated::group(&request.rows)? {
        let mut options = Options { inputs: request.captures.clone(), workers: request.workers, ..group.options()? };
        options.tokenizer.clone_from(&request.tokenizer);
        // Captures beside those the rows are of do no harm, of whichever tokenizer they are.
        options.group_by = GroupBy::Identity;
        let names = Names::new(&request.captures);
        let stated = Stated::read(&group, &names, progress)?;
        let counts = derive(options.clone(), &stated, progress).map_err(about_captures)?;
        let left = stated.settle(&group, &mut account, &counts);
        if !left.is_empty() {
            let look = Look::read(&group, &names, left, request.list, progress)?;
            derive(options, &look, progress).map_err(about_captures)?;
            look.tell(&group, &mut account);
        }
    }
    account.finish(request.list)
}

/// An error of the run that is done again is about the captures named here.
fn about_captures(error: Error) -> Error {
    match error {
        Error::Data { place, message, .. } => {
            Error::data(place, message, "name only captures that the rows were made of")
        }
        Error::Check { message, .. } => Error::check(
            format!("these captures cannot be converted as the rows were: {message}"),
            "name the captures that the rows were made of",
        ),
        other => other,
    }
}
