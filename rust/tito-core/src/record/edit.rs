//! Members taken out of JSON objects by cutting the text: every byte that stays is as it was.

use crate::json::{Cursor, Fault};
use std::ops::Range;

/// What becomes of a member of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays.
    Keep,
    /// It goes, with the comma that parts it from its neighbour.
    Cut,
    /// Its value becomes null.
    Null,
}

/// What is changed in a text, in its order.
#[derive(Debug, Default)]
pub(super) struct Edits {
    edits: Vec<(Range<usize>, &'static [u8])>,
}

impl Edits {
    /// The text with the edits made.
    pub(super) fn apply(&self, text: &[u8], out: &mut Vec<u8>) {
        let mut at = 0;
        for (range, new) in &self.edits {
            // An outer cut swallows those made inside it before.
            if range.start < at {
                continue;
            }
            out.extend_from_slice(&text[at..range.start]);
            out.extend_from_slice(new);
            at = range.end;
        }
        out.extend_from_slice(&text[at..]);
    }

    fn push(&mut self, range: Range<usize>, new: &'static [u8]) {
        while self.edits.last().is_some_and(|(last, _)| last.start >= range.start) {
            self.edits.pop();
        }
        self.edits.push((range, new));
    }

    /// Calls `f` for each member of an object; `f` says what becomes of it. False (and the value skipped) for any
    /// value that is no object.
    pub(super) fn members<'a>(
        &mut self,
        c: &mut Cursor<'a>,
        mut f: impl FnMut(&mut Self, &mut Cursor<'a>, &[u8]) -> Result<Fate, Fault>,
    ) -> Result<bool, Fault> {
        c.peek();
        let (mut end, mut kept, mut first) = (c.pos() + 1, false, true);
        c.object::<Fault>(|c, key| {
            let value = c.pos();
            let fate = f(self, c, key)?;
            if c.pos() == value {
                c.skip()?;
            }
            match fate {
                Fate::Cut => self.push(end..c.pos(), b""),
                Fate::Keep | Fate::Null => {
                    if fate == Fate::Null {
                        self.push(value..c.pos(), b"null");
                    }
                    if !kept && !first {
                        // All before it went: so does the comma in front of it.
                        let comma = c.text()[end..value].iter().position(|b| *b == b',').map_or(end, |n| end + n + 1);
                        self.before(end..comma, value);
                    }
                    kept = true;
                }
            }
            first = false;
            end = c.pos();
            Ok(())
        })
    }

    /// An edit that stands before those made since `from`.
    fn before(&mut self, range: Range<usize>, from: usize) {
        let at = self.edits.iter().rposition(|(known, _)| known.start < from).map_or(0, |n| n + 1);
        self.edits.insert(at, (range, b""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(text: &str, gone: &str) -> String {
        let mut edits = Edits::default();
        let mut c = Cursor::new(text.as_bytes());
        edits
            .members(&mut c, |edits, c, key| {
                if key == b"in" {
                    edits.members(c, |_, _, key| {
                        Ok(if gone.as_bytes().contains(&key[0]) { Fate::Cut } else { Fate::Keep })
                    })?;
                }
                Ok(match key {
                    b"n" => Fate::Null,
                    _ if gone.as_bytes().contains(&key[0]) => Fate::Cut,
                    _ => Fate::Keep,
                })
            })
            .expect("good JSON");
        let mut out = Vec::new();
        edits.apply(text.as_bytes(), &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn members_go_with_one_comma() {
        for (text, gone, left) in [
            (r#"{"a":1,"b":2,"c":3}"#, "a", r#"{"b":2,"c":3}"#),
            (r#"{"a":1,"b":2,"c":3}"#, "b", r#"{"a":1,"c":3}"#),
            (r#"{"a":1,"b":2,"c":3}"#, "c", r#"{"a":1,"b":2}"#),
            (r#"{"a":1,"b":2,"c":3}"#, "ab", r#"{"c":3}"#),
            (r#"{"a":1,"b":2,"c":3}"#, "ac", r#"{"b":2}"#),
            (r#"{"a":1,"b":2,"c":3}"#, "abc", "{}"),
            (r#"{"a":1 , "n":[1,2], "c":3}"#, "a", r#"{ "n":null, "c":3}"#),
            (r#"{"a":1,"in":{"a":1,"b":2},"c":3}"#, "a", r#"{"in":{"b":2},"c":3}"#),
            (r#"{"a":1,"in":{"a":1,"b":2},"c":3}"#, "ai", r#"{"c":3}"#),
            (r#"{"in":{"a":1},"b":2}"#, "a", r#"{"in":{},"b":2}"#),
            ("{}", "a", "{}"),
        ] {
            assert_eq!(without(text, gone), left, "{text} without {gone}");
        }
    }
}
