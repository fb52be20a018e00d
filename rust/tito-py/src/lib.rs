//! The Python module `tito._core`.
//!
//! Each file of this crate faces one room of the core. What happens here: arguments become slices, the GIL is released,
//! the core works, results become arrays, errors become exceptions. Nothing is computed here, and no list of ids is
//! walked element by element: a list is handed to numpy once.

mod arrays;
mod convert;
mod errors;
mod exchange;
mod pack;
mod parts;
mod record;
mod rows;
mod think;
mod tokens;

/// The native half of tito; `_core.pyi` is its reference.
#[pyo3::pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use crate::convert::{
        Progress, built_in_profile, built_in_profiles, call_ids, capture_format, content_hash, convert, defaults_json,
        expand_turns, formats_json,
    };
    #[pymodule_export]
    use crate::exchange::Exchanges;
    #[pymodule_export]
    use crate::pack::{Copies, lay_packs, plan_packs};
    #[pymodule_export]
    use crate::parts::{
        convert_part, in_name_order, judge_parts, list_inputs, plan_parts, scan_file, settle_parts, split_file,
        survey_part,
    };
    #[pymodule_export]
    use crate::record::{CallLog, EventStream, Reply, Request, amend_request, request_mentions, strip_reply};
    #[pymodule_export]
    use crate::rows::{is_sealed, rows_metadata, schema_json, verify};
    #[pymodule_export]
    use crate::think::{Found, ThinkRule, find_think, labels, loss_mask, loss_weights, strip_think};
    #[pymodule_export]
    use crate::tokens::Tokenizer;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::errors::add_classes(module)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
