//! What the snapshotter logs is for people: no field is written as Rust's `Debug` has it.

use std::fs;
use std::path::Path;

/// Calls of logging macros in a text, each up to its end.
fn calls(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for level in ["trace!(", "debug!(", "info!(", "warn!(", "error!("] {
        for (at, _) in text.match_indices(level) {
            let rest = &text[at + level.len()..];
            let mut depth = 1;
            let end = rest.char_indices().find(|(_, c)| {
                depth += match c {
                    '(' => 1,
                    ')' => -1,
                    _ => 0,
                };
                depth == 0
            });
            found.push(end.map_or(rest, |(end, _)| &rest[..end]));
        }
    }
    found
}

fn is_debug(call: &str) -> bool {
    let field = |part: &str| {
        let value = part.split_once('=').map_or(part, |(_, value)| value).trim_start();
        value.starts_with('?') && value[1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '&')
    };
    call.contains(":?}") || call.split(',').any(field)
}

fn check(directory: &Path, wrong: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check(&path, wrong);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let debug = calls(text).into_iter().filter(|call| is_debug(call));
            wrong.extend(debug.map(|call| format!("{}: {call}", path.display())));
        }
    }
}

#[test]
fn no_log_line_has_words_of_rust() {
    assert!(is_debug("?class, %range, \"x\"") && is_debug("way = ?way, \"x\"") && is_debug("\"{way:?}\""));
    assert!(!is_debug("key, %layer, a = b?.c, \"what? no\""));
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace");
    let mut wrong = Vec::new();
    for sources in ["snapshotter/src", "soci-core/src"] {
        check(&workspace.join(sources), &mut wrong);
    }
    assert_eq!(wrong, Vec::<String>::new());
}
