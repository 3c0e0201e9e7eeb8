//! Where the running kernel keeps the members of its structures: a reader of BTF, its type information.
//!
//! Owns the bytes of `/sys/kernel/btf/vmlinux` and an index of the types in them. Reads what the kernel wrote about
//! itself, and still checks every bound: a kernel with a newer BTF makes an error, never a panic or a wrong offset.

use std::collections::HashMap;
use std::ops::Range;

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
/// Bytes of a type before what its kind adds, and of a member of a structure.
const TYPE: usize = 12;
const MEMBER: usize = 12;
/// Structures nest a few levels deep; more than this is a loop.
const MAX_DEPTH: u32 = 16;

/// Why type information cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// It does not begin as BTF does.
    #[error("not BTF in this machine's byte order")]
    NotBtf,
    /// It ends too early or points outside itself.
    #[error("cut, or it points outside itself, at byte {0}")]
    Bounds(usize),
    /// A kind of type that came after this reader.
    #[error("kind {0} of type is not known here")]
    Kind(u32),
}

/// The types of a kernel.
#[derive(Debug)]
pub(super) struct KernelTypes {
    bytes: Vec<u8>,
    strings: Range<usize>,
    /// Position of each type; id 0 is `void` and has none.
    types: Vec<usize>,
    structures: HashMap<Vec<u8>, Vec<u32>>,
    typedefs: Vec<u32>,
}

impl KernelTypes {
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()[..]) {
            return Err(BtfError::NotBtf);
        }
        let mut this =
            Self { bytes, strings: 0..0, types: vec![0], structures: HashMap::new(), typedefs: Vec::new() };
        let section = |at: usize| -> Result<Range<usize>, BtfError> {
            let (header, from, length) = (this.number(4)?, this.number(at)?, this.number(at + 4)?);
            let from = u64::from(header) + u64::from(from);
            let to = from + u64::from(length);
            if to > this.bytes.len() as u64 {
                return Err(BtfError::Bounds(at));
            }
            Ok(from as usize..to as usize)
        };
        let (types, strings) = (section(8)?, section(16)?);
        this.strings = strings;
        let mut at = types.start;
        while at < types.end {
            let id = this.types.len() as u32;
            this.types.push(at);
            let (name, info) = (this.number(at)?, this.number(at + 4)?);
            let kind = kind_of(info);
            match kind {
                STRUCT | UNION => {
                    let name = this.name(name)?.to_vec();
                    this.structures.entry(name).or_default().push(id);
                }
                TYPEDEF => this.typedefs.push(id),
                _ => {}
            }
            at += TYPE + extra(kind, (info & 0xffff) as usize)?;
        }
        Ok(this)
    }

    /// Offset in bytes of a member, also when it is inside unnamed parts.
    pub(super) fn offset(&self, structure: &str, member: &str) -> Result<Option<u32>, BtfError> {
        for &id in self.structures.get(structure.as_bytes()).into_iter().flatten() {
            if let Some(bits) = self.find(id, member.as_bytes(), 0)? {
                return Ok(Some(bits / 8));
            }
        }
        Ok(None)
    }

    /// Can programs be attached to this tracepoint? The kernel declares `btf_trace_NAME` for each.
    pub(super) fn has_tracepoint(&self, name: &str) -> Result<bool, BtfError> {
        let wanted = format!("btf_trace_{name}");
        for &id in &self.typedefs {
            if self.name(self.number(self.position(id)?)?)? == wanted.as_bytes() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Offset in bits of a member of a structure or union.
    fn find(&self, id: u32, member: &[u8], depth: u32) -> Result<Option<u32>, BtfError> {
        let at = self.position(id)?;
        let info = self.number(at + 4)?;
        if depth > MAX_DEPTH || !matches!(kind_of(info), STRUCT | UNION) {
            return Ok(None);
        }
        // With the top bit set, the highest byte of an offset is the width of a bit field.
        let mask = if info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
        for number in 0..(info & 0xffff) as usize {
            let at = at + TYPE + number * MEMBER;
            let (name, kind, bits) = (self.number(at)?, self.number(at + 4)?, self.number(at + 8)? & mask);
            let name = self.name(name)?;
            if name == member {
                return Ok(Some(bits));
            }
            if name.is_empty()
                && let Some(inner) = self.find(kind, member, depth + 1)?
            {
                return Ok(Some(bits + inner));
            }
        }
        Ok(None)
    }

    fn position(&self, id: u32) -> Result<usize, BtfError> {
        self.types.get(id as usize).copied().ok_or(BtfError::Bounds(id as usize))
    }

    fn number(&self, at: usize) -> Result<u32, BtfError> {
        let bytes = self.bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).ok_or(BtfError::Bounds(at))
    }

    fn name(&self, offset: u32) -> Result<&[u8], BtfError> {
        let strings = &self.bytes[self.strings.clone()];
        let rest = strings.get(offset as usize..).ok_or(BtfError::Bounds(offset as usize))?;
        let end = rest.iter().position(|&byte| byte == 0).ok_or(BtfError::Bounds(offset as usize))?;
        Ok(&rest[..end])
    }
}

fn kind_of(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// Bytes that follow a type with `count` parts. Documentation/bpf/btf.rst of the kernel.
fn extra(kind: u32, count: usize) -> Result<usize, BtfError> {
    Ok(match kind {
        2 | 7..=12 | 16 | 18 => 0, // pointer, forward, typedef, qualifiers, function, float, type tag
        1 | 14 | 17 => 4,          // integer, variable, declaration tag
        3 => 12,                   // array
        STRUCT | UNION | 15 | 19 => count * 12, // members, section, 64-bit enumeration
        6 | 13 => count * 8,       // enumeration, function prototype
        other => return Err(BtfError::Kind(other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int a; struct { int b; int c; }; }` and a tracepoint.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0c\0btf_trace_open\0";
        let words: &[u32] = &[
            0,
            1 << 24,
            4,
            32, // 1: an integer
            0,
            4 << 24 | 2,
            8,
            9,
            1,
            0,
            11,
            1,
            32, // 2: the unnamed structure
            1,
            4 << 24 | 2,
            12,
            7,
            1,
            0,
            0,
            2,
            32, // 3: outer
            13,
            8 << 24,
            1, // 4: the typedef
        ];
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let (length, strings_length) = (types.len() as u32, strings.len() as u32);
        bytes.extend([24, 0, length, length, strings_length].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_inside_unnamed_parts() {
        let types = KernelTypes::parse(sample()).unwrap();
        assert_eq!(types.offset("outer", "a"), Ok(Some(0)));
        assert_eq!(types.offset("outer", "c"), Ok(Some(8)));
        assert_eq!(types.offset("outer", "d"), Ok(None));
        assert_eq!(types.offset("other", "a"), Ok(None));
        assert_eq!(types.has_tracepoint("open"), Ok(true));
        assert_eq!(types.has_tracepoint("close"), Ok(false));
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let whole = sample();
        for length in 0..whole.len() {
            let types = KernelTypes::parse(whole[..length].to_vec());
            assert!(types.is_err(), "{length} bytes");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(types) = KernelTypes::parse(bytes) {
                    let _ = (types.offset("outer", "c"), types.has_tracepoint("open"));
                }
            }
        }
    }
}
