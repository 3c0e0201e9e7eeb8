//! What the descriptor of a pack's blob says of its head. Holds no state.

use super::{MAX_HEAD, PackError, PackHead};
use crate::{digest::Digest, image::Descriptor, media_type};

/// Length and digest of a head: so many bytes at the front of the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadPin {
    /// Bytes; at most [`MAX_HEAD`].
    pub size: u64,
    /// Digest of those bytes.
    pub digest: Digest,
}

impl HeadPin {
    /// Opens the head, its digest checked first.
    ///
    /// # Errors
    /// For other bytes, and whatever [`PackHead::open`] refuses.
    pub fn open(&self, bytes: &[u8]) -> Result<PackHead, PackError> {
        match Digest::of(bytes) {
            actual if actual == self.digest => PackHead::open(bytes),
            actual => Err(PackError::HeadDigest { expected: self.digest, actual }),
        }
    }

    /// The annotations that say so.
    pub(super) fn annotate(&self, blob: &mut Descriptor) {
        blob.annotations.insert(media_type::PACK_HEAD.to_owned(), self.digest.to_string());
        blob.annotations.insert(media_type::PACK_HEAD_SIZE.to_owned(), self.size.to_string());
    }
}

/// Where the head of a pack's blob is; `None` when the descriptor does not say it, or says what cannot be.
pub fn head_pin(blob: &Descriptor) -> Option<HeadPin> {
    let size = blob.annotations.get(media_type::PACK_HEAD_SIZE)?.parse().ok()?;
    let digest = blob.annotations.get(media_type::PACK_HEAD)?.parse().ok()?;
    (size <= MAX_HEAD.min(blob.size)).then_some(HeadPin { size, digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_as_written_and_holds() {
        let mut blob = Descriptor::new(media_type::PACK_BLOCKS, Digest::of(b"blob"), 5000);
        assert_eq!(head_pin(&blob), None);
        let pin = HeadPin { size: 4, digest: Digest::of(b"head") };
        pin.annotate(&mut blob);
        assert_eq!(head_pin(&blob), Some(pin));
        assert!(matches!(pin.open(b"haed"), Err(PackError::HeadDigest { .. })));
        assert!(matches!(pin.open(b"head"), Err(PackError::HeadShort { .. })));
        for size in ["5001", "-4", "", "18446744073709551616"] {
            blob.annotations.insert(media_type::PACK_HEAD_SIZE.to_owned(), size.to_owned());
            assert_eq!(head_pin(&blob), None, "{size}");
        }
    }
}
