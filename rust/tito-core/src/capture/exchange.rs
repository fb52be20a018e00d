//! What calls were asked and answered, as JSON: the messages before, the tools, the message of the reply.
//!
//! Kept only where it is asked for ([`Parsed::exchanges`]); rows are made of ids, and never look at it. Ids that formats
//! save inside messages are left out, so that a later reader of the text does not box them.

use super::call::Parsed;
use super::joined::{Choice, choice_of, member};
use crate::json::{Cursor, Fault};
use std::ops::Range;

/// What harnesses and proxies save in a message and no template shows.
const NOT_SHOWN: [&[u8]; 4] = [b"extra", b"token_capture", b"token_ids", b"provider_specific_fields"];

/// The exchanges of the calls that were parsed.
#[derive(Debug, Default)]
pub struct Exchanges {
    text: Vec<u8>,
    /// By call, ascending; calls without messages are not among them.
    of: Vec<(usize, Places)>,
}

/// Ranges of the text.
#[derive(Debug, Clone, Default)]
struct Places {
    /// The items of a list, without its brackets.
    messages: Range<usize>,
    tools: Option<Range<usize>>,
    model: Option<Range<usize>>,
    reply: Option<Range<usize>>,
}

/// What one call was asked and answered, each a JSON text. What is damaged inside is given as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// A list: the messages that the request sent.
    pub messages: Vec<u8>,
    /// The tools that it offered.
    pub tools: Option<Vec<u8>>,
    /// The model that it named.
    pub model: Option<Vec<u8>>,
    /// The message of the reply.
    pub reply: Option<Vec<u8>>,
}

/// A saved reply, while its record is read.
#[derive(Debug, Default)]
pub(super) enum Reply<'a> {
    #[default]
    None,
    Whole(Cursor<'a>),
    Events(Vec<u8>),
}

/// A record of a call log, while it is read.
#[derive(Debug, Default)]
pub(super) struct Logged<'a> {
    pub(super) request: Option<Cursor<'a>>,
    pub(super) reply: Reply<'a>,
}

impl Exchanges {
    /// What a call was asked and answered; none where the capture holds no messages.
    #[must_use]
    pub fn of(&self, call: usize) -> Option<Exchange> {
        let at = self.of.binary_search_by_key(&call, |(known, _)| *known).ok()?;
        let places = &self.of[at].1;
        let copy = |range: &Range<usize>| self.text[range.clone()].to_vec();
        let optional = |range: &Option<Range<usize>>| range.as_ref().map(copy);
        Some(Exchange {
            messages: [&b"["[..], &self.text[places.messages.clone()], b"]"].concat(),
            tools: optional(&places.tools),
            model: optional(&places.model),
            reply: optional(&places.reply),
        })
    }

    /// Forgets the calls from this one on.
    pub(super) fn truncate(&mut self, calls: usize) {
        let left = self.of.partition_point(|(call, _)| *call < calls);
        self.of.truncate(left);
    }

    fn put(&mut self, json: &[u8]) -> Range<usize> {
        let start = self.text.len();
        self.text.extend_from_slice(json);
        start..self.text.len()
    }

    /// Appends a message, less what no template shows.
    fn message(&mut self, json: &[u8]) -> Range<usize> {
        let start = self.text.len();
        let text = &mut self.text;
        text.push(b'{');
        let read = Cursor::new(json).object::<Fault>(|c, key| {
            if !NOT_SHOWN.contains(&key) {
                member(text, key, c.raw()?);
            }
            Ok(())
        });
        text.push(b'}');
        if read != Ok(true) {
            text.truncate(start);
            text.extend_from_slice(json);
        }
        start..self.text.len()
    }

    /// Appends a list of messages without its brackets; none if it is no list.
    fn messages(&mut self, mut list: Cursor<'_>) -> Option<Range<usize>> {
        let start = self.text.len();
        let read = list.array::<Fault>(|c, at| {
            if at > 0 {
                self.text.push(b',');
            }
            self.message(c.raw()?);
            Ok(())
        });
        (read == Ok(true)).then_some(start..self.text.len())
    }

