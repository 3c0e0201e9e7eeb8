//! Tar archives by description, in the three header formats found in layers.
//!
//! [`TarBuilder`] owns the archive so far. Invariant: what a format cannot hold in its header goes where GNU tar
//! and the Linux tools put it: PAX records, or GNU long-name entries; a plain USTAR archive panics instead.

use crate::tar::{EntryKind, Mtime, XATTR_PREFIX};

const BLOCK: usize = 512;

/// Header format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TarFormat {
    /// POSIX.1-1988: names up to 100 bytes, or 255 with a prefix; no xattrs.
    Ustar,
    /// USTAR headers with `x` headers for what does not fit.
    Pax,
    /// GNU headers with `L` and `K` entries for long names, base-256 for large numbers; no xattrs.
    Gnu,
}

/// One entry to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// Name, written as it is.
    pub name: Vec<u8>,
    /// Kind.
    pub kind: EntryKind,
    /// Content of a regular file; for other kinds it must be empty.
    pub data: Vec<u8>,
    /// Target of a link.
    pub link_name: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group numbers.
    pub owner: (u32, u32),
    /// Owner and group names.
    pub names: (Vec<u8>, Vec<u8>),
    /// Modification time.
    pub mtime: Mtime,
    /// Device numbers.
    pub device: (u32, u32),
    /// Further PAX records, in this order; [`TarFormat::Pax`] only.
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl TarEntry {
    fn new(name: impl AsRef<[u8]>, kind: EntryKind, mode: u32) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            kind,
            data: Vec::new(),
            link_name: Vec::new(),
            mode,
            owner: (0, 0),
            names: (b"root".to_vec(), b"root".to_vec()),
            mtime: Mtime { secs: 1_700_000_000, nanos: 0 },
            device: (0, 0),
            pax: Vec::new(),
        }
    }

    /// Regular file.
    pub fn file(name: impl AsRef<[u8]>, data: impl Into<Vec<u8>>) -> Self {
        Self { data: data.into(), ..Self::new(name, EntryKind::Reg, 0o644) }
    }

    /// Directory; give the name with its trailing `/`, as tar tools do.
    pub fn dir(name: impl AsRef<[u8]>) -> Self {
        Self::new(name, EntryKind::Dir, 0o755)
    }

    /// Symbolic link.
    pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link_name: target.as_ref().to_vec(), ..Self::new(name, EntryKind::Symlink, 0o777) }
    }

    /// Hard link to an earlier entry.
    pub fn hard_link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link_name: target.as_ref().to_vec(), ..Self::new(name, EntryKind::HardLink, 0o644) }
    }

    /// Character device.
    pub fn char_device(name: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..Self::new(name, EntryKind::Char, 0o666) }
    }

    /// Block device.
    pub fn block_device(name: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..Self::new(name, EntryKind::Block, 0o660) }
    }

    /// Named pipe.
    pub fn fifo(name: impl AsRef<[u8]>) -> Self {
        Self::new(name, EntryKind::Fifo, 0o600)
    }

    /// Whiteout of `path` in the layers below: `a/b` gives the entry `a/.wh.b`.
    pub fn whiteout(path: &str) -> Self {
        let (dir, base) = path.rsplit_once('/').map_or(("", path), |(dir, base)| (dir, base));
        let slash = if dir.is_empty() { "" } else { "/" };
        Self::file(format!("{dir}{slash}.wh.{base}"), [])
    }

    /// Marker that hides everything the layers below have in `dir`.
    pub fn opaque(dir: &str) -> Self {
        Self::file(format!("{}/.wh..wh..opq", dir.trim_end_matches('/')), [])
    }

    /// With these permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// With these owner and group numbers.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// With this modification time.
    #[must_use]
    pub fn mtime(mut self, secs: i64, nanos: i32) -> Self {
        self.mtime = Mtime { secs, nanos };
        self
    }

    /// With this extended attribute, for example `user.note`.
    #[must_use]
    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax([XATTR_PREFIX, name.as_bytes()].concat(), value)
    }

    /// With this PAX record.
    #[must_use]
    pub fn pax(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }
}

/// Writes an archive.
#[derive(Debug, Clone)]
pub struct TarBuilder {
    format: TarFormat,
    bytes: Vec<u8>,
}

impl TarBuilder {
    /// An empty archive.
    pub const fn new(format: TarFormat) -> Self {
        Self { format, bytes: Vec::new() }
    }

