//! Where rows go: one file (or set of shards) an identity and side, named only at the end, with a manifest beside it.
//! One run at a time writes an output, and none leaves files of the run before among its own.

use super::batch::Target;
use super::earlier;
use super::identity::Identities;
use super::options::Options;
use super::report::{Counts, inputs_json};
use super::survey::Side;
use super::{Plan, versions};
use crate::capture::Sources;
use crate::error::{Error, Result};
use crate::rows::{EncodedBatch, Format, Lock, Sink, Staged, WriteOptions, name_all, schema, told};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// See the module.
pub(super) struct Output {
    path: Option<PathBuf>,
    to_stdout: bool,
    by_identity: bool,
    /// Sides that there are.
    sides: &'static [Side],
    options: WriteOptions,
    sinks: Vec<(Target, Sink)>,
    /// Of the path, until the files have their names.
    _lock: Option<Lock>,
}

impl Output {
    /// Checks early that the output can be written: a run of an hour must not end in a typing error.
    pub(super) fn new(options: &Options) -> Result<Self> {
        let to_stdout = options.output.as_deref() == Some("-");
        if to_stdout && options.expect_rows.is_some() {
            return Err(Error::usage(
                "--expect-rows cannot hold back rows that go to standard output",
                "write to a file: it gets its name only if the number is right",
            ));
        }
        if to_stdout && !options.jsonl {
            return Err(Error::usage("parquet cannot go to standard output", "write to a file, or add --jsonl"));
        }
        if to_stdout && options.val.is_some() {
            return Err(Error::usage(
                "--val writes a second file, and standard output is one",
                "write to a file: the validation rows go beside it",
            ));
        }
        // What a link points to is written, not the link replaced.
        let path = options.output.as_ref().filter(|_| !to_stdout).map(PathBuf::from);
        let path = path.map(|path| if path.is_symlink() { path.canonicalize().unwrap_or(path) } else { path });
        let sides = &Side::ALL[..if options.val.is_some() { 2 } else { 1 }];
        let by_identity = options.group_by == super::GroupBy::Identity;
        let mut lock = None;
        if let Some(path) = &path {
            let files: Vec<_> = sides.iter().map(|side| named(path, None, *side)).collect();
            files.iter().try_for_each(|file| check_target(file))?;
            tempfile::tempfile_in(Self::folder(options)).map_err(Error::io("write", path.to_string_lossy()))?;
            lock = Some(Lock::take(path)?);
            // How many shards there will be, or of which identities, nobody knows yet.
            let known = !by_identity && options.shard_bytes.is_none() && options.shard_tokens.is_none();
            earlier::refuse(&manifest_of(path), if known { &files } else { &[] })?;
        }
        Ok(Self {
            path,
            to_stdout,
            by_identity,
            sides,
            options: options.write_options(),
            sinks: Vec::new(),
            _lock: lock,
        })
    }

    /// The folder of the output, where the spill goes too: what is large enough for the one should be for the other.
    pub(super) fn folder(options: &Options) -> PathBuf {
        match options.output.as_deref() {
            None | Some("-") => std::env::temp_dir(),
            Some(name) => match Path::new(name).parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            },
        }
    }

    /// Refuses to write over what is read.
    pub(super) fn spares(&self, identities: &Identities, sources: &Sources) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let names = || identities.names().map(Some).chain([None, Some("unknown")]);
        let files = self.sides.iter().flat_map(|side| names().map(|name| named(path, name, *side)));
        match [manifest_of(path)].into_iter().chain(files).find(|path| sources.holds_captures(path)) {
            None => Ok(()),
            Some(path) => Err(Error::usage(
                format!("{} is an input and would be written over", path.display()),
                "write to another name",
            )),
        }
    }

    pub(super) fn append(
        &mut self,
        identities: &Identities,
        (identity, side): Target,
        batch: EncodedBatch,
    ) -> Result<()> {
        if self.to_stdout {
            let text = batch.lines().unwrap_or_default();
            return io::stdout().lock().write_all(text).map_err(Error::io("write", "-"));
        }
        let Some(path) = &self.path else { return Ok(()) };
        let identity = identity.filter(|_| self.by_identity);
        let target = (identity, side);
        let at = match self.sinks.iter().position(|(known, _)| *known == target) {
            Some(at) => at,
            None => {
                let name = self.by_identity.then(|| identities.name(identity));
                self.sinks.push((target, Sink::create(&named(path, name, side), &self.options)?));
                self.sinks.len() - 1
            }
        };
        self.sinks[at].1.append(batch)
    }

    /// Writes metadata, names the files, writes the manifest, and gives the report.
    pub(super) fn finish(mut self, plan: &Plan, counts: &Counts, sources: &Sources) -> Result<Value> {
        let options = &plan.options;
        let counted = counts.to_json(&options.upweight);
        let (files, repeated) = sources.files();
        let passed_over: Vec<_> = files.iter().filter(|f| f.format.is_none()).map(|f| &f.file).collect();
        let first = passed_over.iter().take(PASSED_OVER).collect::<Vec<_>>();
        let passed_over = json!({"files": passed_over.len(), "first": first});
        let mut report = report(plan, counts, [inputs_json(files), passed_over, json!(repeated)]);
        for side in self.sides {
            if let (true, Some(path)) = (self.sinks.iter().all(|((_, s), _)| s != side), &self.path) {
                // No row was asked for, or drawn, and none came: the next stage still finds a file with the schema.
                self.sinks.push(((None, *side), Sink::create(&named(path, None, *side), &self.options)?));
            }
        }
        let (mut finished, mut outputs) = (Vec::new(), Vec::new());
        for ((identity, side), sink) in self.sinks {
            let profile = identity.or_else(|| single(plan, counts));
            let side = (self.sides.len() > 1).then(|| side.name());
            let set = sink.finish(&key_values(plan, profile, side, &counted))?;
            for file in set.files() {
                let mut output = json!({
                    "file": file.path().to_string_lossy(), "rows": file.rows, "ids": file.ids, "bytes": file.bytes,
                    "hash": file.hash, "row_groups": file.row_groups,
                });
                if let Some(side) = side {
                    output["side"] = json!(side);
                }
                outputs.push(output);
            }
            finished.extend(set.into_staged());
        }
        report["outputs"] = Value::Array(outputs);
        if self.options.format == Format::Jsonl {
            told::seal_manifest(&mut report);
        }
        if let Some(path) = &self.path {
            // The manifest is on disk before anything gets its name, so that a full disk leaves nothing. A part's is
            // that of the whole run.
            let manifest = manifest_of(path);
            if options.part.is_none() {
                finished.push(staged_text(&manifest, &format!("{report:#}\n"))?);
            }
            name_all(finished)?;
            if options.part.is_none() {
                report["manifest"] = json!(manifest.to_string_lossy());
            }
        }
        Ok(report)
    }
}

