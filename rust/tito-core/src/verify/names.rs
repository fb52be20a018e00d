//! When two names mean one capture file. Captures move, so a name is compared from its end: as many parts as the path
//! has inside the folder that was named (the file's name alone where the file itself was named), or as the stated name
//! has if that are fewer. `.gz` and `.zst` at the end do not count, and `-` (standard input) goes with any.

use crate::rows::Text;
use std::path::{Component, Path};

/// What the user named.
#[derive(Debug)]
pub(super) struct Names {
    folders: Vec<String>,
}

impl Names {
    pub(super) fn new(captures: &[String]) -> Self {
        let folders = captures.iter().filter(|name| Path::new(name).is_dir());
        Self { folders: folders.map(|name| format!("{}/", name.trim_end_matches('/'))).collect() }
    }

    /// Whether the names that a row states mean the files that were read under these.
    pub(super) fn all_mean_one(&self, stated: &[Text], read: &[Text]) -> bool {
        together(stated, read).all(|(stated, read)| self.mean_one(stated, read))
    }

    /// Whether a name in a rows file means the file that was read under `read`.
    pub(super) fn mean_one(&self, stated: &str, read: &str) -> bool {
        if stated == read || stated == "-" {
            return true;
        }
        let inside =
            self.folders.iter().filter_map(|folder| read.strip_prefix(folder.as_str())).max_by_key(|s| s.len());
        let inside = inside.unwrap_or_else(|| last(read));
        let (mut a, mut b) = (parts(plain(stated)), parts(plain(inside)));
        loop {
            match (a.next_back(), b.next_back()) {
                (Some(a), Some(b)) if a == b => {}
                (Some(_), Some(_)) => return false,
                // A name without parts is none.
                _ => return !last(stated).is_empty(),
            }
        }
    }
}

/// The names of two rows of as many calls, side by side; where all are one it stands there once.
pub(super) fn together<'t>(stated: &'t [Text], read: &'t [Text]) -> impl Iterator<Item = (&'t Text, &'t Text)> {
    let at = |list: &'t [Text], at: usize| list.get(at).or(list.last());
    (0..stated.len().max(read.len())).filter_map(move |n| at(stated, n).zip(at(read, n)))
}

/// A file's own name.
pub(super) fn last(name: &str) -> &str {
    plain(name.rsplit('/').next().unwrap_or(name))
}

fn plain(name: &str) -> &str {
    name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name)
}

fn parts(name: &str) -> impl DoubleEndedIterator<Item = Component<'_>> {
    Path::new(name).components().filter(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_from_their_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().to_string_lossy().into_owned();
        let names = Names::new(std::slice::from_ref(&root));
        let read = format!("{root}/task/agent.json");
        for (stated, one) in [
            (read.as_str(), true),
            ("/elsewhere/task/agent.json", true),
            ("task/agent.json", true),
            ("agent.json", true),
            ("./agent.json.gz", true),
            ("-", true),
            ("/elsewhere/other/agent.json", false),
            ("/elsewhere/task/agent2.json", false),
            ("", false),
        ] {
            assert_eq!(names.mean_one(stated, &read), one, "{stated}");
        }
        let names = Names::new(&["/a/calls.jsonl.zst".to_owned()]);
        assert!(names.mean_one("/b/calls.jsonl", "/a/calls.jsonl.zst"));
        assert!(!names.mean_one("/b/call.jsonl", "/a/calls.jsonl.zst"));
    }
}
