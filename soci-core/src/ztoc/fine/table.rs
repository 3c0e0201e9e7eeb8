//! A fine table's bytes: written from what a build found, read without trust.
//!
//! Owns nothing. Invariants: equal contents give equal bytes; memory is bounded by a small multiple of the bytes read; what
//! is opened fulfils the invariants of [`SpanTable`], of [`Windows`] and of the files of a zTOC.
//!
//! ```text
//!   0  magic "SOCIFINE"          72  digest[32] of the windows' blob    136  digest[32] of each span
//!   8  u32 version, u32 flags   104  u64 its size                       ...  digest[32] of each window
//!  16  digest[32] of the layer  112  u32 algorithm                      ...  zstd(places ++ files)
//!  48  u64 compressed size      116  u32 spans, u32 windows
//!  56  u64 plain size           124  u32 coarse starts
//!  64  u64 span size            128  u32 size of places, u32 of files
//! ```
//! Places are LEB128 numbers: distances of the coarse starts; unless it is a plain tar, those of the spans in the layer, then
//! in the plain tar; for gzip, bits of each span, then length of each window, 0 for none. Files are a zTOC without spans.

use bytes::Bytes;

use super::{WindowPlace, Windows, packed};
use crate::budget::{Budget, MEMORY_FREE, MEMORY_RATIO};
use crate::compression::uncompressed::TarZinfo;
use crate::digest::Digest;
use crate::units::ByteRange;
use crate::varint::{put_varint, take_varint};
use crate::ztoc::read::{self, Raw};
use crate::ztoc::verify::{self, Start};
use crate::ztoc::{Algorithm, FileEntry, MEMORY, SpanTable, ZtocError};

const MAGIC: &[u8; 8] = b"SOCIFINE";
const VERSION: u32 = 1;
const HEADER: usize = 136;
const DIGEST: usize = 32;

/// Most plain spans of the zTOC beside it: one for each 4 KiB of 4 GiB.
const MAX_COARSE: u32 = 1 << 20;

/// What a table says besides its files.
pub(super) struct Contents<'a> {
    pub layer: Digest,
    pub compressed_size: u64,
    pub uncompressed_size: u64,
    pub algorithm: Algorithm,
    pub span_size: u64,
    pub coarse: &'a [u64],
    pub starts: &'a [Start],
    pub digests: &'a [Digest],
    /// Length and digest by span; empty if no span has one.
    pub windows: &'a [Option<(u32, Digest)>],
    pub windows_digest: Digest,
    pub windows_size: u64,
    /// A zTOC without spans.
    pub files: &'a [u8],
}

