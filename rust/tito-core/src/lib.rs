//! Captures of agent rollouts in, exact training rows out. No id is ever tokenised on the way.
//!
//! Rooms: [`ids`] pure functions on slices, [`json`] scanning, [`capture`] formats to calls, [`rows`] rows to files,
//! [`tokens`] a tokenizer for policies that are about text, [`convert`] the pipeline, [`verify`] the pipeline against rows
//! that exist, [`exchange`] the messages of the calls behind rows, [`record`] what passes between a harness and an engine.
//! Direction: `{verify, exchange} -> convert -> {capture, rows, tokens} -> {json, ids} -> error`, `record -> capture`.
#![forbid(unsafe_code)]

pub mod capture;
pub mod convert;
pub mod error;
pub mod exchange;
pub mod ids;
pub mod json;
pub mod record;
pub mod rows;
pub mod tokens;
pub mod verify;

pub use error::{Error, Kind, Place, Result};
