//! Whether a run that came to its end is one: what fails it as a whole.

use super::options::{GroupBy, OnBad, Overlong, Think};
use super::report::Counts;
use super::survey::{Side, weightless};
use super::{Plan, leaks, section};
use crate::capture::{Served, Skip, Sources};
use crate::error::{Error, Place, Result};

/// The kinds of calls that the schema names.
const KINDS: [&str; 3] = ["solver", "summariser", "helper"];

/// Fails a run whose data is bad, whose rule fired nowhere or whose rows are not what was asked for.
pub(super) fn judge(plan: &Plan, counts: &Counts, files: usize) -> Result<()> {
    let options = &plan.options;
    if counts.calls_seen == 0 {
        let named = options.inputs.join(", ");
        return Err(Error::check(
            format!("no captures in {named} ({files} {} looked at)", if files == 1 { "file" } else { "files" }),
            "name files or folders that hold captures; `tito formats` shows what is read",
        ));
    }
    judge_served(plan, counts)?;
    judge_counts(plan, counts)?;
    if counts.rows == 0 && options.expect_rows.is_none() {
        let first = counts.examples.values().flatten().next();
        let first = first.map_or(String::new(), |e| format!("; first {}: {}", e.place, e.message));
        let names: Vec<_> = counts.skipped.iter().map(|(reason, n)| format!("{} {n}", reason.name())).collect();
        let without_ids = counts.skipped.get(&Skip::NoCapture).copied().unwrap_or(0) == counts.calls_seen;
        return Err(Error::check(
            format!("no row is left of {} calls (skipped: {}){first}", counts.calls_seen, names.join(", ")),
            if without_ids {
                "the engine was not asked for ids: send it \"return_token_ids\": true, or run it behind `tito record`; ids \
                 cannot be made up afterwards"
            } else {
                "choose other policies, or --expect-rows 0 if that is right"
            },
        ));
    }
    Ok(())
}

/// Fails when a log says that its engine served another tokenizer than the profile's, or than another log's.
fn judge_served(plan: &Plan, counts: &Counts) -> Result<()> {
    let options = &plan.options;
    for served in &counts.served {
        if let (Some(profile), Some(hash)) = (&options.profile, served.tokenizer_hash.as_deref())
            && profile.tokenizer_hash != hash
        {
            return Err(Error::data(
                served.place.clone(),
                format!(
                    "the log says that tokenizer {hash} was served, and profile {} is of {}",
                    profile.name, profile.tokenizer_hash
                ),
                "make the profile from the folder that the engine served: `tito profile DIR`",
            ));
        }
    }
    let said = |what: fn(&Served) -> Option<&str>| {
        let mut said = counts.served.iter().filter_map(move |served| Some((what(served)?, &served.place)));
        let first = said.next()?;
        Some((first, said.find(|(hash, _)| *hash != first.0)?))
    };
    let tokenizers = said(|served| served.tokenizer_hash.as_deref()).map(|found| ("tokenizers", found));
    let found = tokenizers.or_else(|| said(|s| s.template_hash.as_deref()).map(|found| ("templates", found)));
    if let (Some((what, ((first, at), (other, place)))), GroupBy::None) = (found, options.group_by) {
        return Err(Error::data(
            place.clone(),
            format!("two {what} in one dump: {other} was served here, {first} at {at}"),
            "convert the logs apart, or give each tokenizer its own file with --group-by identity",
        ));
    }
    Ok(())
}

/// Fails when there are not as many rows as expected, on both sides together.
pub(super) fn judge_number(plan: &Plan, counts: &Counts) -> Result<()> {
    match plan.options.expect_rows.filter(|expected| *expected != counts.rows) {
        None => Ok(()),
        Some(expected) => Err(Error::check(
            format!("{} rows, {expected} were expected", counts.rows),
            "`tito check` with the same options says what is left out and why; nothing was written",
        )),
    }
}

/// Fails on what the counts alone tell.
pub(super) fn judge_counts(plan: &Plan, counts: &Counts) -> Result<()> {
    let options = &plan.options;
    let first = |reason: &Skip| counts.examples.get(reason).and_then(|list| list.first());
    if counts.bad() > 0 && options.bad == OnBad::Error {
        let of = |reason: &Skip| counts.skipped.get(reason).copied().unwrap_or(0);
        let bad = Skip::ALL.iter().filter(|reason| reason.is_bad() && of(reason) > 0);
        let names: Vec<_> = bad.clone().map(|reason| format!("{} {}", reason.name(), of(reason))).collect();
        if let Some(example) = bad.clone().find_map(first) {
            return Err(Error::data(
                example.place.clone(),
                format!("{} (bad calls: {})", example.message, names.join(", ")),
                "mend the capture, or leave bad calls out, counted, with --bad skip",
            ));
        }
    }
    if options.overlong == Overlong::Error
        && let (Some(n), Some(example)) = (counts.skipped.get(&Skip::Overlong), first(&Skip::Overlong))
    {
        return Err(Error::data(
            example.place.clone(),
            format!("{} (rows over the limit: {n})", example.message),
            "raise --max-length, or choose --overlong drop or trim-prompt",
        ));
    }
    // The words of the schema may be asked for of any dump; another one is a capture's own, or a slip of the pen.
    let own = options.kind.iter().find(|kind| !KINDS.contains(&kind.as_str()) && !counts.kinds.contains_key(&***kind));
    if let Some(kind) = own {
        let seen: Vec<_> = counts.kinds.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        return Err(Error::check(
            format!("--kind {kind} matches no call (calls by kind: {})", seen.join(", ")),
            "name kinds that are there; a call that states none is a solver's",
        ));
    }
    leaks::judge_counts(options, counts)?;
    section::judge_counts(counts)?;
    let think = &counts.think;
    if options.think != Think::Keep && think.outputs.stripped == 0 && think.history_stripped == 0 && think.markers > 0 {
        return Err(Error::check(
            format!(
                "--think fired nowhere although think markers are there: {} of {} outputs hold one or start inside one \
                 (unterminated {}, odd {})",
                think.markers, think.outputs.seen, think.outputs.unterminated, think.outputs.odd
            ),
            "look at a few with `tito show`; if the profile is the wrong one name the right one with --profile",
        ));
    }
    for (at, rule) in plan.rules.iter().enumerate() {
        if counts.rules.get(at).is_none_or(|count| count.calls == 0) {
            let side = if plan.weighing.divided().is_null() { "" } else { " of the training side" };
            return Err(Error::check(
                format!("--upweight {:?} matches no row{side}", rule.text),
                "see the report's turns and names with `tito check DUMP`",
            ));
        }
    }
    if counts.rows > 0 && counts.sides[Side::Train as usize].weight == 0.0 {
        return Err(weightless());
    }
    Ok(())
}

/// Refuses files that were others the second time.
pub(super) fn same_files(before: &Sources, after: &Sources) -> Result<()> {
    let (before, after) = (before.files().0, after.files().0);
    match before.iter().zip(after).find(|(before, after)| before != after) {
        None if before.len() == after.len() => Ok(()),
        found => Err(changed(found.map_or("", |(before, _)| &before.file))),
    }
}

/// A file that was another the second time.
pub(super) fn changed(file: &str) -> Error {
    let message = "the file changed between two readings";
    Error::data(Place::file(file), message, "convert files that nobody writes to")
}
