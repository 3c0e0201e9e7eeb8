//! The plain bytes of some ranges of one layer, taken from the stream of all of it.
//!
//! [`Collected`] owns the bytes. What must always hold: the layer had the right digest, so the bytes are its own.

use std::io::Read;

use crate::{
    image::Descriptor,
    index::{LayerBuildError, planned},
    units::ByteRange,
};

/// What was wanted of a layer.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// Ranges that were wanted, ascending and disjoint, and where the bytes of each start below.
    ranges: Vec<(ByteRange, usize)>,
    bytes: Vec<u8>,
    /// Plain bytes of the whole layer.
    pub(super) plain_size: u64,
}

impl Collected {
    /// Reads a layer once, to its end. `wanted` is ascending and disjoint; what lies behind the end is left out.
    pub(super) fn read(
        layer: &Descriptor,
        bytes: impl Read,
        wanted: &[ByteRange],
    ) -> Result<Self, LayerBuildError> {
        let mut it = Self::default();
        let mut next = 0;
        planned::plain(layer, bytes, &mut |plain, _| {
            let chunk = ByteRange::new(it.plain_size, it.plain_size + plain.len() as u64);
            it.plain_size = chunk.end;
            while let Some(range) = wanted.get(next).filter(|range| range.start < chunk.end) {
                if let Some(part) = range.intersect(&chunk) {
                    if part.start == range.start {
                        it.ranges.push((*range, it.bytes.len()));
                    }
                    let (from, to) = (part.start - chunk.start, part.end - chunk.start);
                    it.bytes.extend_from_slice(&plain[from as usize..to as usize]);
                }
                if range.end > chunk.end {
                    break;
                }
                next += 1;
            }
            Ok(())
        })?;
        Ok(it)
    }

    /// The bytes of a range that lies in one that was wanted, and in the layer.
    pub(super) fn get(&self, range: ByteRange) -> Option<&[u8]> {
        let at = self.ranges.partition_point(|(wanted, _)| wanted.start <= range.start).checked_sub(1)?;
        let (wanted, first) = self.ranges.get(at)?;
        if !wanted.contains_range(&range) {
            return None;
        }
        let start = first + (range.start - wanted.start) as usize;
        self.bytes.get(start..start + range.len() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{digest::Digest, media_type};

    #[test]
    fn what_was_wanted_is_there_and_nothing_else() {
        let tar: Vec<u8> = (0..700_000u32).map(|at| (at % 251) as u8).collect();
        let layer = Descriptor::new(media_type::OCI_LAYER, Digest::of(&tar), tar.len() as u64);
        let wanted = [(0, 10), (100, 600_000), (600_000, 600_001), (699_990, 800_000), (900_000, 900_001)]
            .map(|(start, end)| ByteRange::new(start, end));
        let got = Collected::read(&layer, &tar[..], &wanted).unwrap();
        assert_eq!(got.plain_size, 700_000);
        let get = |start: u64, end: u64| got.get(ByteRange::new(start, end));
        for (start, end) in
            [(0, 10), (3, 7), (100, 600_000), (262_000, 263_000), (600_000, 600_001), (699_990, 700_000)]
        {
            assert_eq!(get(start, end), Some(&tar[start as usize..end as usize]), "{start}..{end}");
        }
        for (start, end) in
            [(0, 11), (10, 11), (99, 101), (599_999, 600_001), (699_990, 700_001), (900_000, 900_001)]
        {
            assert_eq!(get(start, end), None, "{start}..{end}");
        }
        let other = Descriptor::new(media_type::OCI_LAYER, Digest::of(b"other"), tar.len() as u64);
        assert!(matches!(Collected::read(&other, &tar[..], &wanted), Err(LayerBuildError::Digest { .. })));
        let unknown =
            Descriptor::new("application/vnd.oci.image.layer.v1.tar+encrypted", layer.digest, layer.size);
        let refused = Collected::read(&unknown, &tar[..], &wanted);
        assert!(matches!(refused, Err(LayerBuildError::NotReadable(_))));
    }
}
