//! Which tokenizer and template a call's ids are of. Told by how its prompt begins and ends; never guessed.

use crate::ids::think::Opened;
use crate::ids::turns::{Tail, TurnRule};
use crate::ids::{Id, Profile};

/// A profile made ready.
#[derive(Debug)]
pub struct Known {
    /// The profile.
    pub profile: Profile,
    /// Its rules.
    pub rule: TurnRule,
}

/// The profiles a run may meet.
#[derive(Debug)]
pub struct Identities {
    known: Vec<Known>,
    given: bool,
}

impl Identities {
    /// The given profile alone, or all built-in ones.
    ///
    /// # Errors
    /// `Usage` if a built-in profile does not read.
    pub fn new(given: Option<&Profile>) -> crate::Result<Self> {
        let profiles = match given {
            Some(profile) => vec![profile.clone()],
            None => Profile::built_in_names().into_iter().map(Profile::built_in).collect::<crate::Result<_>>()?,
        };
        let known = profiles.into_iter().map(|profile| Known { rule: TurnRule::new(&profile), profile }).collect();
        Ok(Self { known, given: given.is_some() })
    }

    /// The profile a prompt is of.
    #[must_use]
    pub fn of(&self, prompt: &[Id]) -> Option<usize> {
        self.known.iter().position(|known| {
            let profile = &known.profile;
            prompt.starts_with(&profile.prompt_start)
                && match self.given {
                    // The user vouches for the template, so a tail that holds more (a prefilled answer) will do.
                    true => known.rule.think().opened_by(prompt) != Opened::Unknown,
                    false => known.rule.tail_of(prompt) != Tail::Other,
                }
        })
    }

    /// A known profile.
    #[must_use]
    pub fn get(&self, index: usize) -> &Known {
        &self.known[index]
    }

    /// Names of all.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.known.iter().map(|known| known.profile.name.as_str())
    }

    /// The profile of that name.
    #[must_use]
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.known.iter().position(|known| known.profile.name == name)
    }

    /// Name of an identity.
    #[must_use]
    pub fn name(&self, identity: Option<usize>) -> &str {
        identity.map_or("unknown", |index| &self.known[index].profile.name)
    }
}
