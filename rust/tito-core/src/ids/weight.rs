//! Which rows weigh more: `SELECTOR:WEIGHT`, split at the last colon. Rules that match the same row multiply.
//!
//! The copies policy states the same weights as whole numbers of copies, drawn systematically so that the sum stays.

use super::select::{Facts, KEYS, Selector};
use crate::error::{Error, Result};

/// One rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// As it was written.
    pub text: String,
    /// What it is about.
    pub selector: Selector,
    weight: f32,
}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    /// `Usage`, naming what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: String| {
            let keys = KEYS.join(", ");
            Error::usage(
                format!("--upweight {text:?}: {what}"),
                format!(
                    "a rule is SELECTOR:WEIGHT, like 0-2:12, last:3 or agent=agent1&0-2:2 (keys: {keys}, reward, tool, \
                     match, note:NAME)"
                ),
            )
        };
        let (selector, weight) = text.rsplit_once(':').ok_or_else(|| wrong("no colon".to_owned()))?;
        let weight: f32 = match weight.trim().parse() {
            // What is rounded to 0 has a digit of its own before the exponent.
            Ok(0.0)
                if weight
                    .split(['e', 'E'])
                    .next()
                    .is_some_and(|digits| digits.contains(|c| ('1'..='9').contains(&c))) =>
            {
                return Err(wrong(format!("{weight:?} is too small for a float32 and would be 0")));
            }
            Ok(weight) if f32::is_finite(weight) && weight >= 0.0 => weight,
            _ => return Err(wrong(format!("{weight:?} is no weight (a finite number, 0 or more)"))),
        };
        let selector = Selector::parse(selector).map_err(wrong)?;
        Ok(Self { text: text.to_owned(), selector, weight })
    }
}

/// The largest weight a row may get: what is meant as a weight is far below it, and as copies it would fill a disk.
pub const MOST: f64 = 1e6;

/// Refuses rules that could multiply to more than [`MOST`], or to so little that a float32 rounds it to 0.
///
/// # Errors
/// `Usage`.
pub fn check_product(rules: &[Rule]) -> Result<()> {
    let most: f64 = rules.iter().map(|rule| f64::from(rule.weight).max(1.0)).product();
    let small = rules.iter().map(|rule| f64::from(rule.weight)).filter(|weight| *weight > 0.0 && *weight < 1.0);
    let least: f64 = small.product();
    if least < f64::from(f32::MIN_POSITIVE) {
        return Err(Error::usage(
            format!("--upweight: rows could weigh {least:.0e}, which a float32 does not hold"),
            "use larger weights: only their ratios matter to a trainer",
        ));
    }
    if most <= MOST {
        return Ok(());
    }
    Err(Error::usage(
        format!("--upweight: rows could weigh {most:e}, the limit is {MOST:e}"),
        "use smaller weights: only their ratios matter to a trainer",
    ))
}

/// The row's weight; the rules that are about it are appended to `matched`.
#[must_use]
pub fn weigh(rules: &[Rule], facts: &Facts<'_>, matched: &mut Vec<u32>) -> f32 {
    let mut weight = 1.0;
    for (at, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.selector.matches(facts)) {
        matched.push(at as u32);
        weight *= rule.weight;
    }
    weight
}

/// Turns weights into numbers of copies so that at any point the copies so far differ from the weights so far by less
/// than one: a running sum is cut at whole numbers, shifted by a seeded offset.
#[derive(Debug, Clone, Copy)]
pub struct Copies {
    sum: f64,
    given: u64,
}

