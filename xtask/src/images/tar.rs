//! Writes an overlay upper directory as the tar of an OCI layer.
//!
//! Same tree, same bytes: entries are sorted by path components (a folder before what is in it), times are
//! clamped, owners are numbers, and only what ustar cannot say goes into PAX records (long or non-ASCII
//! names, xattrs). Kernel whiteouts become `.wh.NAME`, opaque folders get `.wh..wh..opq`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// No entry is younger than this (seconds since 1970).
pub(crate) const EPOCH: u64 = 1_750_000_000;
const BLOCK: usize = 512;

/// Writes the layer; `lowest` says that no layer lies below, so that nothing can be opaque.
pub(crate) fn write_upper(upper: &Path, lowest: bool, out: &mut impl Write) -> Result<()> {
    let mut writer = Writer { out, first_names: HashMap::new() };
    for path in sorted_paths(upper)? {
        writer
            .entry(upper, &path, lowest)
            .with_context(|| format!("cannot write {} to the layer", path.display()))?;
    }
    writer.out.write_all(&[0; 2 * BLOCK])?;
    Ok(())
}

/// All paths below `root`, relative, in tar order.
fn sorted_paths(root: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for child in fs::read_dir(root.join(&folder))? {
            let child = child?;
            let path = folder.join(child.file_name());
            if child.file_type()?.is_dir() {
                folders.push(path.clone());
            }
            paths.push(path);
        }
    }
    // `Path` compares component by component.
    paths.sort();
    Ok(paths)
}

/// What a header says apart from the name.
struct Header<'a> {
    kind: u8,
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
    size: u64,
    link: &'a [u8],
    device: (u32, u32),
}

impl Header<'_> {
    /// An empty marker file of the layer format.
    const MARKER: Self =
        Header { kind: b'0', mode: 0o644, owner: (0, 0), mtime: EPOCH, size: 0, link: b"", device: (0, 0) };
}

