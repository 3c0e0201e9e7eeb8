//! Bytes of a blob that somebody wants to hear about while they are read.
//!
//! Owns the reader. What must always hold: every byte that was read is told once, when it is there.

use std::io::{self, Read};

use super::Event;
use crate::image::Descriptor;

/// A reader that tells how much it has read of `blob`.
pub(crate) struct Told<'a, R> {
    pub(crate) inner: R,
    pub(crate) blob: &'a Descriptor,
    pub(crate) tell: &'a (dyn Fn(Event<'_>) + Sync),
}

impl<R: Read> Read for Told<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if n > 0 {
            (self.tell)(Event::Read { blob: self.blob, bytes: n as u64 });
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::digest::Digest;

    #[test]
    fn all_that_is_read_is_told() {
        let bytes = [7u8; 1000];
        let blob = Descriptor::new("any", Digest::of(&bytes), 1000);
        let told = Mutex::new(Vec::new());
        let tell = |event: Event<'_>| {
            let Event::Read { blob, bytes } = event else { panic!("{event:?}") };
            told.lock().unwrap().push((blob.digest, bytes));
        };
        let mut reader = Told { inner: &bytes[..], blob: &blob, tell: &tell };
        let mut piece = [0; 600];
        while reader.read(&mut piece).unwrap() > 0 {}
        assert_eq!(*told.lock().unwrap(), [(blob.digest, 600), (blob.digest, 400)]);
    }
}
