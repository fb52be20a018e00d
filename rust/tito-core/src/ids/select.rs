//! Which rows a rule is about: selectors joined by `&`, all of which must hold.
//!
//! A selector is a turn (`3`), turns from and to (`0-2`), `first`, `last`, `KEY=VALUE` with a key of [`KEYS`],
//! `reward=1`, `reward=LOW..HIGH` (either end may be left out) or `reward=none`, `note:NAME=VALUE` for an annotation of
//! the capture, `tool=NAME` or `match=/REGEX/`. Ends belong to what they bound. The last two ask for the text of the
//! output, so they need a tokenizer.

use super::tools::Tool;
use regex::bytes::Regex;
use std::sync::Arc;

/// Names that a selector may ask for.
pub const KEYS: [&str; 7] = ["agent", "kind", "task", "pair", "rollout", "status", "attempt"];

/// Annotations of a call: names and values.
pub type Notes = Arc<[(Arc<str>, Arc<str>)]>;

/// What a row shows to the selectors.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// Turn of the row.
    pub turn: Option<i32>,
    /// First turn of its rollout.
    pub first_turn: Option<i32>,
    /// Last turn of its rollout, whether or not that turn gave a row.
    pub last_turn: Option<i32>,
    /// Values of [`KEYS`].
    pub values: [Option<&'a str>; 7],
    /// Reward of its rollout.
    pub reward: Option<f32>,
    /// Annotations of the call.
    pub notes: &'a [(Arc<str>, Arc<str>)],
    /// Text of the output that is trained; given only where a rule asks for it.
    pub text: Option<&'a [u8]>,
    /// The same without its thinking, where no tool is called.
    pub said: Option<&'a [u8]>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Selector {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Turns(i32, i32),
    First,
    Last,
    Key(usize, String),
    Reward(Option<(f32, f32)>),
    Note(String, String),
    Text(Regex),
    Tool(Tool),
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// What is wrong, in a few words.
    pub fn parse(text: &str) -> Result<Self, String> {
        parts_of(text)
            .into_iter()
            .map(|part| Part::parse(part.trim()))
            .collect::<Result<_, _>>()
            .map(|parts| Self { parts })
    }

    /// Whether it asks for the text of outputs.
    #[must_use]
    pub fn needs_text(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Text(_) | Part::Tool(_)))
    }

    /// Whether it is about this row.
    #[must_use]
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        self.parts.iter().all(|part| part.matches(facts))
    }
}

/// Splits at each `&` that does not stand in a `/REGEX/`.
fn parts_of(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        if text[start..].trim_start().starts_with("match=/") && bytes[at] == b'/' {
            at = end_of_regex(bytes, at + 1);
        } else if bytes[at] == b'&' {
            parts.push(&text[start..at]);
            start = at + 1;
        }
        at += 1;
    }
    parts.push(&text[start..]);
    parts
}

/// Where the slash is that ends the expression; the end of the text if there is none.
fn end_of_regex(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at] != b'/' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at
}

