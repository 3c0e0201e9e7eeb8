//! One system call as strace writes it: `name(argument, ...) = result <time>`.
//!
//! Holds no state. Arguments are cut at the commas that are in no string, no brackets and no `<...>` (what `-y` says about a
//! descriptor).

/// A call that has returned.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call<'a> {
    pub(super) name: &'a str,
    arguments: Vec<&'a [u8]>,
    /// What it gave; `None` for `?`.
    pub(super) result: Option<i64>,
    /// `-T`: how long it took, nanoseconds; 0 when not known.
    pub(super) took_ns: u64,
}

/// Takes a call apart; `None` when it is none.
pub(super) fn parse(text: &[u8]) -> Option<Call<'_>> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let name = std::str::from_utf8(&text[..open]).ok()?;
    let mut arguments = Vec::new();
    let mut depth = 0usize;
    let mut start = open + 1;
    let mut at = open + 1;
    loop {
        match *text.get(at)? {
            b'"' => at = end_of_string(text, at)?,
            b'/' if text[at..].starts_with(b"/*") => at += find(&text[at..], b"*/")? + 1,
            b'<' if at > start && text.get(at + 1) != Some(&b'<') && text[at - 1] != b'<' => {
                at += text[at..].iter().position(|&byte| byte == b'>')?;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' if depth == 0 => break,
            b')' | b']' | b'}' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                arguments.push(text[start..at].trim_ascii());
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    let last = text[start..at].trim_ascii();
    if !last.is_empty() || !arguments.is_empty() {
        arguments.push(last);
    }
    let result = text[at + 1..].trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    let value = result.split(|&byte| byte == b' ' || byte == b'<').next().unwrap_or_default();
    let result_value = if value == b"?" { None } else { Some(integer(value)?) };
    Some(Call { name, arguments, result: result_value, took_ns: took(result).unwrap_or(0) })
}

impl Call<'_> {
    /// What the call gave, unless it failed.
    pub(super) fn success(&self) -> Option<u64> {
        u64::try_from(self.result?).ok()
    }

    pub(super) fn argument(&self, at: usize) -> Option<&[u8]> {
        self.arguments.get(at).copied()
    }

    pub(super) fn number(&self, at: usize) -> Option<u64> {
        u64::try_from(integer(self.argument(at)?)?).ok()
    }

    /// A file descriptor.
    pub(super) fn descriptor(&self, at: usize) -> Option<u32> {
        let argument = self.argument(at)?;
        let digits = argument.split(|&byte| byte == b'<').next()?;
        u32::try_from(integer(digits)?).ok()
    }

    /// A string that is there in full.
    pub(super) fn string(&self, at: usize) -> Option<Vec<u8>> {
        string(self.argument(at)?)
    }

    /// True when any argument has this word.
    pub(super) fn mentions(&self, word: &str) -> bool {
        self.arguments.iter().any(|argument| has_word(argument, word))
    }
}

/// Is `word` one of the words (flags joined by `|`) of an argument that is not a string?
pub(super) fn has_word(argument: &[u8], word: &str) -> bool {
    argument.first() != Some(&b'"')
        && argument
            .split(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'))
            .any(|part| part == word.as_bytes())
}

/// The path that `-y` shows behind a descriptor: `3</usr/lib/x>`.
pub(super) fn shown_path(argument: &[u8]) -> Option<Vec<u8>> {
    let open = argument.iter().position(|&byte| byte == b'<')?;
    let shown = argument[open + 1..].strip_suffix(b">")?;
    (shown.first() == Some(&b'/')).then(|| unescape(shown)).flatten()
}

/// The bytes of a string; `None` when it is none, or cut (`"..."...`).
fn string(text: &[u8]) -> Option<Vec<u8>> {
    if text.first() != Some(&b'"') || end_of_string(text, 0)? + 1 != text.len() {
        return None;
    }
    unescape(&text[1..text.len() - 1])
}

fn end_of_string(text: &[u8], quote: usize) -> Option<usize> {
    let mut at = quote + 1;
    loop {
        match *text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let escape = *text.get(at)?;
        at += 1;
        let digits = |from: usize, max, radix| {
            let digit = |byte: &&u8| char::from(**byte).is_digit(radix);
            text.get(from..).unwrap_or_default().iter().take(max).take_while(digit).count()
        };
        let value = |from: usize, len: usize, radix| {
            let digits = std::str::from_utf8(&text[from..from + len]).ok()?;
            u8::try_from(u32::from_str_radix(digits, radix).ok()?).ok()
        };
        bytes.push(match escape {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'v' => 0x0b,
            b'f' => 0x0c,
            b'a' => 0x07,
            b'b' => 0x08,
            b'x' => {
                let len = digits(at, 2, 16);
                let byte = value(at, len, 16)?;
                at += len;
                byte
            }
            b'0'..=b'7' => {
                let len = digits(at - 1, 3, 8);
                let byte = value(at - 1, len, 8)?;
                at += len - 1;
                byte
            }
            other => other,
        });
    }
    Some(bytes)
}

/// A decimal or hexadecimal number; what is above `i64::MAX` wraps, as addresses and flags do.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(|value| value as i64);
    }
    text.parse().ok().or_else(|| text.parse::<u64>().ok().map(|value| value as i64))
}

/// The `<0.000123>` at the end.
fn took(result: &[u8]) -> Option<u64> {
    let inner = result.strip_suffix(b">")?;
    let open = inner.iter().rposition(|&byte| byte == b'<')?;
    let seconds: f64 = std::str::from_utf8(&inner[open + 1..]).ok()?.parse().ok()?;
    (seconds.is_finite() && seconds >= 0.0).then_some((seconds * 1e9).round() as u64)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_cut_where_they_end() {
        let call = parse(
            br#"openat(AT_FDCWD</a,b>, "/x, \"y\"\303\2741\n", O_RDONLY|O_CLOEXEC) = 3</x> <0.000132>"#,
        );
        let call = call.unwrap();
        assert_eq!((call.name, call.result, call.took_ns), ("openat", Some(3), 132_000));
        assert_eq!(call.string(1).unwrap(), b"/x, \"y\"\xc3\xbc1\n");
        assert_eq!(shown_path(call.argument(0).unwrap()).unwrap(), b"/a,b");
        assert!(call.mentions("O_CLOEXEC") && !call.mentions("O_RDWR"));

        let call = parse(br#"execve("/usr/bin/cat", ["cat", "a)b"], 0x7ff /* 35 vars, "x */) = 0"#).unwrap();
        assert_eq!((call.arguments.len(), call.result), (3, Some(0)));
        let call = parse(br#"read(3<pipe:[67289]>, "\177ELF"..., 832) = -1 EAGAIN (Try again)"#).unwrap();
        assert_eq!((call.descriptor(0), call.number(2), call.success()), (Some(3), Some(832), None));
        assert_eq!(call.string(1), None, "cut");
        let call = parse(b"mmap(NULL, 35207, PROT_READ, MAP_PRIVATE, 3, 0x26000) = 0x7f2d3d3e7000").unwrap();
        assert_eq!((call.number(5), call.success()), (Some(0x26000), Some(0x7f2d_3d3e_7000)));
        assert_eq!(parse(b"getpid()                  = 3127").unwrap().arguments.len(), 0);
        assert_eq!(parse(b"exit_group(0) = ?").unwrap().result, None);
        for wrong in ["read(3, \"x", "read(3", "read(3) 1", "read(3)) = 1 (", "x(}) = 0", "read(3) = abc"] {
            assert!(parse(wrong.as_bytes()).is_none() || wrong.contains("))"), "{wrong}");
        }
    }
}
