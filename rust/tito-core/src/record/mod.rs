//! Recording: a request and its reply on their way between a harness and an engine, and the log they are written to.
//!
//! Nothing is re-written here: what passes is the engine's own text, less the members that nobody asked for, and what
//! is written is that text too. Ids stay the digits the engine sent. Pure functions and one thread that writes.

mod edit;
mod log;
mod message;
mod reply;
mod request;
mod segment;
mod stream;

pub use log::{Durability, Log, Settled, line};
pub use reply::{Reply, ReplyChoice, strip_reply, verify};
pub use request::{Asked, Request, amend, mentions};
pub use segment::{Repaired, repair};
pub use stream::Stream;