impl Part {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "first" => return Ok(Self::First),
            "last" => return Ok(Self::Last),
            _ => {}
        }
        let Some((key, value)) = text.split_once('=') else { return Self::turns(text) };
        if let Some(name) = key.strip_prefix("note:") {
            return Ok(Self::Note(name.to_owned(), value.to_owned()));
        }
        match key {
            "reward" => Self::reward(value),
            "tool" => Tool::new(value).map(Self::Tool),
            "match" => {
                let inner = value.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
                let inner = inner.ok_or_else(|| format!("{value:?} is no /REGEX/"))?;
                Regex::new(inner).map(Self::Text).map_err(|e| format!("/{inner}/: {}", reason(&e)))
            }
            _ => {
                let known = KEYS.iter().position(|known| *known == key);
                known.map(|key| Self::Key(key, value.to_owned())).ok_or_else(|| format!("unknown key {key:?}"))
            }
        }
    }

    fn turns(text: &str) -> Result<Self, String> {
        let turn = |part: &str| {
            let turn = part.parse::<u32>().ok().and_then(|n| i32::try_from(n).ok());
            turn.ok_or_else(|| format!("{part:?} is no turn"))
        };
        match text.split_once('-') {
            Some((from, to)) => match (turn(from)?, turn(to)?) {
                (from, to) if from > to => Err(format!("turns {from}-{to} run backwards")),
                (from, to) => Ok(Self::Turns(from, to)),
            },
            None => turn(text).map(|turn| Self::Turns(turn, turn)),
        }
    }

    fn reward(value: &str) -> Result<Self, String> {
        // Rewards are kept as 32 bit floats: a bound must be rounded alike to be met.
        let number = |text: &str| {
            let number = text.trim().parse::<f32>().ok().filter(|n| n.is_finite());
            number.ok_or_else(|| format!("{text:?} is no reward"))
        };
        if value == "none" {
            return Ok(Self::Reward(None));
        }
        let Some((low, high)) = value.split_once("..") else {
            return number(value).map(|reward| Self::Reward(Some((reward, reward))));
        };
        let end = |text: &str, open: f32| if text.trim().is_empty() { Ok(open) } else { number(text) };
        match (end(low, f32::NEG_INFINITY)?, end(high, f32::INFINITY)?) {
            (from, to) if from > to => Err(format!("rewards {low}..{high} run backwards")),
            range => Ok(Self::Reward(Some(range))),
        }
    }

    fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Turns(from, to) => facts.turn.is_some_and(|turn| (*from..=*to).contains(&turn)),
            Self::First => facts.turn.is_some() && facts.turn == facts.first_turn,
            Self::Last => facts.turn.is_some() && facts.turn == facts.last_turn,
            Self::Key(key, value) => facts.values[*key] == Some(value),
            Self::Reward(None) => facts.reward.is_none(),
            Self::Reward(Some((low, high))) => facts.reward.is_some_and(|r| *low <= r && r <= *high),
            Self::Note(name, value) => facts.notes.iter().any(|(n, v)| **n == **name && **v == **value),
            Self::Text(regex) => facts.text.is_some_and(|text| regex.is_match(text)),
            Self::Tool(tool) => facts.said.is_some_and(|text| tool.is_called_in(text)),
        }
    }
}

/// The last line says what is wrong; those before draw it.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(selector: &str, facts: &Facts<'_>) -> bool {
        Selector::parse(selector).unwrap().matches(facts)
    }

    #[test]
    fn rewards_are_met_at_both_ends() {
        for (selector, met) in [
            ("reward=0.1", [true, false, false, false]),
            ("reward=..0.5", [true, true, false, false]),
            ("reward=0.5..", [false, true, true, false]),
            ("reward=0.1..0.5", [true, true, false, false]),
            ("reward=..", [true, true, true, false]),
            ("reward=none", [false, false, false, true]),
        ] {
            let rewards = [Some(0.1), Some(0.5), Some(1.0), None];
            let found = rewards.map(|reward| holds(selector, &Facts { reward, ..Facts::default() }));
            assert_eq!(found, met, "{selector}");
        }
    }

    #[test]
    fn all_parts_must_hold() {
        let facts = |turn, agent| Facts { turn, values: [agent; 7], text: Some(b"a&b/c"), ..Facts::default() };
        assert!(holds("agent=a&0-2", &facts(Some(2), Some("a"))));
        assert!(!holds("agent=a&0-2", &facts(Some(3), Some("a"))));
        assert!(!holds("agent=a&0-2", &facts(Some(2), Some("b"))));
        assert!(holds(r"match=/a&b\/c/&agent=a", &facts(None, Some("a"))));
        assert!(!holds(r"match=/a&b\/c/&agent=a", &facts(None, Some("b"))));
    }

    #[test]
    fn annotations_are_asked_by_name() {
        let notes: Notes = Arc::new([("grade".into(), "A".into()), ("x=y".into(), "".into())]);
        let facts = Facts { notes: &notes, ..Facts::default() };
        assert!(holds("note:grade=A", &facts));
        assert!(!holds("note:grade=B", &facts));
        assert!(!holds("note:mark=A", &facts));
    }
}
