//! Where the running kernel keeps the members of its structures: a reader of BTF, its type information.
//!
//! Owns the bytes of `/sys/kernel/btf/vmlinux`, those of a module that builds on them, and an index of the types that the
//! programs ask for. Reads what the kernel wrote about itself, and still checks every bound: a kernel with a newer BTF
//! makes an error, never a panic or a wrong offset.

use std::collections::HashMap;
use std::ops::Range;

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const FUNCTION: u32 = 12;
const PROTOTYPE: u32 = 13;
/// Bytes of a type before what its kind adds, and of a member of a structure, and of an enumerator.
const TYPE: usize = 12;
const MEMBER: usize = 12;
const ENUMERATOR: usize = 8;
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

/// The types of a kernel, and of one of its modules.
#[derive(Debug)]
pub(super) struct KernelTypes {
    /// Of the kernel, and behind it of the module.
    bytes: Vec<u8>,
    /// Where their names are; a module's count on from the kernel's.
    strings: Vec<Range<usize>>,
    /// Position of each type; id 0 is `void` and has none. A module's count on, too.
    types: Vec<usize>,
    /// Of the names that are asked for.
    structures: HashMap<&'static [u8], Vec<u32>>,
    typedefs: Vec<u32>,
    functions: Vec<u32>,
}

impl KernelTypes {
    /// Reads a kernel's types. Of its structures, unions and enumerations, those with `names` can be asked for.
    pub(super) fn parse(
        bytes: &[u8],
        names: impl IntoIterator<Item = &'static str>,
    ) -> Result<Self, BtfError> {
        let structures = names.into_iter().map(|name| (name.as_bytes(), Vec::new())).collect();
        let (typedefs, functions) = (Vec::new(), Vec::new());
        let (strings, types) = (Vec::new(), vec![0]);
        let mut this = Self { bytes: Vec::new(), strings, types, structures, typedefs, functions };
        this.add(bytes)?;
        Ok(this)
    }

