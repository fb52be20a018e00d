//! What the calls that are used were asked and answered: messages as text, call by call, in the order of the captures.
//!
//! The captures are read twice. First the pipeline runs, so that sources, rollouts, policies and reasons are those of a
//! conversion, and notes which calls give rows; then the text of those calls is taken from the records. A stretch of
//! input is held at a time, and a note a call.

use crate::capture::{self, Exchanges, Parsed, Piece, Unit, Who};
use crate::convert::{self, Digest, Found, Options, Progress};
use crate::error::Result;
use crate::rows::Text;
use serde_json::Value;
use std::collections::VecDeque;

/// A call that gives a row, as text.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// File as the user named it.
    pub file: Text,
    /// Record, from 1.
    pub record: u64,
    /// Which rollout of the input it is of.
    pub rollout: u32,
    /// Who.
    pub who: Who,
    /// The engine's id of the call.
    pub call_id: Option<Text>,
    /// solver, summariser, helper; null where the capture does not say.
    pub kind: Option<Text>,
    /// Turn as the rollout numbers it.
    pub turn: Option<i32>,
    /// No used call of the rollout comes later.
    pub last: bool,
    /// What was said; null where the capture holds no messages.
    pub said: Option<capture::Exchange>,
}

/// Bytes of text that are handed out together. Each call of a saved trajectory repeats what was said before it, so the
/// text of a stretch can be many times the stretch.
const BATCH_BYTES: usize = 8 << 20;

/// See the module.
#[derive(Debug)]
pub struct Reader {
    found: Found,
    unit: Unit,
    /// The text of the stretch that was read last, and its calls that were not handed out yet.
    said: Exchanges,
    rest: VecDeque<(usize, Exchange)>,
}

impl Reader {
    /// Reads the captures for the first time. An output that the options name is not written.
    ///
    /// # Errors
    /// What [`convert::convert`] returns, and `Usage` for input that can be read only once.
    pub fn open(options: Options, progress: &Progress) -> Result<Self> {
        let found = convert::used(options, progress)?;
        Ok(Self { found, unit: Unit::default(), said: Exchanges::default(), rest: VecDeque::new() })
    }

    /// The report of the first reading: that of a conversion without output.
    #[must_use]
    pub fn report(&self) -> &Value {
        &self.found.report
    }

    /// The next exchanges; null at the end, and none where a stretch of input holds none.
    ///
    /// # Errors
    /// `Io`, and `Data` for captures that changed since the first reading.
    pub fn next_batch(&mut self) -> Result<Option<Vec<Exchange>>> {
        if self.rest.is_empty() && !self.read_on()? {
            self.found.finish()?;
            return Ok(None);
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && let Some((call, mut exchange)) = self.rest.pop_front()
        {
            exchange.said = self.said.of(call);
            bytes += exchange.said.as_ref().map_or(0, |said| said.messages.len());
            batch.push(exchange);
        }
        Ok(Some(batch))
    }

    /// Reads the next stretch of input; false at the end.
    fn read_on(&mut self) -> Result<bool> {
        let Some(unit) = self.found.again.next_unit(std::mem::take(&mut self.unit))? else { return Ok(false) };
        self.unit = unit;
        let mut parsed = Parsed { exchanges: Some(Box::default()), ..Parsed::default() };
        capture::parse(&self.unit, &mut parsed);
        self.said = parsed.exchanges.take().map(|said| *said).unwrap_or_default();
        for piece in &parsed.pieces {
            for call in piece.calls.clone() {
                self.rest.extend(exchange(&mut self.found, &parsed, piece, call).map(|exchange| (call, exchange)));
            }
        }
        Ok(true)
    }
}

/// A call that is used, without its text.
fn exchange(found: &mut Found, parsed: &Parsed<'_>, piece: &Piece, at: usize) -> Option<Exchange> {
    let call = &parsed.calls[at];
    let (Some(prompt), Some(output)) = (&call.prompt, &call.output) else { return None };
    let digest = Digest::of(&parsed.prompts.values[prompt.clone()], &parsed.outputs.values[output.clone()]);
    let used = found.used.meet(&piece.file, call.record, &digest.hash, call.call_id.as_deref())?;
    Some(Exchange {
        file: piece.file.clone(),
        record: call.record,
        rollout: used.rollout,
        who: found.used.who(used.rollout).unwrap_or(&piece.who).clone(),
        call_id: call.call_id.clone(),
        kind: call.kind.clone(),
        turn: used.turn,
        last: used.last,
        said: None,
    })
}
