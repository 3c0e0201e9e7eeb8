//! The checkpoint blob of a zstd layer: little-endian, packed. Ours; upstream's tools know no such layers.
//!
//! Owns no state. A span needs no window, so the blob is small however many spans there are.
//!
//! ```text
//!  0  i32  number of spans        then for each: 0  i64  compressed offset of its first frame
//!  4  i64  span size                             8  i64  uncompressed offset
//! ```

const HEADER: usize = 12;
const RECORD: usize = 16;

/// A decoded blob.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frames {
    /// Wanted uncompressed bytes per span.
    pub span_size: u64,
    /// Compressed and uncompressed offset of each span; at least one.
    pub starts: Vec<(u64, u64)>,
}

impl Frames {
    /// Reads a blob. The order of the offsets is not checked.
    pub(crate) fn decode(blob: &[u8]) -> Result<Self, &'static str> {
        let (count, rest) = blob.split_first_chunk().ok_or("blob is too short")?;
        let (span_size, rest) = rest.split_first_chunk().ok_or("blob is too short")?;
        let span_size = u64::try_from(i64::from_le_bytes(*span_size)).map_err(|_| "negative span size")?;
        let (records, odd) = rest.as_chunks::<RECORD>();
        if !odd.is_empty() || i32::try_from(records.len()) != Ok(i32::from_le_bytes(*count)) {
            return Err("length does not fit the count");
        }
        if records.is_empty() {
            return Err("no span");
        }
        let offset = |bytes: &[u8]| {
            let bytes = bytes.first_chunk().ok_or("blob is too short")?;
            u64::try_from(i64::from_le_bytes(*bytes)).map_err(|_| "negative offset")
        };
        let starts = records.iter().map(|record| Ok((offset(&record[..8])?, offset(&record[8..])?)));
        Ok(Self { span_size, starts: starts.collect::<Result<_, &'static str>>()? })
    }
}

/// Writes a blob, span by span.
#[derive(Debug)]
pub(crate) struct FramesWriter {
    blob: Vec<u8>,
    count: i32,
}

impl FramesWriter {
    /// A blob without spans.
    pub(crate) fn new(span_size: i64) -> Self {
        let mut blob = vec![0; HEADER];
        blob[4..].copy_from_slice(&span_size.to_le_bytes());
        Self { blob, count: 0 }
    }

    /// Adds a span. The caller keeps the length below 2 GiB, so the count fits its field.
    pub(crate) fn push(&mut self, compressed: u64, plain: u64) {
        self.blob.extend(compressed.to_le_bytes());
        self.blob.extend(plain.to_le_bytes());
        self.count += 1;
    }

    /// Length so far in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.blob.len() as u64
    }

    /// The blob.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.blob[..4].copy_from_slice(&self.count.to_le_bytes());
        self.blob
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let mut writer = FramesWriter::new(4096);
        writer.push(0, 0);
        writer.push(700, 5000);
        let blob = writer.finish();
        let frames = Frames::decode(&blob).unwrap();
        assert_eq!(frames, Frames { span_size: 4096, starts: vec![(0, 0), (700, 5000)] });
        for cut in 0..blob.len() {
            assert!(Frames::decode(&blob[..cut]).is_err(), "{cut}");
        }
        for (at, byte) in [(0, 3), (3, 0x80), (11, 0x80), (HEADER + 7, 0x80)] {
            let mut wrong = blob.clone();
            wrong[at] = byte;
            assert!(Frames::decode(&wrong).is_err(), "{at}");
        }
        assert!(Frames::decode(&FramesWriter::new(1).finish()).is_err());
    }
}
