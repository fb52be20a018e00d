//! What is told of a rollout beside its calls: that it was opened and closed, which replies were used, what became of
//! one. Such lines stand anywhere in a log; they are joined, and given to the calls when the rollout is whole.

use super::call::{Call, Skip};
use crate::rows::Text;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a recorder, or whoever runs a rollout, says of it on lines of their own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The rollout was opened.
    pub begun: bool,
    /// The rollout was closed.
    pub ended: bool,
    /// It was given up.
    pub abandoned: bool,
    /// Ids of the replies that the harness used, where it says so.
    pub consumed: Option<Arc<[Text]>>,
    /// Fates of single calls, by their ids, in their order.
    pub marks: Vec<(Text, ReplyFate)>,
}

/// What became of a reply, as the prompts after it show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyFate {
    /// A later prompt holds it after all.
    Kept,
    /// Left out, and it called no tool that was offered.
    ParseError,
    /// Left out.
    Dropped,
    /// The call is of this kind.
    Kind(Text),
}

impl Outcome {
    /// Adds what another line says.
    pub fn join(&mut self, more: &Self) {
        self.begun |= more.begun;
        self.ended |= more.ended;
        self.abandoned |= more.abandoned;
        self.consumed = more.consumed.clone().or(self.consumed.take());
        self.marks.extend_from_slice(&more.marks);
    }

    /// Gives a call of the rollout what was said of it.
    pub fn settle(&self, call: &mut Call) {
        let id = call.call_id.clone().unwrap_or_default();
        for (_, mark) in self.marks.iter().filter(|(marked, _)| *marked == id) {
            match mark {
                ReplyFate::Kind(kind) => call.kind = Some(kind.clone()),
                ReplyFate::ParseError => call.parse_error = true,
                ReplyFate::Dropped => call.set_aside = call.set_aside.or(Some(Skip::Dropped)),
                ReplyFate::Kept => {
                    call.parse_error = false;
                    call.set_aside = call.set_aside.filter(|reason| *reason != Skip::Dropped);
                }
            }
        }
        if self.consumed.as_ref().is_some_and(|consumed| !consumed.contains(&id)) {
            call.set_aside = call.set_aside.or(Some(Skip::Unconsumed));
        }
        if self.abandoned || self.begun && !self.ended {
            call.set_aside = call.set_aside.or(Some(Skip::Abandoned));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_rollout_settles_its_calls() {
        let call = |id: &str| Call { call_id: Some(id.into()), ..Call::default() };
        let settled = |told: &Outcome, id: &str| {
            let mut call = call(id);
            told.settle(&mut call);
            call
        };
        let marks = vec![
            ("a".into(), ReplyFate::Dropped),
            ("b".into(), ReplyFate::ParseError),
            ("a".into(), ReplyFate::Kept),
            ("c".into(), ReplyFate::Dropped),
            ("d".into(), ReplyFate::Kind("summariser".into())),
        ];
        let mut told = Outcome { marks, ..Outcome::default() };
        assert_eq!(settled(&told, "a"), call("a"));
        assert!(settled(&told, "b").parse_error);
        assert_eq!(settled(&told, "c").set_aside, Some(Skip::Dropped));
        assert_eq!(settled(&told, "d").kind.as_deref(), Some("summariser"));
        told.join(&Outcome { begun: true, ..Outcome::default() });
        assert_eq!(settled(&told, "a").set_aside, Some(Skip::Abandoned));
        assert_eq!(settled(&told, "c").set_aside, Some(Skip::Dropped), "the first reason counts");
        told.join(&Outcome { ended: true, consumed: Some(["a".into()].into()), ..Outcome::default() });
        assert_eq!(settled(&told, "a").set_aside, None);
        assert_eq!(settled(&told, "b").set_aside, Some(Skip::Unconsumed));
        told.join(&Outcome { abandoned: true, ..Outcome::default() });
        assert_eq!(settled(&told, "a").set_aside, Some(Skip::Abandoned));
    }
}
