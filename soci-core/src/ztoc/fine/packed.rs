//! zstd with a bounded size when unpacked.
//!
//! Owns no state. Invariant: no more memory is asked for than a small multiple of the packed bytes, whatever they claim.

use std::io;

use crate::ztoc::ZtocError;

/// Effort of compression. The highest makes tables a ninth smaller, which are 0.3 % of an image, and takes 50 times as long:
/// more than the rest of the build.
const LEVEL: i32 = 9;

/// Most plain bytes for a packed one. Tables of files have 10 or so; those that would pass it are padded.
const MAX_RATIO: u64 = 32;

/// What may be claimed by however few bytes: a table of some hundred files that are all alike.
const FREE: u64 = 64 << 10;

/// Most bytes unpacked: 500 000 files or so. More would be kept in memory for a layer that few ever have.
const MAX_PLAIN: u64 = 256 << 20;

/// Magic number and length of a zstd frame that is passed over.
const SKIPPED: usize = 8;
const SKIPPABLE: u32 = 0x184d_2a50;

const BOMB: ZtocError = ZtocError::Table("it claims to unpack to more than its bytes can hold");

/// Compresses; `None` when that is more than [`unpack`] takes. `least` says how long the result has to be at least, when it
/// would be so short.
pub(super) fn pack(plain: &[u8], least: impl FnOnce(usize) -> usize) -> io::Result<Option<Vec<u8>>> {
    let size = plain.len() as u64;
    if size > MAX_PLAIN {
        return Ok(None);
    }
    let mut packed = zstd::bulk::compress(plain, LEVEL)?;
    let wanted = (size.saturating_sub(FREE).div_ceil(MAX_RATIO) as usize).max(least(packed.len()));
    if let Some(missing) = wanted.checked_sub(packed.len()).filter(|&missing| missing > 0) {
        let padding = missing.saturating_sub(SKIPPED);
        packed.extend(SKIPPABLE.to_le_bytes());
        packed.extend((padding as u32).to_le_bytes());
        packed.resize(packed.len() + padding, 0);
    }
    Ok(Some(packed))
}

/// Decompresses exactly `size` bytes.
pub(super) fn unpack(packed: &[u8], size: u64) -> Result<Vec<u8>, ZtocError> {
    if size > MAX_PLAIN || size > (packed.len() as u64).saturating_mul(MAX_RATIO).saturating_add(FREE) {
        return Err(BOMB);
    }
    let plain = zstd::bulk::decompress(packed, size as usize)
        .map_err(|_| ZtocError::Table("its packed part cannot be decompressed"))?;
    if plain.len() as u64 == size {
        Ok(plain)
    } else {
        Err(ZtocError::Table("its packed part is shorter than it says"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compresses_too_well_is_padded_and_still_read() {
        for size in [0, 1, 5000, 64 << 10, (64 << 10) + 1, (64 << 10) + 40_000, 3 << 20] {
            let plain = vec![7; size];
            let packed = pack(&plain, |_| 0).unwrap().unwrap();
            assert_eq!(unpack(&packed, size as u64).unwrap(), plain);
            assert!(unpack(&packed, size as u64 + 1).is_err());
            assert!(size == 0 || unpack(&packed, size as u64 - 1).is_err());
        }
    }

    #[test]
    fn bombs_are_refused_before_they_are_opened() {
        let bomb = zstd::bulk::compress(&vec![0; 8 << 20], 3).unwrap();
        assert_eq!(unpack(&bomb, 8 << 20), Err(BOMB));
        assert_eq!(unpack(&bomb, u64::MAX), Err(BOMB));
        assert!(unpack(&bomb, 1000).is_err());
        assert!(unpack(b"no zstd", 7).is_err());
    }
}
