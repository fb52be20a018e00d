//! Keys that nobody reads and that look like ones that are read: typing errors, mostly.

use crate::rows::Text;
use std::collections::BTreeMap;

/// Keys that say who and where, of call logs and of the project's own lines.
const KNOWN: [&str; 17] = [
    "agent",
    "agent_id",
    "annotations",
    "attempt",
    "call_id",
    "kind",
    "pair_id",
    "parse_error",
    "reward",
    "rollout_id",
    "session_id",
    "started",
    "status",
    "stop_token_ids",
    "task_id",
    "timestamp",
    "turn",
];
/// Different keys that are remembered of a stretch; a record with more is no line of ours.
const MOST: usize = 64;

/// Keys that were passed over, and how often those were that look like another.
#[derive(Debug, Default)]
pub struct Unread {
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    key: Box<[u8]>,
    meant: Option<&'static str>,
    times: u64,
}

impl Unread {
    /// Notes a key that was passed over.
    pub(super) fn note(&mut self, key: &[u8]) {
        if let Some(seen) = self.seen.iter_mut().find(|seen| *seen.key == *key) {
            seen.times += 1;
        } else if self.seen.len() < MOST {
            let meant = std::str::from_utf8(key).ok().and_then(meant);
            self.seen.push(Seen { key: key.into(), meant, times: 1 });
        }
    }

    /// The keys that look like others: what they look like, and how often they were there.
    #[must_use]
    pub fn like(&self) -> BTreeMap<Text, (Text, u64)> {
        let like = self.seen.iter().filter_map(|seen| {
            Some((Text::from(std::str::from_utf8(&seen.key).ok()?), (Text::from(seen.meant?), seen.times)))
        });
        like.collect()
    }
}

/// The key that is meant, if one is.
fn meant(key: &str) -> Option<&'static str> {
    let plain = |key: &str| key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let mine = plain(key);
    if mine.len() < 4 {
        return None;
    }
    let same = KNOWN.iter().find(|known| plain(known) == mine || known.strip_suffix("_id") == Some(&mine));
    let near = || KNOWN.iter().find(|known| is_one_edit(&mine, &plain(known)));
    same.or_else(near).copied()
}

/// Whether one letter more, less or other makes one text of the other, or two that changed places.
fn is_one_edit(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let start = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (a, b) = (&one[start..], &other[start..]);
    let swapped = a.len() >= 2 && b.len() >= 2 && a[0] == b[1] && a[1] == b[0] && a[2..] == b[2..];
    swapped
        || match (a, b) {
            ([_, a @ ..], [_, b @ ..]) if a == b => true,
            ([_, a @ ..], b) if a == b => true,
            (a, [_, b @ ..]) => a == b,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_told() {
        for (key, known) in [
            ("rolloutid", "rollout_id"),
            ("rolloutId", "rollout_id"),
            ("rollout", "rollout_id"),
            ("tsk_id", "task_id"),
            ("task", "task_id"),
            ("rewrd", "reward"),
            ("rewards", "reward"),
            ("rewadr", "reward"),
            ("Status", "status"),
            ("attemps", "attempt"),
            ("sesion_id", "session_id"),
        ] {
            assert_eq!(meant(key), Some(known), "{key}");
        }
        for key in ["ended", "model", "request", "score", "name", "id", "messages", "usage", "state", "logprobs", "x"] {
            assert_eq!(meant(key), None, "{key}");
        }
    }
}