    /// A whole archive of `entries`.
    pub fn archive<'a>(format: TarFormat, entries: impl IntoIterator<Item = &'a TarEntry>) -> Vec<u8> {
        let mut builder = Self::new(format);
        for entry in entries {
            builder.add(entry);
        }
        builder.finish()
    }

    /// Adds an entry with all the headers it needs.
    pub fn add(&mut self, entry: &TarEntry) -> &mut Self {
        let mut records = entry.pax.clone();
        assert!(records.is_empty() || self.format == TarFormat::Pax, "only PAX headers hold records");
        let (prefix, name) = self.name(&entry.name, &mut records);
        let link_name = self.link_name(&entry.link_name, &mut records);
        let fraction = match (self.format, entry.mtime.nanos) {
            (_, 0) => false,
            (format, _) => format == TarFormat::Pax,
        };
        if fraction {
            records.push((b"mtime".to_vec(), pax_time(entry.mtime).into_bytes()));
        }
        let mut header = Header::new(self.format, kind_flag(entry.kind));
        header.text(0, 100, &name);
        header.number(100, 8, entry.mode.into());
        header.number(108, 8, entry.owner.0.into());
        header.number(116, 8, entry.owner.1.into());
        header.number(124, 12, entry.data.len() as i64);
        header.number(136, 12, entry.mtime.secs);
        header.text(157, 100, &link_name);
        header.text(265, 32, &entry.names.0);
        header.text(297, 32, &entry.names.1);
        header.number(329, 8, entry.device.0.into());
        header.number(337, 8, entry.device.1.into());
        header.text(345, 155, &prefix);
        if !records.is_empty() {
            let body: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
            self.extension(b'x', b"PaxHeaders/entry", &body);
        }
        self.bytes.extend(header.sealed());
        self.body(&entry.data);
        self
    }

    /// Adds bytes as they are, for archives that no tool would write.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Adds an entry of any type with a name and a body, like an extension header: `g`, `7`, `V` ...
    pub fn extension(&mut self, typeflag: u8, name: &[u8], body: &[u8]) -> &mut Self {
        let mut header = Header::new(self.format, typeflag);
        header.text(0, 100, name);
        for (at, length) in [(100, 8), (108, 8), (116, 8), (136, 12)] {
            header.number(at, length, 0);
        }
        header.number(124, 12, body.len() as i64);
        self.bytes.extend(header.sealed());
        self.body(body);
        self
    }

    /// The archive with its two zero blocks.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    /// The archive without an end mark.
    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    fn body(&mut self, body: &[u8]) {
        self.bytes.extend_from_slice(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    /// Prefix and name fields for `name`, after moving a name that is too long elsewhere.
    fn name(&mut self, name: &[u8], records: &mut Vec<(Vec<u8>, Vec<u8>)>) -> (Vec<u8>, Vec<u8>) {
        if name.len() <= 100 {
            return (Vec::new(), name.to_vec());
        }
        match self.format {
            TarFormat::Gnu => self.long(b'L', name),
            TarFormat::Pax => records.push((b"path".to_vec(), name.to_vec())),
            TarFormat::Ustar => {
                let fits =
                    |&at: &usize| name[at] == b'/' && at <= 155 && (1..=100).contains(&(name.len() - at - 1));
                let at = (1..name.len()).find(fits).expect("the name fits a USTAR header");
                return (name[..at].to_vec(), name[at + 1..].to_vec());
            }
        }
        (Vec::new(), name[..100].to_vec())
    }

    fn link_name(&mut self, name: &[u8], records: &mut Vec<(Vec<u8>, Vec<u8>)>) -> Vec<u8> {
        if name.len() <= 100 {
            return name.to_vec();
        }
        match self.format {
            TarFormat::Gnu => self.long(b'K', name),
            TarFormat::Pax => records.push((b"linkpath".to_vec(), name.to_vec())),
            TarFormat::Ustar => panic!("the link name fits a USTAR header"),
        }
        name[..100].to_vec()
    }

    fn long(&mut self, typeflag: u8, name: &[u8]) {
        self.extension(typeflag, b"././@LongLink", &[name, b"\0"].concat());
    }
}

struct Header {
    format: TarFormat,
    block: [u8; BLOCK],
}

impl Header {
    fn new(format: TarFormat, typeflag: u8) -> Self {
        let mut block = [0; BLOCK];
        block[156] = typeflag;
        block[257..265].copy_from_slice(if format == TarFormat::Gnu { b"ustar  \0" } else { b"ustar\x0000" });
        Self { format, block }
    }

    fn text(&mut self, at: usize, length: usize, text: &[u8]) {
        assert!(text.len() <= length, "the field is long enough");
        self.block[at..at + text.len()].copy_from_slice(text);
    }

    /// Octal with a NUL behind it; what does not fit is base-256 (PAX archives in use have it so as well).
    fn number(&mut self, at: usize, length: usize, value: i64) {
        let field = &mut self.block[at..at + length];
        let octal = format!("{value:0width$o}", width = length - 1);
        if value >= 0 && octal.len() < length {
            field[..length - 1].copy_from_slice(octal.as_bytes());
            return;
        }
        assert_ne!(self.format, TarFormat::Ustar, "the number fits a USTAR header");
        field.fill(if value < 0 { 0xff } else { 0 });
        let bytes = value.to_be_bytes();
        let count = bytes.len().min(length);
        field[length - count..].copy_from_slice(&bytes[bytes.len() - count..]);
        field[0] |= 0x80;
    }

    fn sealed(mut self) -> [u8; BLOCK] {
        self.block[148..156].fill(b' ');
        let sum: u32 = self.block.iter().copied().map(u32::from).sum();
        self.block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.block
    }
}

const fn kind_flag(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Reg => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::Char => b'3',
        EntryKind::Block => b'4',
        EntryKind::Dir => b'5',
        EntryKind::Fifo => b'6',
    }
}

/// Decimal seconds; a fraction before 1970 counts backwards.
fn pax_time(time: Mtime) -> String {
    let total = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let sign = if total < 0 { "-" } else { "" };
    let total = total.unsigned_abs();
    format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000)
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}
