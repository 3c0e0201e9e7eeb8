//! Requests of the FUSE protocol, as far as a read-only server meets them: bytes of the kernel in, values out.
//!
//! Pure: no state, no system call. What must always hold: no input panics, and no field is read outside of the bytes that
//! arrived. A request whose header can be read can always be answered, so [`Operation::parse`] is apart from
//! [`Header::parse`]. Numbers are in the machine's byte order, because both sides are the same machine.

use rustix::io::Errno;

/// Bytes of the header of each request.
pub(crate) const HEADER: usize = 40;
/// Longest name that is looked up.
pub(crate) const NAME_MAX: usize = 255;
/// The kernel sets this bit in the id of a request that it sends a second time. The answer must have it, too.
pub(crate) const RESENT: u64 = 1 << 63;
/// Name of the file in the root directory that is not a layer. Nobody reads it.
pub(crate) const PROBE: &[u8] = b".probe";
/// Oldest minor version of the protocol that is served. Linux 5.4 has it.
pub(crate) const OLDEST_MINOR: u32 = 31;

/// Why bytes are not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// Fewer bytes than a header has.
    #[error("request of {0} bytes has no whole header")]
    Header(usize),
    /// The body is shorter than the operation's fixed part.
    #[error("body of operation {opcode} is cut off after {length} bytes")]
    Body {
        /// The operation.
        opcode: u32,
        /// Bytes of the body.
        length: usize,
    },
    /// A name is longer than a name may be, or has no end.
    #[error("operation {0} has a name that is too long")]
    Name(u32),
}

impl WireError {
    /// What the kernel is answered.
    pub(crate) const fn errno(self) -> Errno {
        match self {
            Self::Header(_) | Self::Body { .. } => Errno::IO,
            Self::Name(_) => Errno::NAMETOOLONG,
        }
    }
}

/// What each request begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of the whole request.
    pub(crate) length: u32,
    /// Number of the operation.
    pub(crate) opcode: u32,
    /// The request's id, for the answer.
    pub(crate) unique: u64,
    /// The object.
    pub(crate) node: u64,
    /// Thread that waits, in the process namespace of the mount; 0 when it has no number there.
    pub(crate) pid: u32,
}

impl Header {
    pub(crate) fn parse(request: &[u8]) -> Result<Self, WireError> {
        let read = || {
            let pid = u32_at(request, 32)?;
            request.get(..HEADER)?;
            Some(Self {
                length: u32_at(request, 0)?,
                opcode: u32_at(request, 4)?,
                unique: u64_at(request, 8)?,
                node: u64_at(request, 16)?,
                pid,
            })
        };
        read().ok_or(WireError::Header(request.len()))
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    Getattr,
    Readlink,
    Read {
        offset: u64,
        size: u32,
    },
    Readdir {
        offset: u64,
        size: u32,
        /// With the attributes of what the names name.
        plus: bool,
    },
    Statfs,
    Getxattr {
        name: &'a [u8],
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    /// FORGET: the kernel has no use for the object of the header any more. It has no answer.
    Forget,
    /// BATCH_FORGET: the same of many, see [`forgotten`].
    ForgetMany {
        objects: &'a [u8],
    },
    /// The thread that waits for `target` got a signal.
    Interrupt {
        target: u64,
    },
    Destroy,
    Init(Init),
    /// OPEN, OPENDIR, FLUSH and whatever a read-only server does not know. ENOSYS makes the kernel do without.
    Unsupported,
}

/// What the kernel says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Init {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    /// What it offers, both words.
    pub(crate) flags: u64,
}

impl<'a> Operation<'a> {
    /// `request` has the header in front. A request may have been cut off where its buffer ended.
    pub(crate) fn parse(header: &Header, request: &'a [u8]) -> Result<Self, WireError> {
        let opcode = header.opcode;
        let body = request.get(HEADER..).unwrap_or_default();
        let short = || WireError::Body { opcode, length: body.len() };
        Ok(match opcode {
            1 => Self::Lookup { name: name(opcode, body)? },
            2 => Self::Forget,
            42 => Self::ForgetMany { objects: body.get(8..).ok_or_else(short)? },
            3 => Self::Getattr,
            5 => Self::Readlink,
            15 => {
                let (offset, size) = range(body).ok_or_else(short)?;
                Self::Read { offset, size }
            }
            17 => Self::Statfs,
            22 => Self::Getxattr {
                size: u32_at(body, 0).ok_or_else(short)?,
                name: name(opcode, body.get(8..).ok_or_else(short)?)?,
            },
            23 => Self::Listxattr { size: u32_at(body, 0).ok_or_else(short)? },
            26 => Self::Init(Init::parse(body).ok_or_else(short)?),
            28 | 44 => {
                let (offset, size) = range(body).ok_or_else(short)?;
                Self::Readdir { offset, size, plus: opcode == 44 }
            }
            36 => Self::Interrupt { target: u64_at(body, 0).ok_or_else(short)? },
            38 => Self::Destroy,
            _ => Self::Unsupported,
        })
    }
}

impl Init {
    fn parse(body: &[u8]) -> Option<Self> {
        let low = u32_at(body, 12)?;
        // The second word is there only if the first one says so.
        let high = if u64::from(low) & super::flags::INIT_EXT != 0 { u32_at(body, 16)? } else { 0 };
        Some(Self {
            major: u32_at(body, 0)?,
            minor: u32_at(body, 4)?,
            max_readahead: u32_at(body, 8)?,
            flags: u64::from(high) << 32 | u64::from(low),
        })
    }
}

/// The numbers of the objects of a BATCH_FORGET. Each has the number of its look-ups behind it.
pub(crate) fn forgotten(objects: &[u8]) -> impl Iterator<Item = u64> + '_ {
    objects.chunks_exact(16).filter_map(|object| u64_at(object, 0))
}

