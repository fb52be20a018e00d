//! Parquet files whose bytes were changed. The parquet crate trusts much of what a file says of itself and panics where
//! that does not fit (an offset behind the end, a dictionary that is missing): such a panic is an error of the file.

use super::BROKEN;
use crate::error::{Error, Place, Result};
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// Runs what reads the file; what it held is not to be used again after an error.
pub(super) fn guarded<T>(name: &str, read: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    // A hook prints before anybody can catch: ours is silent in a thread that reads, and that of before everywhere else.
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !READING.get() {
                before(panic);
            }
        }));
    });
    let was = READING.replace(true);
    let done = catch_unwind(AssertUnwindSafe(read));
    READING.set(was);
    done.unwrap_or_else(|panic| Err(damaged(name, &said(&*panic))))
}

/// The one error of damage, with what the reader says of it.
pub(super) fn damaged(name: &str, what: &str) -> Error {
    Error::data(Place::file(name), format!("the file is damaged: {what}"), BROKEN)
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_of_the_file() {
        let error = guarded::<()>("rows.parquet", || panic!("index {} out of range", 7)).unwrap_err();
        assert_eq!(error.to_string(), "rows.parquet: the file is damaged: index 7 out of range");
        assert_eq!(error.hint(), BROKEN);
        assert!(guarded("rows.parquet", || Ok(1)).is_ok());
        assert!(!READING.get());
    }
}