impl Copies {
    /// Starts at an offset in [0, 1) made from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // SplitMix64: neighbouring seeds give unrelated offsets.
        let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // Twenty bits, so that adding whole weights to it never rounds.
        let offset = ((z ^ (z >> 31)) >> 44) as f64 / f64::from(1 << 20);
        Self { sum: offset, given: 0 }
    }

    /// How many copies the next row gets.
    pub fn draw(&mut self, weight: f32) -> u64 {
        self.sum += f64::from(weight);
        let until = self.sum.floor() as u64;
        let copies = until.saturating_sub(self.given);
        self.given = until;
        copies
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(turn: i32) -> Facts<'static> {
        Facts {
            turn: Some(turn),
            first_turn: Some(0),
            last_turn: Some(9),
            values: [Some("agent1"); 7],
            ..Facts::default()
        }
    }

    #[test]
    fn rules_read_as_they_are_written() {
        for (rule, turn, expected) in [
            ("0-2:12", 2, 12.0),
            ("0-2:12", 3, 1.0),
            ("3:0.5", 3, 0.5),
            ("first:2", 0, 2.0),
            ("last:2", 9, 2.0),
            ("agent=agent1:4", 5, 4.0),
            ("agent=agent1&0-2:4", 2, 4.0),
            ("agent=agent1&0-2:4", 3, 1.0),
            ("task=a:b:4", 5, 1.0),
        ] {
            let rules = [Rule::parse(rule).unwrap()];
            assert_eq!(weigh(&rules, &at(turn), &mut Vec::new()), expected, "{rule}");
        }
        let both = [Rule::parse("0-2:3").unwrap(), Rule::parse("first:2").unwrap()];
        let mut matched = Vec::new();
        assert_eq!(weigh(&both, &at(0), &mut matched), 6.0);
        assert_eq!(weigh(&both, &at(1), &mut matched), 3.0);
        assert_eq!(matched, [0, 1, 0]);
    }

    #[test]
    fn wrong_rules_are_named() {
        for (rule, what) in [
            ("12", "--upweight \"12\": no colon"),
            ("0-2:x", "--upweight \"0-2:x\": \"x\" is no weight (a finite number, 0 or more)"),
            ("0:-1", "--upweight \"0:-1\": \"-1\" is no weight (a finite number, 0 or more)"),
            ("0:1e-50", "--upweight \"0:1e-50\": \"1e-50\" is too small for a float32 and would be 0"),
            ("0:NaN", "--upweight \"0:NaN\": \"NaN\" is no weight (a finite number, 0 or more)"),
            ("2-0:3", "--upweight \"2-0:3\": turns 2-0 run backwards"),
            ("tol=x:2", "--upweight \"tol=x:2\": unknown key \"tol\""),
            ("tool=:2", "--upweight \"tool=:2\": no name of a tool"),
            ("match=a:2", "--upweight \"match=a:2\": \"a\" is no /REGEX/"),
            ("match=/(/:2", "--upweight \"match=/(/:2\": /(/: unclosed group"),
            ("reward=x:2", "--upweight \"reward=x:2\": \"x\" is no reward"),
            ("reward=nan:2", "--upweight \"reward=nan:2\": \"nan\" is no reward"),
            ("reward=1..0:2", "--upweight \"reward=1..0:2\": rewards 1..0 run backwards"),
            ("agent=a&x:2", "--upweight \"agent=a&x:2\": \"x\" is no turn"),
            ("note:a:2", "--upweight \"note:a:2\": \"note:a\" is no turn"),
            ("x:2", "--upweight \"x:2\": \"x\" is no turn"),
            ("-1:2", "--upweight \"-1:2\": \"\" is no turn"),
        ] {
            assert_eq!(Rule::parse(rule).unwrap_err().to_string(), what);
        }
    }

    proptest! {
        #[test]
        fn copies_state_the_total_weight(weights in prop::collection::vec(0.0f32..20.0, 1..200), seed: u64) {
            let mut copies = Copies::new(seed);
            let drawn: u64 = weights.iter().map(|w| copies.draw(*w)).sum();
            let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            prop_assert!((drawn as f64 - total).abs() < 1.0 + 1e-6, "{drawn} copies for {total}");
        }

        #[test]
        fn whole_weights_are_exact_copies(weights in prop::collection::vec(0u8..20, 1..100), seed: u64) {
            let mut copies = Copies::new(seed);
            for weight in weights {
                prop_assert_eq!(copies.draw(f32::from(weight)), u64::from(weight));
            }
        }
    }
}