/// Offset and size of READ and READDIR, which have the same body.
fn range(body: &[u8]) -> Option<(u64, u32)> {
    Some((u64_at(body, 8)?, u32_at(body, 16)?))
}

/// A name with a NUL behind it.
fn name(opcode: u32, bytes: &[u8]) -> Result<&[u8], WireError> {
    let end = bytes.iter().position(|byte| *byte == 0).filter(|end| *end <= NAME_MAX);
    Ok(&bytes[..end.ok_or(WireError::Name(opcode))?])
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        all.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        all.extend_from_slice(&opcode.to_ne_bytes());
        all.extend_from_slice(&(RESENT | 6).to_ne_bytes());
        all.extend_from_slice(&((2u64 << 32) | 9).to_ne_bytes());
        for word in [0u32, 0, 4711, 0] {
            all.extend_from_slice(&word.to_ne_bytes());
        }
        all.extend_from_slice(body);
        all
    }

    fn parsed(request: &[u8]) -> Result<Operation<'_>, WireError> {
        Operation::parse(&Header::parse(request)?, request)
    }

    #[test]
    fn a_header_is_read() {
        let bytes = request(3, &[]);
        let header = Header::parse(&bytes).unwrap();
        let wanted = Header { length: 40, opcode: 3, unique: RESENT | 6, node: (2 << 32) | 9, pid: 4711 };
        assert_eq!(header, wanted);
    }

    #[test]
    fn operations_are_read() {
        let range = [&[0; 8][..], &77u64.to_ne_bytes(), &4096u32.to_ne_bytes(), &[0; 20]].concat();
        let read = request(15, &range);
        assert_eq!(parsed(&read), Ok(Operation::Read { offset: 77, size: 4096 }));
        let listed = request(44, &range);
        assert_eq!(parsed(&listed), Ok(Operation::Readdir { offset: 77, size: 4096, plus: true }));
        assert_eq!(parsed(&request(1, b"lib\0")), Ok(Operation::Lookup { name: b"lib" }));
        let asked = request(22, b"\x20\0\0\0\0\0\0\0user.a\0");
        assert_eq!(parsed(&asked), Ok(Operation::Getxattr { name: b"user.a", size: 32 }));
        let objects: Vec<u8> = [3u64, 1, 7, 2].iter().flat_map(|number| number.to_ne_bytes()).collect();
        let forget = request(42, &[&[2, 0, 0, 0, 0, 0, 0, 0][..], &objects, b"cut off"].concat());
        match parsed(&forget) {
            Ok(Operation::ForgetMany { objects }) => assert!(forgotten(objects).eq([3, 7])),
            other => panic!("{other:?}"),
        }
        assert_eq!(parsed(&request(14, &[0; 8])), Ok(Operation::Unsupported));
        assert_eq!(parsed(&request(36, &9u64.to_ne_bytes())), Ok(Operation::Interrupt { target: 9 }));
    }

    #[test]
    fn flags_of_the_second_word_need_the_bit_that_announces_them() {
        let body = |flags: u32| {
            let words = [7u32, 40, 131_072, flags, 1 << 7];
            words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>()
        };
        let init = |flags| match parsed(&request(26, &body(flags))) {
            Ok(Operation::Init(init)) => init.flags,
            other => panic!("{other:?}"),
        };
        assert_eq!(init(1), 1);
        assert_eq!(init(1 << 30), (1 << 39) | (1 << 30));
    }

    #[test]
    fn names_that_are_too_long_or_have_no_end_are_refused() {
        assert_eq!(parsed(&request(1, b"lib")), Err(WireError::Name(1)));
        let long = [&[b'a'; NAME_MAX + 1][..], b"\0"].concat();
        assert_eq!(parsed(&request(1, &long)), Err(WireError::Name(1)));
        assert_eq!(parsed(&request(22, b"\0\0\0\0")), Err(WireError::Body { opcode: 22, length: 4 }));
    }

    #[test]
    fn no_bytes_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for round in 0..20_000u64 {
            let mut bytes = vec![0u8; (round % 130) as usize];
            for byte in &mut bytes {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state as u8;
            }
            if let Some(opcode) = bytes.get_mut(4..8) {
                opcode.copy_from_slice(&((state % 50) as u32).to_ne_bytes());
            }
            if let Ok(header) = Header::parse(&bytes) {
                let _ = Operation::parse(&header, &bytes);
            } else {
                assert!(bytes.len() < HEADER);
            }
        }
    }
}
