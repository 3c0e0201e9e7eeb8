//! A real browser without a window: Debian's chromium draws a page of a file.
//!
//! Each call starts a browser with an empty profile and ends it; nothing is shared. What must always hold: a browser
//! that is not there, or does not end in time, is an error that says so.

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flate2::read::ZlibDecoder;

const PATIENCE: Duration = Duration::from_mins(2);

/// What a browser made of a page.
#[derive(Debug)]
pub struct Shown {
    /// Standard output: with `--dump-dom`, the document after its scripts have run.
    pub stdout: String,
    /// Lines of the page's console: errors, refused loads and scripts.
    pub console: Vec<String>,
}

/// Opens the page with a new, empty profile.
///
/// # Panics
/// When there is no chromium, or it fails.
pub fn open<'a>(page: &Path, flags: impl IntoIterator<Item = &'a str>) -> Shown {
    let profile = tempfile::tempdir().expect("temporary directories can be made");
    let output = profile.path().join("stdout");
    let log = profile.path().join("stderr");
    let file = |path| std::fs::File::create(path).expect("files can be made");
    let mut child = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
        .args(flags)
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .stdout(file(&output))
        .stderr(file(&log))
        .spawn()
        .unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!("chromium is not installed: apt-get install chromium"),
            _ => panic!("chromium cannot be started: {error}"),
        });
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).expect("it was made")).into_owned();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            break status;
        }
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("chromium did not end within {PATIENCE:?}: {}", read(&log));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let text = read(&log);
    assert!(status.success(), "chromium: {status}: {text}");
    let console = text.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
    Shown { stdout: read(&output), console }
}

/// A picture: 8 bits for each of red, green, blue.
#[derive(Debug)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The pixels, row by row.
    pub pixels: Vec<[u8; 3]>,
}

/// Decodes a PNG as browsers write it: 8 bits, RGB or RGBA, not interlaced.
pub fn decode_png(png: &[u8]) -> Option<Picture> {
    let mut rest = png.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    let (mut header, mut data) = (None, Vec::new());
    loop {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (kind, tail) = tail.split_first_chunk::<4>()?;
        let (payload, tail) = tail.split_at_checked(length)?;
        match kind {
            b"IHDR" => header = Some(payload),
            b"IDAT" => data.extend_from_slice(payload),
            b"IEND" => break,
            _ => {}
        }
        rest = tail.get(4..)?;
    }
    let header: &[u8; 13] = header?.try_into().ok()?;
    let size = |at: usize| -> Option<usize> {
        usize::try_from(u32::from_be_bytes(header[at..at + 4].try_into().ok()?)).ok()
    };
    let (width, height) = (size(0)?, size(4)?);
    let channels = match &header[8..] {
        [8, 2, 0, 0, 0] => 3,
        [8, 6, 0, 0, 0] => 4,
        _ => return None,
    };
    let mut raw = Vec::new();
    ZlibDecoder::new(&data[..]).read_to_end(&mut raw).ok()?;
    let line = width.checked_mul(channels)?;
    if raw.len() != (line + 1).checked_mul(height)? {
        return None;
    }
    let (mut above, mut pixels) = (vec![0u8; line], Vec::new());
    for row in raw.chunks_exact(line + 1) {
        let mut now = row[1..].to_vec();
        for at in 0..line {
            let left = if at >= channels { now[at - channels] } else { 0 };
            let corner = if at >= channels { above[at - channels] } else { 0 };
            let guess = match row[0] {
                0 => 0,
                1 => left,
                2 => above[at],
                3 => left.midpoint(above[at]),
                4 => paeth(left, above[at], corner),
                _ => return None,
            };
            now[at] = now[at].wrapping_add(guess);
        }
        pixels.extend(now.chunks_exact(channels).map(|pixel| [pixel[0], pixel[1], pixel[2]]));
        above = now;
    }
    Some(Picture { width, height, pixels })
}

/// Of the neighbours, the one nearest to left + above - corner.
fn paeth(left: u8, above: u8, corner: u8) -> u8 {
    let guess = i16::from(left) + i16::from(above) - i16::from(corner);
    let far = |value: u8| (guess - i16::from(value)).abs();
    if far(left) <= far(above) && far(left) <= far(corner) {
        left
    } else if far(above) <= far(corner) {
        above
    } else {
        corner
    }
}