/// Writes a table; `None` when it would be too large to be read.
pub(super) fn encode(contents: &Contents<'_>) -> std::io::Result<Option<Vec<u8>>> {
    let mut places = Vec::new();
    let mut distances = |offsets: &mut dyn Iterator<Item = u64>| {
        let mut last = 0;
        for offset in offsets {
            put_varint(&mut places, offset - last);
            last = offset;
        }
    };
    distances(&mut contents.coarse.iter().copied());
    if contents.algorithm != Algorithm::Uncompressed {
        distances(&mut contents.starts.iter().map(|start| start.input));
        distances(&mut contents.starts.iter().map(|start| start.output));
    }
    if contents.algorithm == Algorithm::Gzip {
        places.extend(contents.starts.iter().map(|start| start.bits));
        for window in contents.windows {
            put_varint(&mut places, window.map_or(0, |(length, _)| u64::from(length)));
        }
    }
    let windows: Vec<Digest> = contents.windows.iter().filter_map(|window| Some((*window)?.1)).collect();
    if contents.coarse.len() > MAX_COARSE as usize {
        return Ok(None);
    }
    let unpacked = Bytes::from([&places, contents.files].concat());
    let front = HEADER + DIGEST * (contents.digests.len() + windows.len());
    let least = |packed: usize| least_length(&unpacked, places.len(), front + packed).saturating_sub(front);
    let Some(packed) = packed::pack(&unpacked, least)? else { return Ok(None) };
    let mut bytes = Vec::with_capacity(front + packed.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend_from_slice(contents.layer.as_bytes());
    bytes.extend(contents.compressed_size.to_le_bytes());
    bytes.extend(contents.uncompressed_size.to_le_bytes());
    bytes.extend(contents.span_size.to_le_bytes());
    bytes.extend_from_slice(contents.windows_digest.as_bytes());
    bytes.extend(contents.windows_size.to_le_bytes());
    for number in [
        contents.algorithm.number() as usize,
        contents.digests.len(),
        windows.len(),
        contents.coarse.len(),
        places.len(),
        contents.files.len(),
    ] {
        // All are below 2^31: places and files were packed, and each span has a place of its own in both digest lists.
        bytes.extend((number as u32).to_le_bytes());
    }
    for digest in contents.digests.iter().chain(&windows) {
        bytes.extend_from_slice(digest.as_bytes());
    }
    bytes.extend_from_slice(&packed);
    Ok(Some(bytes))
}

/// How long a table of `length` bytes must be made for [`open`] to grant the memory that it needs. Only tables of some hundred
/// thousand files that are much alike have to be longer.
fn least_length(unpacked: &Bytes, places: usize, length: usize) -> usize {
    // No part of a file's entry takes more than this for a byte.
    if Budget::memory(MEMORY, length as u64).spend_each(unpacked.len(), 8).is_ok() {
        return length;
    }
    let files = read::memory(&unpacked.slice(places..)).unwrap_or_default();
    let need = files.saturating_add(unpacked.len() as u64);
    need.saturating_sub(MEMORY_FREE).div_ceil(MEMORY_RATIO) as usize
}

/// What a table says.
pub(in crate::ztoc) struct Opened {
    /// What it took, its own bytes not counted.
    pub memory: u64,
    pub layer: Digest,
    pub version: Bytes,
    pub build_tool: Bytes,
    pub compressed_size: u64,
    pub uncompressed_size: u64,
    pub algorithm: Algorithm,
    pub files: Vec<FileEntry>,
    pub spans: SpanTable,
    pub windows: Option<Windows>,
    pub coarse: Vec<u64>,
}

struct Header {
    layer: Digest,
    compressed_size: u64,
    uncompressed_size: u64,
    span_size: u64,
    windows_digest: Digest,
    windows_size: u64,
    algorithm: Algorithm,
    spans: usize,
    windows: usize,
    coarse: usize,
    places: usize,
    files: usize,
}

/// Bytes that are taken from the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ZtocError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(ZtocError::OutOfBounds)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, ZtocError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, ZtocError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// A size or offset, which a zTOC has 63 bits for.
    fn size(&mut self, what: &'static str) -> Result<u64, ZtocError> {
        let value = i64::from_le_bytes(self.take()?);
        u64::try_from(value).map_err(|_| ZtocError::Number { what, value })
    }

    fn digest(&mut self) -> Result<Digest, ZtocError> {
        Ok(Digest::from_bytes(self.take()?))
    }

    fn digests(&mut self, count: usize) -> Result<Vec<Digest>, ZtocError> {
        let length = count.checked_mul(DIGEST).ok_or(ZtocError::OutOfBounds)?;
        let (digests, rest) = self.0.split_at_checked(length).ok_or(ZtocError::OutOfBounds)?;
        self.0 = rest;
        Ok(digests.as_chunks().0.iter().map(|bytes| Digest::from_bytes(*bytes)).collect())
    }

    fn header(&mut self) -> Result<Header, ZtocError> {
        if self.take()? != *MAGIC {
            return Err(ZtocError::Table("it does not begin as one"));
        }
        if self.u32()? != VERSION {
            return Err(ZtocError::Table("its version is another"));
        }
        if self.u32()? != 0 {
            return Err(ZtocError::Table("it has flags that are not known"));
        }
        Ok(Header {
            layer: self.digest()?,
            compressed_size: self.size("compressed size")?,
            uncompressed_size: self.size("uncompressed size")?,
            span_size: self.size("span size")?,
            windows_digest: self.digest()?,
            windows_size: self.u64()?,
            algorithm: algorithm(self.u32()?)?,
            spans: self.u32()? as usize,
            windows: self.u32()? as usize,
            coarse: Some(self.u32()?)
                .filter(|&count| count <= MAX_COARSE)
                .ok_or(ZtocError::Table("it has too many coarse starts"))? as usize,
            places: self.u32()? as usize,
            files: self.u32()? as usize,
        })
    }
}