/// How many files without captures are named.
pub(super) const PASSED_OVER: usize = 3;

/// What a run says of itself; its outputs come later. `input`: the files read, those passed over, how many were named
/// more than once.
pub(super) fn report(plan: &Plan, counts: &Counts, [inputs, passed_over, repeated]: [Value; 3]) -> Value {
    json!({
        "versions": versions(),
        "policies": plan.options.policies(),
        "given": plan.options.given(),
        "counts": counts.to_json(&plan.options.upweight),
        "inputs": inputs,
        "passed_over": passed_over,
        "inputs_repeated": repeated,
        "weights": plan.weighing.told(),
        "val": plan.weighing.divided(),
        "outputs": [],
        "profiles": profiles(plan, counts),
    })
}

/// The identity that all rows have.
fn single(plan: &Plan, counts: &Counts) -> Option<usize> {
    let mut names = counts.identities.keys();
    match (names.next(), names.next()) {
        (Some(name), None) => plan.identities.index_of(name),
        _ => None,
    }
}

fn profiles(plan: &Plan, counts: &Counts) -> Value {
    let known = counts.identities.keys().filter_map(|name| plan.identities.index_of(name));
    known.map(|index| json!(plan.identities.get(index).profile)).collect()
}

/// The file's own account of itself.
fn key_values(
    plan: &Plan,
    profile: Option<usize>,
    side: Option<&'static str>,
    counted: &Value,
) -> Vec<(String, String)> {
    let profile = profile.map(|index| &plan.identities.get(index).profile);
    let text = |value: &Value| value.to_string();
    let mut pairs = vec![
        ("tito.schema_version", schema::VERSION.to_string()),
        ("tito.rows", plan.options.rows.name().to_owned()),
        ("tito.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("tito.policies", text(&plan.options.policies())),
        ("tito.given", text(&plan.options.given())),
        ("tito.counts", text(counted)),
    ];
    if let Some(side) = side {
        pairs.push(("tito.side", side.to_owned()));
        pairs.push(("tito.val", text(plan.weighing.divided())));
    }
    if !plan.weighing.told().is_null() {
        pairs.push(("tito.weights", text(plan.weighing.told())));
    }
    if let Some(profile) = profile {
        // A profile that was found by how prompts begin and end is not proof of the tokenizer behind them.
        let source = if plan.options.profile.is_some() { "given" } else { "found" };
        pairs.push(("tito.profile_source", source.to_owned()));
        pairs.push(("tito.profile", profile.name.clone()));
        pairs.push(("tito.profile_json", profile.to_json()));
        pairs.push(("tito.tokenizer_hash", profile.tokenizer_hash.clone()));
        pairs.push(("tito.template_hash", profile.template_hash.clone()));
    }
    let mut pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    told::seal(&mut pairs);
    pairs
}

/// `rows.parquet` becomes `rows.qwen3.parquet`, and on the validation side `rows.qwen3.val.parquet`.
fn named(path: &Path, identity: Option<&str>, side: Side) -> PathBuf {
    let side = (side == Side::Val).then(|| side.name());
    let more: String = identity.into_iter().chain(side).map(|part| format!(".{part}")).collect();
    if more.is_empty() {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}{more}{extension}"))
}

/// `rows.parquet` has `rows.parquet.manifest.json`.
fn manifest_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".manifest.json");
    path.with_file_name(name)
}

/// Refuses early what only the last rename would notice, and what a rename would destroy.
fn check_target(path: &Path) -> Result<()> {
    let name = path.display();
    if path.is_dir() || path.to_string_lossy().ends_with('/') {
        return Err(Error::usage(format!("{name} is a folder"), "name the file to write, like rows.parquet"));
    }
    if path.exists() && !path.is_file() {
        return Err(Error::usage(
            format!("{name} is no regular file and would be replaced by one"),
            "`tito check` reads and counts without writing; --jsonl -o - writes to standard output",
        ));
    }
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if ["gz", "zst", "bz2", "xz", "zip", "csv", "tsv"].contains(&extension.as_str()) {
        return Err(Error::usage(
            format!("{name}: rows are not written as .{extension}"),
            "name a .parquet file (compressed inside) or a .jsonl file",
        ));
    }
    Ok(())
}

/// A small file that is on disk, but for its name.
fn staged_text(path: &Path, text: &str) -> Result<Staged> {
    let (staged, mut file) = Staged::create(path)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(staged.error("write"))?;
    Ok(staged)
}
