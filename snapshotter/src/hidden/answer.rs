//! Answers of the FUSE protocol: values in, bytes for the kernel out.
//!
//! Pure. An [`Answer`] owns one buffer with the header in front. What must always hold: the buffer is memory of the heap
//! that was just written. If a page of an answer is not resident and the process is killed while the kernel faults it in,
//! the kernel ends the request with EIO, and a reader sees an error.

use std::time::Duration;

use rustix::io::Errno;

use super::flags;
use super::ids::NodeId;
use super::values::{Attr, Totals};
use super::wire::{Init, NAME_MAX};

/// Bytes of the header of each answer.
pub(crate) const HEADER: usize = 16;
/// Largest read that the kernel is told to send, in bytes.
pub(crate) const MAX_READ: u32 = 1 << 20;
/// Newest minor version of the protocol that we speak.
const MINOR: u32 = 40;
/// A server that is sent no data needs the smallest buffer that the kernel allows.
const MAX_WRITE: u32 = 4096;

/// What the connection is told once, when it begins. It cannot be changed for a living connection.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Requests that the kernel may have out for read-ahead, of all layers together.
    pub max_background: u16,
    /// Bytes that the kernel reads ahead at most.
    pub read_ahead: u32,
    /// Let the kernel ask for POSIX ACLs. Without it the kernel decides by the mode alone. It costs one question for each
    /// file that a user other than its owner uses.
    pub posix_acl: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self { max_background: 512, read_ahead: 4096, posix_acl: true }
    }
}

/// How long the kernel keeps what it was told.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Attributes.
    pub attr: Duration,
    /// Names of a layer.
    pub entry: Duration,
    /// The absence of a name in a layer.
    pub negative: Duration,
}

impl Default for Timeouts {
    /// A day: layers never change, and the connection outlives the process.
    fn default() -> Self {
        let day = Duration::from_hours(24);
        Self { attr: day, entry: day, negative: day }
    }
}

/// The body of one answer, behind room for its header.
#[derive(Debug)]
pub(crate) struct Answer(Vec<u8>);

impl Answer {
    pub(crate) fn new() -> Self {
        Self(vec![0; HEADER])
    }

    /// An answer without a body.
    pub(crate) fn error(unique: u64, errno: Errno) -> Vec<u8> {
        header(HEADER, -errno.raw_os_error(), unique).to_vec()
    }

    /// The finished answer.
    pub(crate) fn finish(mut self, unique: u64) -> Vec<u8> {
        let length = self.0.len();
        self.0[..HEADER].copy_from_slice(&header(length, 0, unique));
        self.0
    }

    /// Adds bytes as they are.
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_ne_bytes())
    }

    /// The terms of the connection, as far as the kernel offers what they want.
    pub(crate) fn init(self, init: &Init, terms: Terms) -> Self {
        let acl = if terms.posix_acl { flags::POSIX_ACL } else { 0 };
        let agreed = init.flags & (flags::WANTED | acl);
        let pages = (MAX_READ / 4096) as u16;
        self.u32(7)
            .u32(init.minor.min(MINOR))
            .u32(terms.read_ahead.max(4096).min(init.max_readahead))
            .u32(agreed as u32)
            .bytes(&terms.max_background.to_ne_bytes())
            .bytes(&(terms.max_background / 4 * 3).to_ne_bytes())
            .u32(MAX_WRITE)
            .u32(1) // times in nanoseconds
            .bytes(&pages.to_ne_bytes())
            .bytes(&[0; 2])
            .u32((agreed >> 32) as u32)
            .bytes(&[0; 28])
    }

    fn attributes(self, node: NodeId, attr: &Attr) -> Self {
        let blocks = attr.size.div_ceil(4096).saturating_mul(8);
        let secs = attr.mtime.0 as u64;
        let nanos = attr.mtime.1;
        let all = self.u64(node.raw()).u64(attr.size).u64(blocks).u64(secs).u64(secs).u64(secs);
        let words = [nanos, nanos, nanos, attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev, 4096, 0];
        words.into_iter().fold(all, Self::u32)
    }

    /// Answer of GETATTR.
    pub(crate) fn attr(self, node: NodeId, attr: &Attr, timeouts: &Timeouts) -> Self {
        self.u64(timeouts.attr.as_secs()).u32(timeouts.attr.subsec_nanos()).u32(0).attributes(node, attr)
    }

    /// Answer of LOOKUP, and the first part of a name of READDIRPLUS.
    pub(crate) fn entry(self, node: NodeId, attr: &Attr, timeouts: &Timeouts) -> Self {
        self.entry_head(node.raw(), timeouts.entry, timeouts.attr).attributes(node, attr)
    }

    /// Answer of LOOKUP: the name is not there, and the kernel may remember that.
    pub(crate) fn absent(self, timeout: Duration) -> Self {
        self.entry_head(0, timeout, Duration::ZERO).bytes(&[0; 88])
    }

    fn entry_head(self, node: u64, entry: Duration, attr: Duration) -> Self {
        self.u64(node)
            .u64(0) // generation
            .u64(entry.as_secs())
            .u64(attr.as_secs())
            .u32(entry.subsec_nanos())
            .u32(attr.subsec_nanos())
    }

    /// Answer of STATFS.
    pub(crate) fn statfs(self, totals: &Totals) -> Self {
        // Not full, though nothing can be written: monitors warn of full file systems.
        let (used, free) = (totals.used.div_ceil(4096), totals.free / 4096);
        let sizes = [used.saturating_add(free), free, free, totals.inodes, 0];
        let all = sizes.into_iter().fold(self, Self::u64);
        let all = all.u32(4096).u32(NAME_MAX as u32).u32(4096);
        all.bytes(&[0; 28])
    }

    /// Answer of GETXATTR and LISTXATTR when only the length is wanted.
    pub(crate) fn length(self, length: u32) -> Self {
        self.u32(length).u32(0)
    }
}

