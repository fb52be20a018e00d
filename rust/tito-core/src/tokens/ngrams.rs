//! Runs of words of one text, found again in others whatever their case, spacing and punctuation.
//!
//! A word is a run of letters and digits, in lower case; in scripts that write no spaces (from U+2E80 on) every letter is
//! one. Runs are hashed as words come by; a hit by hash is compared word by word before it counts.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Multiplier of the hash of a run.
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;
/// Bits of the table that most words are sorted out by: 8 KiB, which stays in the nearest cache.
const FILTER_BITS: u32 = 16;

/// See the module.
#[derive(Debug)]
pub struct Ngrams {
    words: Vec<String>,
    /// Words of a run.
    n: usize,
    /// `BASE` to the power of `n`.
    leaving: u64,
    /// By hash: where in `words` such runs begin.
    starts: HashMap<u64, Vec<usize>>,
    filter: Vec<u64>,
}

/// A run that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The byte that its first word begins at.
    pub at: usize,
    /// Its words.
    pub words: String,
}

impl Ngrams {
    /// All runs of `n` words of `text` (of all its words, where it has fewer) but those that `ignored` has too. `None`
    /// when none is left.
    #[must_use]
    pub fn new(text: &str, n: usize, ignored: &str) -> Option<Self> {
        let words = words_of(text);
        let n = n.min(words.len());
        if n == 0 {
            return None;
        }
        let ignored = words_of(ignored);
        let known: HashSet<&[String]> = ignored.windows(n).collect();
        let leaving = (0..n).fold(1, |power: u64, _| power.wrapping_mul(BASE));
        let mut starts: HashMap<u64, Vec<usize>> = HashMap::new();
        let mut filter = vec![0; 1 << (FILTER_BITS - 6)];
        for (start, run) in words.windows(n).enumerate().filter(|(_, run)| !known.contains(run)) {
            let hash = run.iter().fold(0, |sum: u64, word| sum.wrapping_mul(BASE).wrapping_add(hash_of(word)));
            starts.entry(hash).or_default().push(start);
            let (slot, bit) = place(hash);
            filter[slot] |= bit;
        }
        (!starts.is_empty()).then_some(Self { words, n, leaving, starts, filter })
    }

    /// How many words a run has.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// The first run in a text. Bytes that are no UTF-8 end a word.
    #[must_use]
    pub fn find(&self, text: &[u8]) -> Option<Hit> {
        let mut recent: Vec<(Range<usize>, u64)> = vec![(0..0, 0); self.n];
        let (mut sum, mut seen, mut hit) = (0_u64, 0_usize, None);
        each_word(text, |range, hash| {
            let slot = &mut recent[seen % self.n];
            let gone = slot.1;
            *slot = (range, hash);
            seen += 1;
            sum = sum.wrapping_mul(BASE).wrapping_add(hash).wrapping_sub(gone.wrapping_mul(self.leaving));
            let (at, bit) = place(sum);
            if self.filter[at] & bit == 0 || seen < self.n {
                return true;
            }
            let Some(starts) = self.starts.get(&sum) else { return true };
            let run: Vec<String> =
                (seen..seen + self.n).map(|turn| lower(&text[recent[turn % self.n].0.clone()])).collect();
            if starts.iter().any(|start| self.words[*start..*start + self.n] == run[..]) {
                hit = Some(Hit { at: recent[seen % self.n].0.start, words: run.join(" ") });
            }
            hit.is_none()
        });
        hit
    }
}

fn place(hash: u64) -> (usize, u64) {
    let at = hash >> (64 - FILTER_BITS);
    ((at >> 6) as usize, 1 << (at & 63))
}

fn words_of(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    each_word(text.as_bytes(), |range, _| {
        words.push(lower(&text.as_bytes()[range]));
        true
    });
    words
}

fn lower(word: &[u8]) -> String {
    let seen = |letter: &char| no_width(letter.encode_utf8(&mut [0; 4]).as_bytes()).is_none();
    String::from_utf8_lossy(word).chars().filter(seen).flat_map(char::to_lowercase).collect()
}

/// FNV-1a, then mixed: its high bits alone are too alike.
fn hash_of(word: &str) -> u64 {
    finish(word.bytes().fold(SEED, step))
}

const SEED: u64 = 0xCBF2_9CE4_8422_2325;

fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
}

fn finish(hash: u64) -> u64 {
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(BASE);
    mixed ^ (mixed >> 29)
}

