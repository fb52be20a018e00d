//! Which tokenizer and template a call's ids are of. Told by how its prompt begins and ends; never guessed.

use crate::ids::think::Opened;
use crate::ids::turns::{Tail, TurnRule};
use crate::ids::{Id, Profile};
use std::sync::{Arc, OnceLock};

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
    known: Arc<[Known]>,
    given: bool,
}

/// The built-in profiles made ready: a rollout in memory may take less time than reading them.
static BUILT_IN: OnceLock<Arc<[Known]>> = OnceLock::new();

impl Identities {
    /// The given profile alone, or all built-in ones.
    ///
    /// # Errors
    /// `Usage` if a built-in profile does not read.
    pub fn new(given: Option<&Profile>) -> crate::Result<Self> {
        let ready = |profile: Profile| Known { rule: TurnRule::new(&profile), profile };
        let known = match (given, BUILT_IN.get()) {
            (Some(profile), _) => [ready(profile.clone())].into(),
            (None, Some(known)) => Arc::clone(known),
            (None, None) => {
                let read = |name| Profile::built_in(name).map(ready);
                let known = Profile::built_in_names().into_iter().map(read).collect::<crate::Result<Arc<[_]>>>()?;
                Arc::clone(BUILT_IN.get_or_init(|| known))
            }
        };
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