fn algorithm(number: u32) -> Result<Algorithm, ZtocError> {
    let number = i8::try_from(number).map_err(|_| ZtocError::Table("its algorithm is not known"))?;
    Algorithm::of(number).ok_or(ZtocError::Algorithm(number))
}

/// Reads and verifies a table.
pub(in crate::ztoc) fn open(bytes: &[u8]) -> Result<Opened, ZtocError> {
    let mut reader = Reader(bytes);
    let header = reader.header()?;
    let digests = reader.digests(header.spans)?;
    let window_digests = reader.digests(header.windows)?;
    let size = header.places as u64 + header.files as u64;
    let mut memory = Budget::memory(MEMORY, bytes.len() as u64);
    memory.spend(size)?;
    let unpacked = Bytes::from(packed::unpack(reader.0, size)?);
    let files = read::read(&unpacked.slice(header.places..), &mut memory)?;
    agree(&header, &files)?;
    let mut places = &unpacked[..header.places];
    let coarse = distances(&mut places, header.coarse)?;
    let spans = spans(&header, digests, &mut places)?;
    let windows = windows(&header, window_digests, &mut places)?;
    if !places.is_empty() {
        return Err(ZtocError::Table("more follows on its places"));
    }
    Ok(Opened {
        memory: memory.spent(),
        layer: header.layer,
        version: files.version,
        build_tool: files.build_tool,
        compressed_size: header.compressed_size,
        uncompressed_size: header.uncompressed_size,
        algorithm: header.algorithm,
        files: verify::files(files.files, header.uncompressed_size)?,
        spans,
        windows,
        coarse: coarse.into_iter().map(|start| start.min(header.uncompressed_size)).collect(),
    })
}

/// Whether the files are those of this table's layer.
fn agree(header: &Header, files: &Raw) -> Result<(), ZtocError> {
    let same = files.compressed_size == header.compressed_size
        && files.uncompressed_size == header.uncompressed_size
        && files.algorithm == header.algorithm
        && files.digests.is_empty()
        && files.checkpoints.is_empty();
    if same { Ok(()) } else { Err(ZtocError::Table("its files are another layer's")) }
}

fn number(places: &mut &[u8]) -> Result<u64, ZtocError> {
    take_varint(places).ok_or(ZtocError::OutOfBounds)
}

/// Offsets that never descend.
fn distances(places: &mut &[u8], count: usize) -> Result<Vec<u64>, ZtocError> {
    // Each takes a byte at least.
    let mut offsets = Vec::with_capacity(count.min(places.len()));
    let mut last = 0_u64;
    for _ in 0..count {
        last = last.checked_add(number(places)?).ok_or(ZtocError::OutOfBounds)?;
        offsets.push(last);
    }
    Ok(offsets)
}