/// Gives each word and the hash of it in lower case, until `take` says no.
fn each_word(text: &[u8], mut take: impl FnMut(Range<usize>, u64) -> bool) {
    let (mut at, mut start, mut hash) = (0, None, SEED);
    while at < text.len() {
        let byte = text[at];
        if byte.is_ascii_alphanumeric() {
            start = start.or(Some(at));
            hash = step(hash, byte.to_ascii_lowercase());
            at += 1;
            continue;
        }
        if let Some(length) = no_width(&text[at..]) {
            at += length;
            continue;
        }
        let letter = if byte.is_ascii() { None } else { letter_at(&text[at..]).filter(|c| c.is_alphanumeric()) };
        let alone = letter.is_some_and(|letter| letter >= '\u{2E80}');
        if (letter.is_none() || alone)
            && let Some(start) = start.take()
        {
            if !take(start..at, finish(hash)) {
                return;
            }
            hash = SEED;
        }
        let Some(letter) = letter else {
            at += 1;
            continue;
        };
        let end = at + letter.len_utf8();
        let mut bytes = [0; 4];
        for lower in letter.to_lowercase() {
            hash = lower.encode_utf8(&mut bytes).bytes().fold(hash, step);
        }
        if alone {
            if !take(at..end, finish(hash)) {
                return;
            }
            hash = SEED;
        } else {
            start = start.or(Some(at));
        }
        at = end;
    }
    if let Some(start) = start {
        take(start..text.len(), finish(hash));
    }
}

/// Bytes of a character that takes no room: the word goes on behind it.
fn no_width(text: &[u8]) -> Option<usize> {
    match text {
        // U+00AD
        [0xC2, 0xAD, ..] => Some(2),
        // U+200B to U+200D, U+2060, U+FEFF
        [0xE2, 0x80, 0x8B..=0x8D, ..] | [0xE2, 0x81, 0xA0, ..] | [0xEF, 0xBB, 0xBF, ..] => Some(3),
        _ => None,
    }
}

fn letter_at(text: &[u8]) -> Option<char> {
    let length = match text.first()? {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => 1,
    };
    std::str::from_utf8(text.get(..length)?).ok()?.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, n: usize, within: &str) -> Option<Hit> {
        Ngrams::new(text, n, "")?.find(within.as_bytes())
    }

    #[test]
    fn case_space_and_punctuation_do_not_hide_a_run() {
        let hit = find("Plan first, then ACT at once.", 4, "he said: *plan*\n FIRST -- then\tact!");
        assert_eq!(hit, Some(Hit { at: 10, words: "plan first then act".to_owned() }));
        assert_eq!(find("Plan first, then ACT at once.", 4, "plan first and then act at"), None);
    }

    #[test]
    fn fewer_words_than_n_are_one_run() {
        assert!(find("Send a message", 8, "do SEND a Message now").is_some());
        assert!(find("Send a message", 8, "send a mess").is_none());
        assert!(Ngrams::new(" -- \n", 8, "").is_none());
    }

    #[test]
    fn what_the_default_text_says_too_is_no_leak() {
        assert!(Ngrams::new("a b c d", 2, "x a b y b c z c d").is_none());
        let grams = Ngrams::new("a b c d", 2, "a b").expect("runs are left");
        assert_eq!(grams.find(b"a b").map(|hit| hit.words), None);
        assert_eq!(grams.find(b"b c").map(|hit| hit.words), Some("b c".to_owned()));
    }

    #[test]
    fn scripts_without_spaces_are_read_letter_by_letter() {
        assert!(find("先に計画を立てなさい", 4, "彼は「計画を立て」と言った").is_some());
        assert!(find("Ünder Ärger", 2, "ünder ÄRGER").is_some());
    }

    #[test]
    fn what_takes_no_room_does_not_hide_a_run() {
        let hit = find("plan first then act", 4, "\u{FEFF}pl\u{200B}an fi\u{AD}rst\u{2060} then act");
        assert_eq!(hit.map(|hit| hit.words).as_deref(), Some("plan first then act"));
    }

    #[test]
    fn broken_utf_8_ends_a_word() {
        let grams = Ngrams::new("a b", 2, "").expect("two words");
        assert_eq!(grams.find(b"a\xFF\xE2\x82 b").map(|hit| hit.at), Some(0));
    }

    #[test]
    fn runs_are_found_at_every_place() {
        let words: Vec<String> = (0..50).map(|n| format!("w{n}")).collect();
        let text = words.join(" ");
        for n in [1, 3, 8] {
            let grams = Ngrams::new(&text, n, "").expect("runs");
            for start in 0..=words.len() - n {
                let found = grams.find(format!("x {} y", words[start..start + n].join("-")).as_bytes());
                assert_eq!(found.map(|hit| (hit.at, hit.words)), Some((2, words[start..start + n].join(" "))));
            }
        }
    }
}
