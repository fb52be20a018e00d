//! String-aware scanning of JSON as Python programs write it, without building a tree.
//!
//! A [`Cursor`] walks bytes; what nobody asks for is skipped and never decoded, so NaN, Infinity, lone surrogates and
//! invalid UTF-8 inside skipped strings do no harm. [`IdReader`] turns lists of ids into int32 and parses only what is
//! new in each; a [`Passer`] does the same where lists are skipped. `absent`, `null` and a value of another type are
//! all "missing".

mod cursor;
mod ids;
mod passed;
mod recent;

pub use cursor::{Cursor, Fault, Scalar};
pub use ids::{IdFault, IdList, IdReader, KeptIds};
pub use passed::{KeptLists, Passer};
