//! Patterns of paths: `*` and `?` within a name, `[a-z]` and `[!a-z]` for one character, `**` for any directories.
//!
//! Holds no state. What must always hold: each directory is looked at once for each part of the pattern, so that no
//! pattern takes long; a match of one name is linear but for the stars in it. Names are bytes, and `?` is one byte.

use std::collections::HashSet;

use super::image_view::{ImageView, NodeKind};

/// Whether a path has any of the characters that make it a pattern.
pub(super) fn is_one(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// The nodes that match a pattern. A symbolic link that matches as a whole counts as the file it leads to; links on the
/// way are followed where the pattern names them plainly, as a shell does.
pub(super) fn matches(view: &ImageView, pattern: &[u8]) -> Vec<usize> {
    let parts: Vec<&[u8]> = pattern.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).collect();
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut open = vec![(view.root(), 0, Vec::new())];
    while let Some((node, at, path)) = open.pop() {
        if !seen.insert((node, at)) {
            continue;
        }
        let Some(&part) = parts.get(at) else {
            found.push(node);
            continue;
        };
        if part == b"**" {
            open.push((node, at + 1, path.clone()));
        }
        for (name, child) in view.children(node) {
            if part != b"**" && !name_matches(part, name) {
                continue;
            }
            let own = [path.as_slice(), b"/", name].concat();
            let plain = !part.iter().any(|byte| b"*?[".contains(byte));
            let (own, child) = match view.kind(child) {
                NodeKind::Symlink if plain || at + 1 == parts.len() && part != b"**" => match view.walk(&own)
                {
                    Ok(target) => target,
                    Err(_) => continue,
                },
                _ => (own, child),
            };
            let next = if part == b"**" { at } else { at + 1 };
            if next == parts.len() || matches!(view.kind(child), NodeKind::Dir) {
                open.push((child, next, own));
            } else if part == b"**" && at + 1 == parts.len() {
                found.push(child);
            }
        }
    }
    found
}

/// Whether `name` matches all of `pattern`, neither of them with a slash.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and how much of the name it takes at present.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], name[n]),
            Some(&byte) if byte == name[n] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            (None, Some((at, taken))) => {
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Whether the class at the start of `pattern` has `byte`; if so, the length of the class. An unfinished class is a
/// plain bracket.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let (negated, start) = if pattern.get(1) == Some(&b'!') { (true, 2) } else { (false, 1) };
    // A bracket that comes first is one of the characters.
    let Some(length) = pattern.iter().skip(start + 1).position(|&byte| byte == b']') else {
        return (byte == b'[').then_some(1);
    };
    let mut rest = &pattern[start..=start + length];
    let mut inside = false;
    while let Some((&low, after)) = rest.split_first() {
        let mut high = low;
        rest = after;
        if let [b'-', end, after @ ..] = after {
            (high, rest) = (*end, after);
        }
        inside |= (low..=high).contains(&byte);
    }
    (inside != negated).then_some(start + length + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (pattern, yes, no) in [
            ("*", &["", "a", ".b"][..], &[][..]),
            ("*.so*", &["x.so", "x.so.1", ".so"], &["x.s", "so"]),
            ("a*b*c", &["abc", "aXbXbc", "abbbc"], &["ab", "acb", "abcd"]),
            ("?x", &["ax", "?x"], &["x", "aax"]),
            ("[a-c]1", &["a1", "c1"], &["d1", "-1", "1"]),
            ("[!a-c]1", &["d1", "-1"], &["a1", "1"]),
            ("[]x]", &["]", "x"], &["[", ""]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[ab", &["[ab"], &["a", "[a"]),
            ("plain", &["plain"], &["plai", "plain1"]),
        ] {
            for name in yes {
                assert!(name_matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
            }
            for name in no {
                assert!(!name_matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
            }
        }
        let stars = "a*".repeat(40) + "b";
        assert!(!name_matches(stars.as_bytes(), "a".repeat(4000).as_bytes()));
    }
}
