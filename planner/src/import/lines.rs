//! Lines of an input of unknown size and origin.
//!
//! Owns the line being read and its number. What must always hold: at most [`MAX_LINE`] bytes are held.

use std::io::{BufRead, Read};

use super::ImportError;

/// Longest line: a path has 4096 bytes, of which each may be four characters in strace's output; a call names a few.
pub(super) const MAX_LINE: usize = 1 << 20;
/// Longest document that is no list of lines.
const MAX_DOCUMENT: u64 = 64 << 20;

/// Reads lines.
pub(super) struct Lines<'a> {
    input: &'a mut dyn BufRead,
    line: Vec<u8>,
    number: u64,
}

impl<'a> Lines<'a> {
    pub(super) fn new(input: &'a mut dyn BufRead) -> Self {
        Self { input, line: Vec::new(), number: 0 }
    }

    /// Number of the last line, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next line without its end (LF or CRLF).
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, ImportError> {
        self.line.clear();
        let mut limited = (&mut *self.input).take(MAX_LINE as u64);
        let read = limited.read_until(b'\n', &mut self.line).map_err(ImportError::Read)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            self.line.pop_if(|last| *last == b'\r');
        } else if read == MAX_LINE {
            return Err(self.wrong("longer than 1 MiB"));
        }
        Ok(Some(&self.line))
    }

    /// The next line that is a path: blank lines are skipped, and no path has a zero byte.
    pub(super) fn next_path(&mut self) -> Result<Option<Vec<u8>>, ImportError> {
        loop {
            let Some(line) = self.next()? else { return Ok(None) };
            if line.contains(&0) {
                return Err(self.wrong("not text: a zero byte is in it"));
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line.to_vec()));
            }
        }
    }

    /// Is `byte` the first of the input that is no white space? To be asked before the first line is read.
    pub(super) fn begins_with(&mut self, byte: u8) -> Result<bool, ImportError> {
        let start = self.input.fill_buf().map_err(ImportError::Read)?;
        Ok(start.trim_ascii_start().first() == Some(&byte))
    }

    /// Does the input begin with these bytes? To be asked before the first line is read.
    pub(super) fn starts_with(&mut self, bytes: &[u8]) -> Result<bool, ImportError> {
        Ok(self.input.fill_buf().map_err(ImportError::Read)?.starts_with(bytes))
    }

    /// All of the input, which is one document.
    pub(super) fn document(&mut self) -> Result<Vec<u8>, ImportError> {
        let mut all = Vec::new();
        let read = (&mut *self.input).take(MAX_DOCUMENT).read_to_end(&mut all).map_err(ImportError::Read)?;
        if read as u64 == MAX_DOCUMENT {
            return Err(ImportError::Document("longer than 64 MiB".into()));
        }
        Ok(all)
    }

    /// An error in the last line.
    pub(super) fn wrong(&self, what: impl Into<String>) -> ImportError {
        ImportError::Line { line: self.number, what: what.into() }
    }
}

/// What a JSON document is that cannot be understood, with the line that serde names.
pub(super) fn json_error(error: &serde_json::Error) -> ImportError {
    let (line, text) = (error.line(), error.to_string());
    let what = text.split(" at line ").next().unwrap_or_default().to_owned();
    if line == 0 { ImportError::Document(what) } else { ImportError::Line { line: line as u64, what } }
}