    /// Enters the calls of a line of a call log, `first` and those behind it, one a choice.
    pub(super) fn logged(&mut self, first: usize, logged: Logged<'_>) {
        let Some(mut request) = logged.request else { return };
        let (mut messages, mut places) = (None, Places::default());
        // The reader of the calls has told of faults before.
        let _ = request.object::<Fault>(|c, key| {
            match key {
                b"messages" => messages = self.messages(c.clone()),
                b"tools" => places.tools = Some(self.put(c.raw()?)),
                b"model" => places.model = Some(self.put(c.raw()?)),
                _ => {}
            }
            Ok(())
        });
        let Some(messages) = messages else { return };
        places.messages = messages;
        let mut replies = Vec::new();
        let _ = match logged.reply {
            Reply::None => Ok(()),
            Reply::Whole(mut c) => self.whole_replies(&mut c, &mut replies),
            Reply::Events(events) => joined(&events)
                .map(|choices| replies.extend(choices.iter().map(|choice| choice.message().map(|m| self.message(&m))))),
        };
        // A reply without choices is one call.
        for at in 0..replies.len().max(1) {
            let reply = replies.get_mut(at).and_then(Option::take);
            self.of.push((first + at, Places { reply, ..places.clone() }));
        }
    }

    /// The message of each choice, in the order in which the choices become calls.
    fn whole_replies(&mut self, c: &mut Cursor<'_>, replies: &mut Vec<Option<Range<usize>>>) -> Result<(), Fault> {
        c.object::<Fault>(|c, key| {
            if key == b"choices" {
                c.array::<Fault>(|c, _| {
                    let mut reply = None;
                    c.object::<Fault>(|c, key| {
                        if key == b"message" {
                            reply = Some(self.message(c.raw()?));
                        }
                        Ok(())
                    })?;
                    replies.push(reply);
                    Ok(())
                })?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Gives the calls from this one on tools and model that are told of all of them.
    pub(super) fn told(&mut self, calls: usize, tools: Option<&[u8]>, model: Option<&[u8]>) {
        let (tools, model) = (tools.map(|json| self.put(json)), model.map(|json| self.put(json)));
        let from = self.of.partition_point(|(call, _)| *call < calls);
        for (_, places) in &mut self.of[from..] {
            (places.tools, places.model) = (tools.clone(), model.clone());
        }
    }
}

/// A list of messages some of which are replies: a saved trajectory, while it is read.
#[derive(Debug, Default)]
pub(super) struct Saved {
    messages: Option<Range<usize>>,
}

impl Saved {
    /// Takes the next message. `calls` are those it is the reply of: the first of them gets it, the others are choices
    /// that nobody went on with.
    pub(super) fn next(&mut self, parsed: &mut Parsed<'_>, message: &[u8], calls: Range<usize>, replies: bool) {
        let Some(exchanges) = &mut parsed.exchanges else { return };
        let before = self.messages.clone().unwrap_or_default();
        if self.messages.is_some() {
            exchanges.text.push(b',');
        }
        let reply = exchanges.message(message);
        for call in calls.clone() {
            let reply = (replies && call == calls.start).then(|| reply.clone());
            exchanges.of.push((call, Places { messages: before.clone(), reply, ..Places::default() }));
        }
        let start = if self.messages.is_some() { before.start } else { reply.start };
        self.messages = Some(start..reply.end);
    }
}

/// The choices that the deltas of a stream make, in the order in which they become calls.
fn joined(events: &[u8]) -> Result<Vec<Choice>, Fault> {
    let mut choices = Vec::new();
    for line in events.split(|byte| *byte == b'\n') {
        let Some(data) = line.trim_ascii().strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { continue };
        if data == b"[DONE]" {
            break;
        }
        Cursor::new(data).object::<Fault>(|c, key| {
            if key == b"choices" {
                c.array::<Fault>(|c, _| {
                    let choice = choice_of(&mut choices, c)?;
                    c.object::<Fault>(|c, key| choice.take(c, key)).map(|_| ())
                })?;
            }
            Ok(())
        })?;
    }
    Ok(choices)
}
