//! A tar of an OCI image layout, member by member.
//!
//! Owns the file being written. What must always hold: the same members give the same bytes; there are no times and no
//! owners in it.

use std::io::{self, Read, Write};

/// Sizes up to this fit into a header; larger ones take a PAX record.
const MAX_OCTAL: u64 = 0o777_7777_7777;

/// Writes members one after the other.
#[derive(Debug)]
pub(super) struct ArchiveWriter<W> {
    out: W,
}

impl<W: Write> ArchiveWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }

    /// Adds a directory; its name ends with a slash.
    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.out.write_all(&header(name, b'5', 0o755, 0))
    }

    /// Adds a file of `size` bytes, which `content` has to have.
    pub(super) fn file(&mut self, name: &str, size: u64, mut content: impl Read) -> io::Result<()> {
        if size > MAX_OCTAL {
            let record = pax("size", &size.to_string());
            self.out.write_all(&header(name, b'x', 0o444, record.len() as u64))?;
            self.out.write_all(record.as_bytes())?;
            self.pad(record.len() as u64)?;
        }
        self.out.write_all(&header(name, b'0', 0o444, size.min(MAX_OCTAL)))?;
        let copied = io::copy(&mut content, &mut self.out)?;
        if copied != size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{copied} bytes in place of {size}"),
            ));
        }
        self.pad(size)
    }

    /// Ends the archive and gives the file back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 1024])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let missing = size.next_multiple_of(512) - size;
        self.out.write_all(&[0; 512][..missing as usize])
    }
}

/// A ustar header. Names here are short and plain.
fn header(name: &str, kind: u8, mode: u32, size: u64) -> [u8; 512] {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A PAX record, whose length counts itself.
fn pax(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        assert_eq!(pax("size", "8589934592"), "19 size=8589934592\n");
        assert_eq!(pax("size", &"1".repeat(88)).len(), 97);
        assert_eq!(pax("size", &"1".repeat(91)).len(), 101);
    }

    #[test]
    fn a_file_of_another_size_is_refused() {
        let mut archive = ArchiveWriter::new(Vec::new());
        assert!(archive.file("a", 3, &b"ab"[..]).is_err());
    }
}
