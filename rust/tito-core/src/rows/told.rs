//! What a rows file says of itself: keys `tito.*`, and a checksum over those that a re-run depends on. JSON lines have no
//! place for keys: their manifest says the same, in other words, and holds a checksum for each file.

use serde_json::Value;
use std::collections::BTreeMap;
use std::hash::Hasher as _;
use twox_hash::xxhash3_64;

/// The key of the checksum.
const CHECKSUM: &str = "tito.checksum";

/// The keys it covers, there or not.
const COVERED: [&str; 14] = [
    "tito.schema_version",
    "tito.version",
    "tito.rows",
    "tito.policies",
    "tito.given",
    "tito.counts",
    "tito.side",
    "tito.val",
    "tito.weights",
    "tito.profile_source",
    "tito.profile",
    "tito.profile_json",
    "tito.tokenizer_hash",
    "tito.template_hash",
];

/// Adds the checksum.
pub fn seal(pairs: &mut Vec<(String, String)>) {
    let sum = checksum(|key| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str()));
    pairs.push((CHECKSUM.to_owned(), sum));
}

/// Whether the checksum is that of what is told.
#[must_use]
pub fn is_sealed(told: &BTreeMap<String, String>) -> bool {
    told.get(CHECKSUM).is_some_and(|sum| *sum == checksum(|key| told.get(key).map(String::as_str)))
}

/// What a manifest tells of one of its `outputs`.
#[must_use]
pub fn of_manifest(report: &Value, output: &Value) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    let mut tell = |key: &str, value: &Value| {
        if !value.is_null() {
            told.insert(key.to_owned(), value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    };
    tell("tito.schema_version", &report["versions"]["schema"]);
    tell("tito.version", &report["versions"]["tito"]);
    tell("tito.rows", &report["policies"]["rows"]);
    tell("tito.policies", &report["policies"]);
    tell("tito.given", &report["given"]);
    tell("tito.weights", &report["weights"]);
    tell("tito.val", &report["val"]);
    tell("tito.counts", &report["counts"]);
    tell("tito.side", &output["side"]);
    tell(CHECKSUM, &output["checksum"]);
    if let [profile] = &report["profiles"].as_array().map_or(&[][..], Vec::as_slice) {
        let source = if report["given"]["profile"].is_null() { "found" } else { "given" };
        tell("tito.profile_source", &source.into());
        tell("tito.profile", &profile["name"]);
        tell("tito.profile_json", profile);
        tell("tito.tokenizer_hash", &profile["tokenizer_hash"]);
        tell("tito.template_hash", &profile["template_hash"]);
    }
    told
}

/// Adds the checksum of each of a manifest's outputs.
pub fn seal_manifest(report: &mut Value) {
    // As it will be read: a float may read as its neighbour.
    let read: Value = serde_json::from_str(&report.to_string()).unwrap_or_default();
    for output in report["outputs"].as_array_mut().into_iter().flatten() {
        let told = of_manifest(&read, output);
        output["checksum"] = checksum(|key| told.get(key).map(String::as_str)).into();
    }
}

fn checksum<'t>(value: impl Fn(&str) -> Option<&'t str>) -> String {
    let mut hasher = xxhash3_64::Hasher::new();
    for key in COVERED {
        let value = value(key);
        hasher.write(&value.map_or(u64::MAX, |value| value.len() as u64).to_le_bytes());
        hasher.write(value.unwrap_or_default().as_bytes());
    }
    format!("{:016x}", hasher.finish())
}
