//! The tar walk as tests use it, and Python's tarfile beside it.
//!
//! Needs the program `python3`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use soci_core::tar::{Entry, EntryKind, Parser, Sink, Special, TarError};

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) entries: Vec<Entry>,
    pub(crate) contents: Vec<Vec<u8>>,
    pub(crate) special: Vec<Special>,
}

impl Sink for Seen {
    type Error = TarError;

    fn entry(&mut self, entry: Entry) -> Result<(), TarError> {
        self.entries.push(entry);
        self.contents.push(Vec::new());
        Ok(())
    }

    fn special(&mut self, entry: Entry, special: Special) -> Result<(), TarError> {
        self.special.push(special);
        self.entry(entry)
    }

    fn hole(&mut self, length: u64) -> Result<(), TarError> {
        let content = self.contents.last_mut().expect("a hole follows an entry");
        content.resize(content.len() + length as usize, 0);
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.contents.last_mut().expect("content follows an entry").extend_from_slice(bytes);
        Ok(())
    }
}

pub(crate) fn parse_in(archive: &[u8], chunk: usize) -> Result<(Seen, u64), TarError> {
    let (mut parser, mut seen) = (Parser::new(), Seen::default());
    for chunk in archive.chunks(chunk.max(1)) {
        parser.push(chunk, &mut seen)?;
    }
    let end = parser.finish()?;
    Ok((seen, end.uncompressed_archive_size))
}

pub(crate) fn parse(archive: &[u8]) -> Result<(Seen, u64), TarError> {
    parse_in(archive, usize::MAX)
}

const PYTHON: &str = r"
import json, sys, tarfile
b = lambda s: s.encode('utf-8', 'surrogateescape').hex()
t = tarfile.open(sys.argv[1], 'r:', encoding='utf-8', errors='surrogateescape')
print(json.dumps([dict(name=b(m.name), kind=m.type.decode('latin1'), at=m.offset_data, size=m.size, link=b(m.linkname),
    mode=m.mode, uid=m.uid, gid=m.gid, uname=b(m.uname), gname=b(m.gname), mtime=int(m.mtime // 1),
    major=m.devmajor, minor=m.devminor) for m in t]))
";

/// Compares with what Python says of the same archive.
pub(crate) fn check_against_python(path: &Path) {
    let archive = std::fs::read(path).unwrap();
    let output = Command::new("python3").args(["-c", PYTHON]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let (seen, _) = parse(&archive).unwrap();
    assert_eq!(seen.entries.len(), expected.len());
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("a nibble is below 16");
    let hex = |bytes: &[u8]| -> String {
        bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    };
    for (entry, expected) in seen.entries.iter().zip(&expected) {
        let shown = String::from_utf8_lossy(&entry.name);
        // Python drops the slashes that mark directories.
        let mut name = entry.name.as_slice();
        while let (EntryKind::Dir, Some(shorter)) = (entry.kind, name.strip_suffix(b"/")) {
            name = shorter;
        }
        assert_eq!(hex(name), expected["name"], "{shown}");
        let kind = match expected["kind"].as_str().unwrap() {
            "0" | "\0" => EntryKind::Reg,
            "1" => EntryKind::HardLink,
            "2" => EntryKind::Symlink,
            "3" => EntryKind::Char,
            "4" => EntryKind::Block,
            "5" => EntryKind::Dir,
            "6" => EntryKind::Fifo,
            other => panic!("{shown}: type {other:?}"),
        };
        assert_eq!(entry.kind, kind, "{shown}");
        let numbers = [
            ("at", entry.content_offset as i64),
            ("size", entry.size as i64),
            ("mode", entry.mode),
            ("uid", entry.uid),
            ("gid", entry.gid),
            ("mtime", entry.mtime.secs),
            ("major", entry.dev_major),
            ("minor", entry.dev_minor),
        ];
        for (field, value) in numbers {
            assert_eq!(Some(value), expected[field].as_i64(), "{shown}: {field}");
        }
        assert_eq!(hex(&entry.link_name), expected["link"], "{shown}");
        assert_eq!(hex(&entry.uname), expected["uname"], "{shown}");
        assert_eq!(hex(&entry.gname), expected["gname"], "{shown}");
    }
}
