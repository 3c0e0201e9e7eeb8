//! The checkpoint blob ("zinfo") of a gzip layer: little-endian, packed.
//!
//! Owns no state. Invariants: writing always gives the present form (v2: every checkpoint is stored); reading
//! tells it from the old form (v1: the first checkpoint is left out) by length alone, as there is no version
//! field; windows are never copied.
//!
//! ```text
//!  0  i32  number of checkpoints        then for each: 0   i64  compressed offset
//!  4  i64  span size                                   8   i64  uncompressed offset
//! 12  ...  checkpoints, 32785 bytes each               16  u8   bits (0..=7)
//!                                                      17  32768 bytes of window
//! ```

use super::checkpoint::{Checkpoint, WINDOW};

const HEADER: usize = 12;
const RECORD: usize = 17 + WINDOW;

/// The first checkpoint that a v1 blob implies: right after a gzip header without optional fields.
const IMPLIED: Checkpoint<Option<usize>> = Checkpoint { input: 10, output: 0, bits: 0, window: None };

/// A decoded blob. Windows are offsets into it; `None` is a window of zeros.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Zinfo {
    /// Wanted uncompressed bytes per span.
    pub span_size: i64,
    /// At least one checkpoint.
    pub checkpoints: Vec<Checkpoint<Option<usize>>>,
}

impl Zinfo {
    /// Reads a v1 or v2 blob. Offsets and bits are range-checked, their order is not.
    pub(crate) fn decode(blob: &[u8]) -> Result<Self, &'static str> {
        let (count, rest) = blob.split_first_chunk().ok_or("blob is too short")?;
        let (span_size, rest) = rest.split_first_chunk().ok_or("blob is too short")?;
        let count = usize::try_from(i32::from_le_bytes(*count)).map_err(|_| "negative count")?;
        let span_size = i64::from_le_bytes(*span_size);
        if count == 0 {
            return Err("no checkpoint");
        }
        let stored = if rest.len() % RECORD == 0 { rest.len() / RECORD } else { usize::MAX };
        if stored != count && stored != count - 1 {
            return Err("length does not fit the count");
        }
        let mut checkpoints = Vec::with_capacity(count);
        if stored != count {
            checkpoints.push(IMPLIED);
        }
        for (index, record) in rest.chunks_exact(RECORD).enumerate() {
            let offset = |at: usize| {
                let (bytes, _) = record[at..].split_first_chunk().ok_or("blob is too short")?;
                u64::try_from(i64::from_le_bytes(*bytes)).map_err(|_| "negative offset")
            };
            let (input, output, bits) = (offset(0)?, offset(8)?, record[16]);
            if bits > 7 || (bits != 0 && input == 0) {
                return Err("impossible number of bits");
            }
            let window = Some(HEADER + index * RECORD + 17);
            checkpoints.push(Checkpoint { input, output, bits, window });
        }
        Ok(Self { span_size, checkpoints })
    }
}

/// Writes a v2 blob, checkpoint by checkpoint.
#[derive(Debug)]
pub(crate) struct ZinfoWriter {
    blob: Vec<u8>,
    count: i32,
}

impl ZinfoWriter {
    /// A blob without checkpoints.
    pub(crate) fn new(span_size: i64) -> Self {
        let mut blob = vec![0; HEADER];
        blob[4..].copy_from_slice(&span_size.to_le_bytes());
        Self { blob, count: 0 }
    }

    /// Adds a checkpoint. The caller keeps the length below 2 GiB, so the count fits its field.
    pub(crate) fn push(&mut self, checkpoint: &Checkpoint<&[u8]>) {
        debug_assert_eq!(checkpoint.window.len(), WINDOW);
        self.blob.extend(checkpoint.input.to_le_bytes());
        self.blob.extend(checkpoint.output.to_le_bytes());
        self.blob.push(checkpoint.bits);
        self.blob.extend_from_slice(checkpoint.window);
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

    /// A blob of two checkpoints.
    fn two() -> Vec<u8> {
        let mut writer = ZinfoWriter::new(65_536);
        for (input, output, bits, byte) in [(20, 0, 0, 0), (400, 70_000, 3, 9)] {
            writer.push(&Checkpoint { input, output, bits, window: &vec![byte; WINDOW] });
        }
        writer.finish()
    }

    #[test]
    fn v2_keeps_every_checkpoint() {
        let blob = two();
        assert_eq!(blob.len(), HEADER + 2 * RECORD);
        let zinfo = Zinfo::decode(&blob).unwrap();
        assert_eq!(zinfo.span_size, 65_536);
        assert_eq!(zinfo.checkpoints[0].input, 20);
        let last = zinfo.checkpoints[1];
        assert_eq!((last.input, last.output, last.bits), (400, 70_000, 3));
        assert_eq!(blob[last.window.unwrap()..], vec![9; WINDOW]);
    }

    #[test]
    fn v1_implies_the_first_checkpoint() {
        let mut blob = two();
        blob.drain(HEADER..HEADER + RECORD);
        let zinfo = Zinfo::decode(&blob).unwrap();
        assert_eq!(zinfo.checkpoints[0], IMPLIED);
        assert_eq!(zinfo.checkpoints[1].window, Some(HEADER + 17));
    }

    #[test]
    fn wrong_lengths_and_fields_are_refused() {
        let blob = two();
        let with = |at: usize, byte: u8| {
            let mut blob = blob.clone();
            blob[at] = byte;
            blob
        };
        assert!(Zinfo::decode(&blob[..blob.len() - 1]).is_err());
        assert!(Zinfo::decode(&blob[..5]).is_err());
        assert!(Zinfo::decode(&with(0, 0)).is_err(), "count 0");
        assert!(Zinfo::decode(&with(3, 0x80)).is_err(), "negative count");
        assert!(Zinfo::decode(&with(0, 4)).is_err(), "count too large");
        assert!(Zinfo::decode(&with(HEADER + 7, 0x80)).is_err(), "negative offset");
        assert!(Zinfo::decode(&with(HEADER + 16, 8)).is_err(), "bits");
    }
}
