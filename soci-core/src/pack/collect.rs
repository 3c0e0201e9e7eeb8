//! The plain bytes of some ranges of one layer, taken from the stream of all of it.
//!
//! [`Collected`] knows where they were put. What must always hold: the layer had the right digest, so the bytes are its own.

use std::io::Read;

use super::scratch::Scratch;
use crate::{
    image::Descriptor,
    index::{LayerBuildError, planned},
    units::ByteRange,
};

/// What was wanted of a layer.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// Ranges that were wanted, ascending and disjoint, and where the bytes of each start in the scratch file.
    ranges: Vec<(ByteRange, u64)>,
    /// Plain bytes of the whole layer.
    pub(super) plain_size: u64,
}

impl Collected {
    /// Reads a layer once, to its end, and appends what is wanted to `scratch`. `wanted` is ascending and disjoint; what lies
    /// behind the end is left out.
    pub(super) fn read(
        layer: &Descriptor,
        bytes: impl Read,
        wanted: &[ByteRange],
        scratch: &mut Scratch,
    ) -> Result<Self, LayerBuildError> {
        let mut ranges = Vec::new();
        let plain_size = each_part(layer, bytes, wanted, &mut |range, part, plain| {
            let place = scratch.append(plain).map_err(LayerBuildError::Copy)?;
            if part.start == range.start {
                ranges.push((range, place.start));
            }
            Ok(())
        })?;
        Ok(Self { ranges, plain_size })
    }

    /// Where the bytes are of a range that lies in one that was wanted.
    pub(super) fn place(&self, range: ByteRange) -> Option<ByteRange> {
        let at = self.ranges.partition_point(|(wanted, _)| wanted.start <= range.start).checked_sub(1)?;
        let (wanted, first) = self.ranges.get(at)?;
        if !wanted.contains_range(&range) {
            return None;
        }
        let end = self.plain_size.min(wanted.end);
        let start = first + (range.start - wanted.start);
        (range.end <= end).then(|| ByteRange::new(start, start + range.len()))
    }
}

/// Takes the next bytes of a range: the range, which part of it, and its plain bytes.
type Parts<'a> = dyn FnMut(ByteRange, ByteRange, &[u8]) -> Result<(), LayerBuildError> + 'a;

/// Reads a layer once, to its end, and gives the bytes of the `wanted` ranges as they come, which are ascending and disjoint.
/// The number of plain bytes of the layer.
pub(super) fn each_part(
    layer: &Descriptor,
    bytes: impl Read,
    wanted: &[ByteRange],
    take: &mut Parts<'_>,
) -> Result<u64, LayerBuildError> {
    let (mut next, mut size) = (0, 0);
    planned::plain(layer, bytes, &mut |plain, _| {
        let chunk = ByteRange::new(size, size + plain.len() as u64);
        size = chunk.end;
        while let Some(range) = wanted.get(next).filter(|range| range.start < chunk.end) {
            if let Some(part) = range.intersect(&chunk) {
                let (from, to) = (part.start - chunk.start, part.end - chunk.start);
                take(*range, part, &plain[from as usize..to as usize])?;
            }
            if range.end > chunk.end {
                break;
            }
            next += 1;
        }
        Ok(())
    })?;
    Ok(size)
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
        let mut scratch = Scratch::new(tempfile::tempfile().unwrap());
        let got = Collected::read(&layer, &tar[..], &wanted, &mut scratch).unwrap();
        assert_eq!(got.plain_size, 700_000);
        let get = |start: u64, end: u64| {
            let mut bytes = Vec::new();
            scratch.read(got.place(ByteRange::new(start, end))?, &mut bytes).unwrap();
            Some(bytes)
        };
        for (start, end) in
            [(0, 10), (3, 7), (100, 600_000), (262_000, 263_000), (600_000, 600_001), (699_990, 700_000)]
        {
            assert_eq!(get(start, end), Some(tar[start as usize..end as usize].to_vec()), "{start}..{end}");
        }
        for (start, end) in
            [(0, 11), (10, 11), (99, 101), (599_999, 600_001), (699_990, 700_001), (900_000, 900_001)]
        {
            assert_eq!(get(start, end), None, "{start}..{end}");
        }
        let other = Descriptor::new(media_type::OCI_LAYER, Digest::of(b"other"), tar.len() as u64);
        let mut read = |layer: &Descriptor| Collected::read(layer, &tar[..], &wanted, &mut scratch);
        assert!(matches!(read(&other), Err(LayerBuildError::Digest { .. })));
        let unknown =
            Descriptor::new("application/vnd.oci.image.layer.v1.tar+encrypted", layer.digest, layer.size);
        assert!(matches!(read(&unknown), Err(LayerBuildError::NotReadable(_))));
    }
}
