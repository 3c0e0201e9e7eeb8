//! JSON results: Go's encoding, two blanks of indentation.

use anyhow::Result;
use serde::Serialize;
use soci_core::json;

/// A value as indented JSON, without a newline at the end.
pub(crate) fn pretty<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    indent(&json::to_vec(value)?)
}

/// Existing JSON, re-spaced.
pub(crate) fn indent(raw: &[u8]) -> Result<String> {
    Ok(String::from_utf8(json::indent(raw)?)?)
}