    /// Reads the types of a module, which build on the kernel's.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(), BtfError> {
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()[..]) {
            return Err(BtfError::NotBtf);
        }
        let base = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let section = |at: usize| -> Result<Range<usize>, BtfError> {
            let (header, from, length) =
                (self.number(base + 4)?, self.number(base + at)?, self.number(base + at + 4)?);
            let from = u64::from(header) + u64::from(from);
            let to = from + u64::from(length);
            if to > bytes.len() as u64 {
                return Err(BtfError::Bounds(at));
            }
            Ok(base + from as usize..base + to as usize)
        };
        let (types, strings) = (section(8)?, section(16)?);
        self.strings.push(strings);
        let mut at = types.start;
        while at < types.end {
            let id = self.types.len() as u32;
            self.types.push(at);
            let (name, info) = (self.number(at)?, self.number(at + 4)?);
            let kind = kind_of(info);
            match kind {
                STRUCT | UNION | ENUM => {
                    let (start, end) = self.name_at(name)?;
                    if let Some(same) = self.structures.get_mut(&self.bytes[start..end]) {
                        same.push(id);
                    }
                }
                TYPEDEF => self.typedefs.push(id),
                FUNCTION => self.functions.push(id),
                _ => {}
            }
            at += TYPE + extra(kind, (info & 0xffff) as usize)?;
        }
        Ok(())
    }

    /// Offset in bytes of a member, also when it is inside unnamed parts; of an enumerator, its value.
    pub(super) fn offset(&self, structure: &str, member: &str) -> Result<Option<u32>, BtfError> {
        for &id in self.structures.get(structure.as_bytes()).into_iter().flatten() {
            if let Some(value) = self.enumerator(id, member.as_bytes())? {
                return Ok(Some(value));
            }
            if let Some(bits) = self.find(id, member.as_bytes(), 0)? {
                return Ok(Some(bits / 8));
            }
        }
        Ok(None)
    }

    /// How many arguments this function takes, if there is one.
    pub(super) fn arguments(&self, function: &str) -> Result<Option<usize>, BtfError> {
        for &id in &self.functions {
            let at = self.position(id)?;
            if self.name(self.number(at)?)? == function.as_bytes() {
                let info = self.number(self.position(self.number(at + 8)?)? + 4)?;
                return Ok((kind_of(info) == PROTOTYPE).then_some((info & 0xffff) as usize));
            }
        }
        Ok(None)
    }

    /// The value of an enumerator.
    fn enumerator(&self, id: u32, wanted: &[u8]) -> Result<Option<u32>, BtfError> {
        let at = self.position(id)?;
        let info = self.number(at + 4)?;
        if kind_of(info) != ENUM {
            return Ok(None);
        }
        for number in 0..(info & 0xffff) as usize {
            let at = at + TYPE + number * ENUMERATOR;
            if self.name(self.number(at)?)? == wanted {
                return self.number(at + 4).map(Some);
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
        if depth < MAX_DEPTH && matches!(kind_of(info), VOLATILE | CONST) {
            return self.find(self.number(at + 8)?, member, depth + 1);
        }
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
        let (start, end) = self.name_at(offset)?;
        Ok(&self.bytes[start..end])
    }

    /// Where a name begins and ends.
    fn name_at(&self, offset: u32) -> Result<(usize, usize), BtfError> {
        let outside = BtfError::Bounds(offset as usize);
        let mut rest = offset as usize;
        for part in &self.strings {
            if rest < part.len() {
                let start = part.start + rest;
                let length = self.bytes[start..part.end].iter().position(|&byte| byte == 0);
                return Ok((start, start + length.ok_or(outside)?));
            }
            rest -= part.len();
        }
        Err(outside)
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
        ENUM | PROTOTYPE => count * 8, // enumeration, function prototype
        other => return Err(BtfError::Kind(other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn btf(words: &[u32], strings: &[u8]) -> Vec<u8> {
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let (length, strings_length) = (types.len() as u32, strings.len() as u32);
        bytes.extend([24, 0, length, length, strings_length].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    /// `struct outer { int a; const struct { int b; int c; }; }`, a tracepoint, `enum flags { one = 1, six = 6 }`, and a function
    /// with two arguments.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0c\0btf_trace_open\0flags\0one\0six\0read\0";
        let words: &[&[u32]] = &[
            &[0, 1 << 24, 4, 32],                          // 1: an integer
            &[0, STRUCT << 24 | 2, 8, 9, 1, 0, 11, 1, 32], // 2: the unnamed structure
            &[1, STRUCT << 24 | 2, 12, 7, 1, 0, 0, 8, 32], // 3: outer
            &[13, TYPEDEF << 24, 1],                       // 4: the typedef
            &[28, ENUM << 24 | 2, 4, 34, 1, 38, 6],        // 5: the enumeration
            &[0, PROTOTYPE << 24 | 2, 1, 7, 1, 9, 1],      // 6: what the function takes
            &[42, FUNCTION << 24, 6],                      // 7: the function
            &[0, CONST << 24, 2],                          // 8: the unnamed structure, which does not change
        ];
        btf(&words.concat(), strings)
    }

    /// Of a module: `struct mine { struct outer b; int new; }`, of which only two names are its own.
    fn module() -> Vec<u8> {
        btf(&[47, STRUCT << 24 | 2, 16, 9, 3, 0, 52, 1, 96], b"mine\0new\0")
    }

    const NAMES: [&str; 4] = ["outer", "flags", "mine", "absent"];

    #[test]
    fn members_are_found_inside_unnamed_parts() {
        let types = KernelTypes::parse(&sample(), NAMES).unwrap();
        assert_eq!(types.offset("outer", "a"), Ok(Some(0)));
        assert_eq!(types.offset("outer", "c"), Ok(Some(8)));
        assert_eq!(types.offset("outer", "d"), Ok(None));
        assert_eq!(types.offset("absent", "a"), Ok(None));
        assert_eq!(types.offset("flags", "six"), Ok(Some(6)));
        assert_eq!(types.offset("flags", "a"), Ok(None));
        assert_eq!(types.has_tracepoint("open"), Ok(true));
        assert_eq!(types.has_tracepoint("close"), Ok(false));
        assert_eq!(types.arguments("read"), Ok(Some(2)));
        assert_eq!(types.arguments("write"), Ok(None));
    }

    #[test]
    fn a_module_builds_on_the_kernel() {
        let mut types = KernelTypes::parse(&sample(), NAMES).unwrap();
        assert_eq!(types.offset("mine", "new"), Ok(None));
        types.add(&module()).unwrap();
        assert_eq!(types.offset("mine", "b"), Ok(Some(0)));
        assert_eq!(types.offset("mine", "new"), Ok(Some(12)));
        assert_eq!(types.offset("outer", "c"), Ok(Some(8)));
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let ask = |types: &KernelTypes| {
            let _ = (types.offset("outer", "c"), types.offset("flags", "six"), types.offset("mine", "new"));
            let _ = (types.has_tracepoint("open"), types.arguments("read"));
        };
        for whole in [sample(), module()] {
            for length in 0..whole.len() {
                let types = KernelTypes::parse(&whole[..length], NAMES);
                assert!(types.is_err(), "{length} bytes");
            }
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut bytes = whole.clone();
                    bytes[at] ^= 1 << bit;
                    if let Ok(types) = KernelTypes::parse(&bytes, NAMES) {
                        ask(&types);
                    }
                    let mut types = KernelTypes::parse(&sample(), NAMES).unwrap();
                    if types.add(&bytes).is_ok() {
                        ask(&types);
                    }
                }
            }
        }
    }
}
