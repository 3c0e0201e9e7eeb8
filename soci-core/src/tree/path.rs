//! Names of an archive as paths: no empty, `.` or `..` parts, and `..` never above the root, as Go's `path.Clean("/" + name)`
//! without the leading slash. Keeps no state.

use std::ops::Range;

/// A name of the archive as a path below the root.
pub fn clean(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// A clean path as (directory, last part).
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.iter()
        .rposition(|&byte| byte == b'/')
        .map_or((&b""[..], path), |slash| (&path[..slash], &path[slash + 1..]))
}

/// Where the parts of a clean path are in the name that it comes from.
pub(super) fn parts(name: &[u8]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for part in name.split(|&byte| byte == b'/') {
        let range = start..start + part.len();
        start += part.len() + 1;
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ => parts.push(range),
        }
    }
    parts
}

/// What a name has before its last slash but one at its end, and where its last part is. `None` where that is not the last part
/// of the clean path.
pub(super) fn last_part(name: &[u8]) -> Option<(&[u8], Range<usize>)> {
    let end = name.strip_suffix(b"/").unwrap_or(name).len();
    let (above, own) = match name[..end].iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&name[..slash], slash + 1..end),
        None => (&b""[..], 0..end),
    };
    (!matches!(&name[own.clone()], b"" | b"." | b"..")).then_some((above, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_as_go_does() {
        for (name, path) in [
            ("/a//b/", "a/b"),
            ("../../x", "x"),
            ("./a/./b/../c", "a/c"),
            ("/", ""),
            ("a", "a"),
            ("", ""),
            ("a/..", ""),
        ] {
            assert_eq!(clean(name.as_bytes()), path.as_bytes());
            let parts: Vec<_> = parts(name.as_bytes()).into_iter().map(|part| &name[part]).collect();
            assert_eq!(parts.join("/"), path);
        }
        assert_eq!((split(b"a/b/c"), split(b"a")), ((&b"a/b"[..], &b"c"[..]), (&b""[..], &b"a"[..])));
        assert_eq!(last_part(b"./a/b/"), Some((&b"./a"[..], 4..5)));
        assert_eq!((last_part(b"a/.."), last_part(b"./"), last_part(b"")), (None, None, None));
    }
}
