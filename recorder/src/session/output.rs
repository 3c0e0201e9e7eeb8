//! The workload's output on its way to ours: copied as it comes, and searched for readiness on the way.
//!
//! One thread for each of the two streams; it ends when every process that holds the other end has ended.

use std::io::{self, Read, Write};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use regex::bytes::Regex;

/// A line longer than this is searched in parts.
const MAX_LINE: usize = 64 << 10;

/// Copies `from` to `to` on a thread of its own. `matched` is called once for each of `patterns` that a line
/// matches, with the number that stands beside it.
///
/// A line counts as soon as it matches, even before its end has come. A `to` that can no longer be written to is
/// given up; the workload is not disturbed by it.
pub(super) fn copy(
    mut from: impl Read + Send + 'static,
    mut to: Box<dyn Write + Send>,
    mut patterns: Vec<(usize, Regex)>,
    matched: impl Fn(usize, Instant) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("output".into()).spawn(move || {
        let mut writable = true;
        let mut line = Vec::new();
        let mut chunk = [0; 16 << 10];
        loop {
            let bytes = match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => &chunk[..length],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if !patterns.is_empty() {
                for part in bytes.split_inclusive(|&byte| byte == b'\n') {
                    line.extend_from_slice(part);
                    let text = line.strip_suffix(b"\n").unwrap_or(&line);
                    patterns.retain(|(number, pattern)| {
                        let matches = pattern.is_match(text);
                        if matches {
                            matched(*number, Instant::now());
                        }
                        !matches
                    });
                    if line.ends_with(b"\n") || line.len() > MAX_LINE {
                        line.clear();
                    }
                }
            }
            writable = writable && to.write_all(bytes).and_then(|()| to.flush()).is_ok();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use parking_lot::Mutex;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Chunks(Vec<Vec<u8>>);
    impl Read for Chunks {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let next = self.0.remove(0);
            buffer[..next.len()].copy_from_slice(&next);
            Ok(next.len())
        }
    }

    fn run(chunks: &[&str], pattern: &str) -> (Vec<u8>, bool) {
        let (mut write, sink, (sender, matched)) = (Vec::new(), Sink::default(), channel());
        for chunk in chunks {
            write.extend_from_slice(chunk.as_bytes());
        }
        let from = Chunks(chunks.iter().map(|chunk| chunk.as_bytes().to_vec()).collect());
        let thread =
            copy(from, Box::new(sink.clone()), vec![(7, Regex::new(pattern).unwrap())], move |number, _| {
                assert_eq!(number, 7);
                sender.send(()).unwrap();
            });
        thread.unwrap().join().unwrap();
        assert_eq!(*sink.0.lock(), write, "everything is passed on");
        (write, matched.try_recv().is_ok())
    }

    #[test]
    fn lines_match_across_chunks_and_before_their_end() {
        assert!(run(&["a REA", "DY"], "READY").1);
        assert!(run(&["x\nREADY to serve\n"], "^READY").1);
        assert!(run(&["READY\n"], "^READY$").1);
        assert!(!run(&["REA\n", "DY\n"], "READY").1);
        assert!(!run(&[], "READY").1);
    }
}
