//! What a failed command says and with which exit code it ends.
//!
//! Holds no state. One line `soci: <what failed>: <cause>...` on standard error, then a hint where there is something the
//! user can do; hints are in `hint.rs`. Exit code 1, as upstream, for every failure including a wrong command line; `record`
//! and `run` have further codes of their own.

use std::{error::Error, process::ExitCode};

use crate::hint;

/// Reports a failed command.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    say!("soci: {}", words(error));
    if let Some(hint) = error.chain().find_map(hint::of) {
        say!("hint: {hint}");
    }
    ExitCode::FAILURE
}

/// An error with its causes on one line: each said once, and the operating system's as words without their number.
pub(crate) fn words(error: &anyhow::Error) -> String {
    line(error.chain())
}

/// The same of an error that is not on its way up.
pub(crate) fn words_of(error: &(dyn Error + 'static)) -> String {
    line(anyhow::Chain::new(error))
}

fn line<'a>(chain: impl Iterator<Item = &'a (dyn Error + 'static)>) -> String {
    let mut line = String::new();
    for cause in chain {
        let mut text = cause.to_string();
        let bare = without_numbers(&text);
        // The operating system's own words, which begin as a sentence does.
        if bare.len() < text.len() && !bare.contains(": ") {
            text = lower(&bare);
        } else {
            text = bare;
        }
        // Some libraries repeat their cause in their own words.
        if text.is_empty() || line.to_lowercase().ends_with(&text.to_lowercase()) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}

/// `No such file or directory (os error 2)` without what says nothing to people.
fn without_numbers(text: &str) -> String {
    const BEFORE: &str = " (os error ";
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, after)) = rest.split_once(BEFORE) {
        kept.push_str(before);
        match after.split_once(')') {
            Some((number, after)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rest = after,
            _ => {
                kept.push_str(BEFORE);
                rest = after;
            }
        }
    }
    kept + rest
}

/// A sentence in the middle of a line. `I/O error` and `RST` stay.
fn lower(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain([second]).chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read b: {0}")]
    struct Doubled(#[source] io::Error);

    #[test]
    fn a_line_says_each_cause_once_and_without_numbers() {
        let missing = || io::Error::from_raw_os_error(2);
        let error = anyhow::Error::new(missing()).context("cannot open a");
        assert_eq!(words(&error), "cannot open a: no such file or directory");
        let error = Err::<(), _>(Doubled(missing())).context("cannot make c").unwrap_err();
        assert_eq!(words(&error), "cannot make c: cannot read b: No such file or directory");
        assert_eq!(without_numbers("a (os error x) b (os error 7)!"), "a (os error x) b!");
        assert_eq!(
            (lower("I/O error").as_str(), lower("Is a").as_str(), lower("").as_str()),
            ("I/O error", "is a", "")
        );
    }
}
