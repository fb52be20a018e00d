//! What a rows file says of itself: keys `tito.*`, and a checksum over those that a re-run depends on.

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

fn checksum<'t>(value: impl Fn(&str) -> Option<&'t str>) -> String {
    let mut hasher = xxhash3_64::Hasher::new();
    for key in COVERED {
        let value = value(key);
        hasher.write(&value.map_or(u64::MAX, |value| value.len() as u64).to_le_bytes());
        hasher.write(value.unwrap_or_default().as_bytes());
    }
    format!("{:016x}", hasher.finish())
}