struct Writer<'a, W> {
    out: &'a mut W,
    /// First path of every inode with more than one link.
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Writer<'_, W> {
    fn entry(&mut self, upper: &Path, path: &Path, lowest: bool) -> Result<()> {
        let full = upper.join(path);
        let meta = fs::symlink_metadata(&full)?;
        let kind = meta.file_type();
        let name = path.as_os_str().as_bytes();
        if kind.is_char_device() && meta.rdev() == 0 {
            let file = path.file_name().unwrap_or_default().as_bytes();
            let hidden = path.with_file_name(OsStr::from_bytes(&[b".wh.", file].concat()));
            return self.header(hidden.as_os_str().as_bytes(), &Header::MARKER, &[]);
        }
        let (xattrs, opaque) = xattrs(&full)?;
        let mut header = Header {
            kind: b'0',
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: u64::try_from(meta.mtime()).unwrap_or(0).min(EPOCH),
            ..Header::MARKER
        };
        if kind.is_dir() {
            header.kind = b'5';
            self.header(&[name, b"/"].concat(), &header, &xattrs)?;
            if opaque && !lowest {
                self.header(&[name, b"/.wh..wh..opq"].concat(), &Header::MARKER, &[])?;
            }
            return Ok(());
        }
        if kind.is_symlink() {
            let target = fs::read_link(&full)?.into_os_string().into_vec();
            return self.header(name, &Header { kind: b'2', link: &target, ..header }, &xattrs);
        }
        if kind.is_file() {
            return self.file(&full, name, &meta, header, &xattrs);
        }
        if kind.is_socket() {
            return Ok(());
        }
        header.kind = match () {
            () if kind.is_fifo() => b'6',
            () if kind.is_char_device() => b'3',
            () if kind.is_block_device() => b'4',
            () => bail!("unknown kind of file"),
        };
        header.device = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        self.header(name, &header, &xattrs)
    }

    /// A regular file, or a hard link to the first path of its inode.
    fn file(
        &mut self,
        full: &Path,
        name: &[u8],
        meta: &Metadata,
        header: Header<'_>,
        xattrs: &Xattrs,
    ) -> Result<()> {
        let inode = (meta.dev(), meta.ino());
        if let Some(first) = self.first_names.get(&inode).cloned() {
            return self.header(name, &Header { kind: b'1', link: &first, ..header }, &Vec::new());
        }
        if meta.nlink() > 1 {
            self.first_names.insert(inode, name.to_vec());
        }
        self.header(name, &Header { size: meta.size(), ..header }, xattrs)?;
        let copied = io::copy(&mut File::open(full)?.take(meta.size()), self.out)?;
        if copied != meta.size() {
            bail!("the file shrank while it was read");
        }
        self.pad(copied)
    }

    fn header(&mut self, name: &[u8], header: &Header<'_>, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut records = Vec::new();
        if !fits(name, 100) {
            record(&mut records, b"path", name);
        }
        if !fits(header.link, 100) {
            record(&mut records, b"linkpath", header.link);
        }
        for (key, value) in xattrs {
            record(&mut records, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
        }
        if !records.is_empty() {
            let size = records.len() as u64;
            let pax = Header { kind: b'x', size, ..Header::MARKER };
            self.out.write_all(&block(b"PaxHeaders/entry", &pax)?)?;
            self.out.write_all(&records)?;
            self.pad(size)?;
        }
        self.out.write_all(&block(name, header)?)?;
        Ok(())
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let tail = (size % BLOCK as u64) as usize;
        if tail > 0 {
            self.out.write_all(&[0; BLOCK][tail..])?;
        }
        Ok(())
    }
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The xattrs that belong to the file, sorted, and whether overlayfs marked it as an opaque folder.
fn xattrs(path: &Path) -> Result<(Xattrs, bool)> {
    let mut names = vec![0; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    let mut found = Vec::new();
    let mut opaque = false;
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(length);
        if name == b"trusted.overlay.opaque" {
            opaque = value == b"y";
        } else if !name.starts_with(b"trusted.overlay.") {
            found.push((name.to_vec(), value));
        }
    }
    found.sort();
    Ok((found, opaque))
}

/// Whether ustar's field of this width says the text to every reader.
fn fits(text: &[u8], width: usize) -> bool {
    text.len() <= width && text.is_ascii()
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.extend([&b" "[..], key, b"=", value, b"\n"].concat());
}

/// A ustar header block; what does not fit was said by a PAX record before.
fn block(name: &[u8], header: &Header<'_>) -> Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let text = |block: &mut [u8; BLOCK], at: usize, width: usize, text: &[u8]| {
        let length = text.len().min(width);
        block[at..at + length].copy_from_slice(&text[..length]);
    };
    text(&mut block, 0, 100, name);
    let numbers = [
        (100, 8, u64::from(header.mode)),
        (108, 8, u64::from(header.owner.0)),
        (116, 8, u64::from(header.owner.1)),
        (124, 12, header.size),
        (136, 12, header.mtime),
        (329, 8, u64::from(header.device.0)),
        (337, 8, u64::from(header.device.1)),
    ];
    for (at, width, value) in numbers {
        let octal = format!("{value:0digits$o}", digits = width - 1);
        if octal.len() >= width {
            bail!("{value} is too large for a ustar header");
        }
        text(&mut block, at, width, octal.as_bytes());
    }
    block[156] = header.kind;
    text(&mut block, 157, 100, header.link);
    text(&mut block, 257, 8, b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    text(&mut block, 148, 8, format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::{Command, Stdio};

    use super::*;

    /// What GNU tar lists of a layer of this folder.
    fn listing(dir: &Path) -> String {
        let mut bytes = Vec::new();
        write_upper(dir, false, &mut bytes).unwrap();
        let mut again = Vec::new();
        write_upper(dir, false, &mut again).unwrap();
        assert_eq!(bytes, again);
        let mut tar = Command::new("tar")
            .args(["--list", "--verbose", "--numeric-owner", "--utc"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = tar.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn gnu_tar_reads_names_links_and_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let long = "d".repeat(120);
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("b/file"), b"12345").unwrap();
        fs::set_permissions(dir.path().join("b/file"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(dir.path().join("b/file"), dir.path().join("c")).unwrap();
        fs::write(dir.path().join("b").join(&long), b"").unwrap();
        symlink("b/file", dir.path().join("a")).unwrap();
        let listing = listing(dir.path());
        let lines: Vec<&str> = listing.lines().collect();
        assert_eq!(lines.len(), 5, "{listing}");
        assert!(lines[0].starts_with('l') && lines[0].ends_with("a -> b/file"), "{listing}");
        assert!(lines[1].starts_with('d') && lines[1].ends_with(" b/"), "{listing}");
        assert!(lines[2].ends_with(&format!("b/{long}")), "{listing}");
        assert!(lines[3].starts_with("-rwsr-xr-x") && lines[3].contains(" 5 "), "{listing}");
        assert!(lines[4].starts_with('h') && lines[4].ends_with("c link to b/file"), "{listing}");
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for size in [0, 1, 85, 86, 87, 88, 89, 980, 990, 1000] {
            let mut out = Vec::new();
            record(&mut out, b"path", &vec![b'x'; size]);
            let text = String::from_utf8(out).unwrap();
            let (length, _) = text.split_once(' ').unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), text.len());
        }
    }
}
