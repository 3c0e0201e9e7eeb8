//! One line of strace's output: who, when, and what is left of it.
//!
//! Holds no state. Understood are `-f` (with `-o`: `PID ` in front; without: `[pid PID] `), `-t`, `-tt`, `-ttt`, `-r`, and
//! calls that are cut into `<unfinished ...>` and `<... NAME resumed>`.

/// When a line was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    /// `-t`, `-tt`: since midnight, nanoseconds.
    OfDay(u64),
    /// `-ttt`: since the epoch, nanoseconds.
    Epoch(u64),
    /// `-r`: since the line before, nanoseconds.
    Since(u64),
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// A whole call with its result.
    Call(&'a [u8]),
    /// A call whose result comes later; the text up to here.
    Unfinished(&'a [u8]),
    /// The rest of a call.
    Resumed(&'a [u8]),
    /// The process is gone.
    Exited,
    /// A signal, or a word of strace about itself.
    Notice,
}

/// A line taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) pid: Option<u32>,
    pub(super) stamp: Option<Stamp>,
    pub(super) event: Event<'a>,
}

/// First seconds that are a time since the epoch and not one since the line before: nobody waits for a year.
const FIRST_EPOCH: u64 = 31_536_000;

/// Takes a line apart; `None` when it is nothing that strace prints.
pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut rest = line.trim_ascii();
    if rest.starts_with(b"strace: ") || rest.starts_with(b"[ Process PID=") {
        return Some(Line { pid: None, stamp: None, event: Event::Notice });
    }
    let mut pid = None;
    if let Some(tail) = rest.strip_prefix(b"[pid") {
        let end = tail.iter().position(|&byte| byte == b']')?;
        pid = Some(number(tail[..end].trim_ascii())? as u32);
        rest = tail[end + 1..].trim_ascii_start();
    } else {
        let (word, tail) = word(rest);
        if let (Some(number), false) = (number(word), tail.is_empty()) {
            pid = Some(u32::try_from(number).ok()?);
            rest = tail;
        }
    }
    let (first, tail) = word(rest);
    let stamp = stamp(first);
    if stamp.is_some() {
        rest = tail;
    }
    Some(Line { pid, stamp, event: event(rest)? })
}

fn event(text: &[u8]) -> Option<Event<'_>> {
    if text.starts_with(b"--- ") || text.starts_with(b"strace: ") {
        return Some(Event::Notice);
    }
    if text.starts_with(b"+++ ") {
        return Some(if text.starts_with(b"+++ exited") || text.starts_with(b"+++ killed") {
            Event::Exited
        } else {
            Event::Notice
        });
    }
    if let Some(tail) = text.strip_prefix(b"<... ") {
        let end = tail.windows(8).position(|window| window == b"resumed>")?;
        return Some(Event::Resumed(&tail[end + 8..]));
    }
    let name = text.iter().position(|&byte| !(byte.is_ascii_alphanumeric() || byte == b'_'))?;
    if name == 0 || text[name] != b'(' {
        return None;
    }
    Some(match text.strip_suffix(b"<unfinished ...>") {
        Some(start) => Event::Unfinished(start),
        None => Event::Call(text),
    })
}

/// Without `-o`, strace speaks of a new process, `strace: Process 8 attached`, in a line of its own or in the middle of a
/// call, whose rest is then the next line. The part before, and the process.
pub(super) fn announced(text: &[u8]) -> Option<(&[u8], u32)> {
    const WORD: &[u8] = b"strace: Process ";
    let text = text.strip_suffix(b" attached")?;
    let at = text.windows(WORD.len()).rposition(|window| window == WORD)?;
    Some((&text[..at], u32::try_from(number(&text[at + WORD.len()..])?).ok()?))
}

fn stamp(word: &[u8]) -> Option<Stamp> {
    let text = std::str::from_utf8(word).ok()?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 9 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u64 = format!("{part:0<9}").parse().ok()?;
    let of = |seconds: u64| seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds);
    if whole.contains(':') {
        let parts: Vec<u64> = whole.split(':').map(|part| number(part.as_bytes())).collect::<Option<_>>()?;
        let [hours, minutes, seconds] = parts[..] else { return None };
        if hours > 23 || minutes > 59 || seconds > 60 {
            return None;
        }
        return Some(Stamp::OfDay(of(hours * 3600 + minutes * 60 + seconds)?));
    }
    let seconds = number(whole.as_bytes())?;
    // Whole seconds (-t with -f's pid taken off) are none of strace's relative forms.
    if seconds >= FIRST_EPOCH {
        return Some(Stamp::Epoch(of(seconds)?));
    }
    (!part.is_empty()).then_some(Stamp::Since(of(seconds)?))
}

/// The first word and what comes after the white space behind it.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_ascii_start())
}

/// A decimal number of digits only.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_the_front_are_understood() {
        let call = || Event::Call(b"close(3) = 0");
        let line = |pid, stamp, event| Some(Line { pid, stamp, event });
        let of_day = Some(Stamp::OfDay((12 * 3600 + 50 * 60 + 44) * 1_000_000_000 + 890_743_000));
        for (text, want) in [
            ("close(3) = 0", line(None, None, call())),
            ("3111  close(3) = 0", line(Some(3111), None, call())),
            ("[pid  3128] close(3) = 0", line(Some(3128), None, call())),
            ("3111  12:50:44.890743 close(3) = 0", line(Some(3111), of_day, call())),
            ("     0.000451 close(3) = 0", line(None, Some(Stamp::Since(451_000)), call())),
            ("[pid 7]      1.5 close(3) = 0", line(Some(7), Some(Stamp::Since(1_500_000_000)), call())),
            (
                "1795611044.905273 close(3) = 0",
                line(None, Some(Stamp::Epoch(1_795_611_044_905_273_000)), call()),
            ),
            ("7 <... close resumed>) = 0", line(Some(7), None, Event::Resumed(b") = 0"))),
            ("7 read(3,  <unfinished ...>", line(Some(7), None, Event::Unfinished(b"read(3,  "))),
            ("7 +++ exited with 0 +++", line(Some(7), None, Event::Exited)),
            ("7 --- SIGCHLD {si_signo=SIGCHLD} ---", line(Some(7), None, Event::Notice)),
            ("strace: Process 3128 attached", line(None, None, Event::Notice)),
            ("hello world", None),
            ("25:00:00 close(3) = 0", None),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()), want, "{text}");
        }
    }
}