fn spans(header: &Header, digests: Vec<Digest>, places: &mut &[u8]) -> Result<SpanTable, ZtocError> {
    let count = digests.len();
    let sizes = (header.compressed_size, header.uncompressed_size);
    let mut spans = if header.algorithm == Algorithm::Uncompressed {
        let signed = |size: u64| size.cast_signed();
        let zinfo = TarZinfo { span_size: signed(header.span_size), size: signed(header.compressed_size) };
        verify::plain(zinfo, sizes, count as u64)?.1
    } else {
        let inputs = distances(places, count)?;
        let outputs = distances(places, count)?;
        let mut bits = &[][..];
        if header.algorithm == Algorithm::Gzip {
            (bits, *places) = places.split_at_checked(count).ok_or(ZtocError::OutOfBounds)?;
        }
        let mut starts = Vec::with_capacity(count);
        for (number, (&input, &output)) in inputs.iter().zip(&outputs).enumerate() {
            let bits = bits.get(number).copied().unwrap_or(0);
            if bits > 7 || (bits != 0 && input == 0) {
                return Err(ZtocError::Checkpoints("impossible number of bits"));
            }
            starts.push(Start { input, output, bits, window: None });
        }
        verify::ascending(&starts, sizes, header.algorithm)?
    };
    if spans.len() != count {
        return Err(ZtocError::Table("it has no digest for each span"));
    }
    for (span, digest) in spans.iter_mut().zip(digests) {
        span.digest = Some(digest);
    }
    let (span_size, uncompressed_size) = (header.span_size, header.uncompressed_size);
    Ok(SpanTable { span_size, uncompressed_size, spans, blob: Bytes::new() })
}

fn windows(header: &Header, digests: Vec<Digest>, places: &mut &[u8]) -> Result<Option<Windows>, ZtocError> {
    const WRONG: ZtocError = ZtocError::Table("its windows are not the blob's");
    let (mut windows, mut at, mut digests) = (Vec::new(), 0_u64, digests.into_iter());
    if header.algorithm == Algorithm::Gzip && header.windows > 0 {
        for _ in 0..header.spans {
            let length = number(places)?;
            if length == 0 {
                windows.push(None);
                continue;
            }
            let end = at.checked_add(length).filter(|&end| end <= header.windows_size).ok_or(WRONG)?;
            let digest = digests.next().ok_or(WRONG)?;
            windows.push(Some(WindowPlace { range: ByteRange::new(at, end), digest }));
            at = end;
        }
    }
    if at != header.windows_size || digests.next().is_some() {
        return Err(WRONG);
    }
    let (digest, size) = (header.windows_digest, header.windows_size);
    Ok((!windows.is_empty()).then_some(Windows { digest, size, places: windows }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::{Entry, EntryKind, Mtime};
    use crate::ztoc::encode;

    /// Files that are so alike that their table is packed to less than pays for them in memory.
    #[test]
    fn a_table_of_many_files_that_are_alike_is_padded_until_it_can_be_read() {
        const FILES: u64 = 400_000;
        let file = |at: u64| Entry {
            name: b"f".to_vec(),
            kind: EntryKind::Reg,
            content_offset: (at + 1) * 512,
            size: 0,
            link_name: Vec::new(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            uname: Vec::new(),
            gname: Vec::new(),
            mtime: Mtime::default(),
            dev_major: 0,
            dev_minor: 0,
            pax: std::collections::BTreeMap::new(),
        };
        let entries: Vec<Entry> = (0..FILES).map(file).collect();
        let size = FILES * 512;
        let files = encode::encode(&encode::Contents {
            build_tool: "test",
            compressed_size: size,
            uncompressed_size: size,
            entries: &entries,
            algorithm: Algorithm::Uncompressed,
            checkpoints: &[],
            digests: &[],
        });
        drop(entries);
        let digest = Digest::of(b"span");
        let table = encode(&Contents {
            layer: Digest::of(b"layer"),
            compressed_size: size,
            uncompressed_size: size,
            algorithm: Algorithm::Uncompressed,
            span_size: size,
            coarse: &[],
            starts: &[],
            digests: &[digest],
            windows: &[],
            windows_digest: Digest::from_bytes([0; 32]),
            windows_size: 0,
            files: &files,
        });
        let table = table.unwrap().unwrap();
        let packed = zstd::bulk::compress(&files, 9).unwrap().len();
        assert!(table.len() > packed + HEADER + DIGEST, "it would have been read as it is: make it larger");
        assert_eq!(open(&table).unwrap().files.len() as u64, FILES);
    }
}
