//! What an earlier run of the same output left. Files that its manifest names and the new run would not replace are
//! refused: whoever reads the folder, or a glob, would read their rows with the new ones.

use crate::error::{Error, Result};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Refuses what is left but for what is surely `replaced`.
pub(super) fn refuse(manifest: &Path, replaced: &[PathBuf]) -> Result<()> {
    // What cannot be read names nothing; if it cannot be replaced either, its rename will say so.
    let told = fs::read(manifest).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let outputs = told.as_ref().and_then(|told| told["outputs"].as_array()).into_iter().flatten();
    for output in outputs {
        let Some(name) = output["file"].as_str().and_then(|file| Path::new(file).file_name()) else { continue };
        let file = manifest.with_file_name(name);
        // Of another size it is another file.
        let is_left = |file: &Path| fs::metadata(file).is_ok_and(|meta| Some(meta.len()) == output["bytes"].as_u64());
        if !replaced.contains(&file) && is_left(&file) {
            return Err(Error::usage(
                format!("{} of an earlier run is there already", file.display()),
                format!(
                    "remove what {} names, or write elsewhere: its rows would be read with the new ones",
                    manifest.file_name().unwrap_or_default().to_string_lossy()
                ),
            ));
        }
    }
    Ok(())
}