/// The names of READDIR and READDIRPLUS, up to the size that the kernel has room for.
#[derive(Debug)]
pub(crate) struct Listing {
    answer: Answer,
    room: usize,
    plus: Option<Timeouts>,
}

impl Listing {
    /// With `plus`, each name has its attributes in front.
    pub(crate) fn new(size: u32, plus: Option<Timeouts>) -> Self {
        Self { answer: Answer::new(), room: HEADER + size.min(MAX_READ) as usize, plus }
    }

    /// Adds a name. `false` when it does not fit: the listing is then full. `attr` is not there for a name that the kernel
    /// must look up itself; `.` and `..` are such names. `kind` is the file type of the mode, or 0.
    pub(crate) fn add(
        &mut self,
        name: &[u8],
        node: NodeId,
        kind: u32,
        next: u64,
        attr: Option<&Attr>,
    ) -> bool {
        let head = if self.plus.is_some() { 128 } else { 0 };
        let length = head + (24 + name.len()).next_multiple_of(8);
        if self.answer.0.len() + length > self.room {
            return false;
        }
        let end = self.answer.0.len() + length;
        let mut answer = std::mem::replace(&mut self.answer, Answer(Vec::new()));
        if let Some(timeouts) = &self.plus {
            answer = match attr {
                Some(attr) => answer.entry(node, attr, timeouts),
                None => answer.bytes(&[0; 128]),
            };
        }
        answer = answer.u64(node.raw()).u64(next).u32(name.len() as u32).u32(kind >> 12).bytes(name);
        answer.0.resize(end, 0);
        self.answer = answer;
        true
    }

    pub(crate) fn into_answer(self) -> Answer {
        self.answer
    }
}

/// The header of an answer of `length` bytes. Notifications have `unique` 0 and their code in place of the error.
pub(crate) fn header(length: usize, error: i32, unique: u64) -> [u8; HEADER] {
    let mut all = [0; HEADER];
    all[..4].copy_from_slice(&(length as u32).to_ne_bytes());
    all[4..8].copy_from_slice(&error.to_ne_bytes());
    all[8..].copy_from_slice(&unique.to_ne_bytes());
    all
}

#[cfg(test)]
mod tests {
    use super::super::ids::Slot;
    use super::*;

    const NODE: NodeId = NodeId::new(Slot::new(4), 2);

    fn attr() -> Attr {
        Attr { index: 2, mode: 0o100_644, size: 5000, mtime: (9, 8), ..Attr::directory(2) }
    }

    #[test]
    fn bodies_have_the_sizes_of_the_protocol() {
        let size = |answer: Answer| answer.finish(1).len() - HEADER;
        let (attr, timeouts) = (attr(), Timeouts::default());
        assert_eq!(size(Answer::new().attr(NODE, &attr, &timeouts)), 104);
        assert_eq!(size(Answer::new().entry(NODE, &attr, &timeouts)), 128);
        assert_eq!(size(Answer::new().absent(Duration::ZERO)), 128);
        assert_eq!(size(Answer::new().statfs(&Totals::default())), 80);
        assert_eq!(size(Answer::new().length(3)), 8);
        let init = Init { major: 7, minor: 45, max_readahead: 1 << 17, flags: u64::MAX };
        assert_eq!(size(Answer::new().init(&init, Terms::default())), 64);
    }

    #[test]
    fn nothing_is_agreed_that_the_kernel_does_not_offer() {
        let init = Init { major: 7, minor: 31, max_readahead: 100, flags: flags::MAX_PAGES };
        let answer = Answer::new().init(&init, Terms::default()).finish(2);
        assert_eq!(answer[HEADER + 12..HEADER + 16], (flags::MAX_PAGES as u32).to_ne_bytes());
        assert_eq!(answer[HEADER + 8..HEADER + 12], 100u32.to_ne_bytes());
        assert_eq!(answer[HEADER + 32..HEADER + 36], [0; 4]);
    }

    #[test]
    fn a_listing_stops_where_the_kernel_has_no_more_room() {
        let mut listing = Listing::new(70, None);
        assert!(listing.add(b"a", NODE, attr().mode, 1, None));
        assert!(listing.add(b"eightchr", NODE, attr().mode, 2, None));
        assert!(!listing.add(b"c", NODE, attr().mode, 3, None));
        assert_eq!(listing.into_answer().finish(3).len(), HEADER + 64);
        let mut plus = Listing::new(128 + 32, Some(Timeouts::default()));
        assert!(plus.add(b"a", NODE, attr().mode, 1, Some(&attr())));
        assert!(!plus.add(b"b", NODE, attr().mode, 2, None));
    }

    #[test]
    fn a_header_says_length_error_and_request() {
        let answer = Answer::error(7, Errno::NOENT);
        assert_eq!(answer[..4], 16u32.to_ne_bytes());
        assert_eq!(answer[4..8], (-2i32).to_ne_bytes());
        assert_eq!(answer[8..], 7u64.to_ne_bytes());
    }
}
