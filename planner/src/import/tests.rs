//! Every format against one small image.

use proptest::prelude::*;
use soci_core::prefetch::{ImageView, LayerFile};
use soci_core::tar::EntryKind;
use soci_core::trace::{LayerRef, TraceReader};
use soci_core::units::ByteRange;

use super::*;
use crate::export::{self, export};

/// Two layers: `lib` is a link to `usr/lib`; the upper layer has a newer `usr/lib/x.so`.
fn target() -> Target {
    let entry = |name: &str, kind, size: u64, link: &str| LayerFile {
        name: name.to_owned().into(),
        kind,
        content: ByteRange::new(512, 512 + size),
        link: link.to_owned().into(),
        device: (0, 1),
    };
    let file = |name: &str, size| entry(name, EntryKind::Reg, size, "");
    let low = [
        file("usr/lib/x.so", 5),
        file("usr/lib/y.so", 10_000),
        entry("lib", EntryKind::Symlink, 0, "usr/lib"),
        file("bin/app", 20_000),
        file("etc/empty", 0),
    ];
    let high = [file("usr/lib/x.so", 6000), file("odd \"name\", ü\n", 3)];
    let layer = |name: &[u8]| LayerRef { digest: Digest::of(name), size: 1 };
    Target {
        image: "image".into(),
        manifest: Digest::of(b"m"),
        files: ImageFiles::new(
            ImageView::build([(0, &low[..]), (1, &high[..])]),
            vec![layer(b"0"), layer(b"1")],
        ),
        working_dir: "/usr".into(),
        now: "2026-01-01T00:00:00Z".into(),
    }
}

struct Made {
    dir: tempfile::TempDir,
    done: Imported,
}

impl Made {
    fn accesses(&self) -> Vec<Access> {
        TraceReader::open(&self.dir.path().join("t")).unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// (path, offset, length) of each access.
    fn rows(&self) -> Vec<(String, u64, u64)> {
        let row = |a: &Access| (String::from_utf8_lossy(&a.path).into_owned(), a.offset, a.len);
        self.accesses().iter().map(row).collect()
    }

    fn export(&self, format: export::Format) -> Vec<u8> {
        let mut out = Vec::new();
        export(&mut TraceReader::open(&self.dir.path().join("t")).unwrap(), format, &mut out).unwrap();
        out
    }
}

fn made(format: Format, input: impl AsRef<[u8]>) -> Result<Made, String> {
    let dir = tempfile::tempdir().unwrap();
    import(&mut input.as_ref(), format, &target(), &dir.path().join("t"))
        .map(|done| Made { dir, done })
        .map_err(|error| error.to_string())
}

fn row(path: &str, offset: u64, len: u64) -> (String, u64, u64) {
    (path.to_owned(), offset, len)
}

#[test]
fn listed_files_are_whole_and_under_their_own_path_and_the_rest_is_counted() {
    let list = "/bin/app\n\n/lib/x.so\n/etc/empty\n/gone\n/usr/lib\n";
    for format in [Format::Paths, Format::Nydus, Format::Overlaybd] {
        let made = made(format, list).unwrap();
        let want = [
            row("bin/app", 0, 20_000),
            row("usr/lib/x.so", 0, 6000),
            row("usr/lib/x.so", 0, 6000),
            row("usr/lib/y.so", 0, 10_000),
        ];
        assert_eq!(made.rows(), want, "{format:?}");
        assert_eq!((made.done.outside, made.done.first_outside.as_deref()), (1, Some(&b"/gone"[..])));
        let accesses = made.accesses();
        assert_eq!((accesses[1].layer, accesses[1].t_ns), (Some(1), 1000));
        let reader = TraceReader::open(&made.dir.path().join("t")).unwrap();
        assert_eq!(reader.header().engine, format!("import:{}", format.name()));
        assert_eq!(reader.header().manifest, Some(Digest::of(b"m")));
    }
    assert_eq!(made(Format::Paths, " [\"/bin/app\"]").unwrap().rows(), [row("bin/app", 0, 20_000)]);
    assert_eq!(made(Format::Overlaybd, "  bin/app/ \n").unwrap().rows(), [row("bin/app", 0, 20_000)]);
}

#[test]
fn times_and_ranges_of_nydus_are_kept() {
    let table = "path,size,elapsed\n/bin/app,1,17\n\"/odd \"\"name\"\", ü\n\",3,20\n";
    let table = made(Format::NydusCsv, table).unwrap();
    assert_eq!(table.rows(), [row("bin/app", 0, 20_000), row("odd \"name\", ü\n", 0, 3)]);
    assert_eq!(table.accesses()[0].t_ns, 17_000);
    let ranges = r#"{"version":"v1","files":[{"path":"/bin/app","ranges":[[4096,4096],[19999,9]]},{"path":"/lib/y.so"}]}"#;
    let want = [row("bin/app", 4096, 4096), row("bin/app", 19_999, 1), row("usr/lib/y.so", 0, 10_000)];
    assert_eq!(made(Format::NydusJson, ranges).unwrap().rows(), want);
}

#[test]
fn what_we_export_as_a_list_we_import() {
    let list = made(Format::Paths, "/bin/app\n/lib/x.so\n").unwrap();
    for (to, from) in [
        (export::Format::Paths, Format::Paths),
        (export::Format::Stargz, Format::Stargz),
        (export::Format::Nydus, Format::Nydus),
        (export::Format::NydusCsv, Format::NydusCsv),
        (export::Format::NydusJson, Format::NydusJson),
        (export::Format::Overlaybd, Format::Overlaybd),
    ] {
        let again = made(from, list.export(to)).unwrap();
        assert_eq!(again.accesses(), list.accesses(), "{from:?}");
        assert_eq!(again.done.other_image, 0);
    }
}

#[test]
fn rows_come_back_as_they_were() {
    let log = b"7 1000000000.000100 execve(\"/bin/app\", [\"app\"], 0x1 /* 3 vars */) = 0 <0.000007>\n\
        7 1000000000.000300 openat(AT_FDCWD, \"lib/y.so\", O_RDONLY) = 3\n\
        7 1000000000.000400 pread64(3, \"\"..., 100, 50) = 100 <0.000123>\n";
    let first = made(Format::Strace, log).unwrap();
    let rows = first.export(export::Format::Jsonl);
    let second = made(Format::Jsonl, &rows).unwrap();
    assert_eq!(String::from_utf8(second.export(export::Format::Jsonl)), String::from_utf8(rows.clone()));
    assert_eq!(second.accesses(), first.accesses());
    // A layer of another build is looked up by path.
    let other = String::from_utf8(rows).unwrap().replace(&Digest::of(b"0").hex(), &Digest::of(b"x").hex());
    assert_eq!(made(Format::Jsonl, other).unwrap().accesses(), first.accesses());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))] // each case runs every importer on files

    #[test]
    fn any_rows_are_the_same_after_a_round(
        rows in prop::collection::vec(
            (any::<u64>(), prop::collection::vec(any::<u8>(), 0..8), prop::option::of(0u32..2), 0u64..1 << 60, any::<u64>()),
            1..20,
        )
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("1"), dir.path().join("2"));
        let header = Header {
            image: "i".into(), manifest: Some(Digest::of(b"m")), layers: target().files.layers().to_vec(),
            engine: "x".into(), argv: Vec::new(), started_at: "2026-01-01T00:00:00Z".into(), warm: None,
            waits: None, partial: false,
        };
        let mut writer = TraceWriter::create(&first, &header).unwrap();
        for (t_ns, path, layer, offset, wait_ns) in rows {
            let process = Arc::new(Process { pid: t_ns as u32, comm: path.clone().into() });
            let (phase, kind) = (Phase::Tail, AccessKind::Map);
            writer.access(&Access { t_ns, phase, kind, path: path.into(), layer, offset, len: 7, process, wait_ns }).unwrap();
        }
        writer.flush().unwrap();
        let jsonl = |path: &std::path::Path| {
            let mut out = Vec::new();
            export(&mut TraceReader::open(path).unwrap(), export::Format::Jsonl, &mut out).unwrap();
            out
        };
        let rows = jsonl(&first);
        import(&mut &rows[..], Format::Jsonl, &target(), &second).unwrap();
        prop_assert_eq!(jsonl(&second), rows);
    }

    #[test]
    fn no_input_makes_an_importer_panic(text in "[ -~\n]{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for format in [
            Format::Stargz, Format::Nydus, Format::NydusCsv, Format::NydusJson, Format::Overlaybd, Format::Strace,
            Format::Paths, Format::Jsonl,
        ] {
            let _ = made(format, &text);
            let _ = made(format, &bytes);
        }
    }

    #[test]
    fn no_log_makes_the_strace_parser_panic(
        lines in prop::collection::vec(
            prop::sample::subsequence(
                vec![
                    "7 ", "[pid 8] ", "12:00:00.5 ", "1000000000.1 ", "0.5 ", "openat(", "AT_FDCWD, ", "\"/bin/app\"", "\"\\303", "\\",
                    "execve(", "mmap(", "read(", "3", "<", "/x>", ", ", "18446744073709551615", "-1", "[0] => [4096]", "{flags=CLONE_FILES",
                    "clone(", "dup2(", "close_range(", "<unfinished ...>", "<... read resumed>", ")", " = ", "3", "?", " <0.5>", "/*", "*/",
                ],
                0..12,
            ).prop_shuffle(),
            0..12,
        )
    ) {
        let log = lines.iter().map(|line| line.concat()).collect::<Vec<_>>().join("\n");
        let _ = made(Format::Strace, log);
    }
}

#[test]
fn wrong_input_is_told_with_its_line() {
    for (format, input, want) in [
        (Format::Stargz, "{\"path\":\"bin/app\"}\nnonsense\n", "line 2: no entry of a stargz record"),
        (Format::Nydus, "/bin/app\nbin/app\n", "line 2: not an absolute path: bin/app"),
        (Format::NydusCsv, "path,size,elapsed\n/bin/app,1\n", "line 2: 2 cells"),
        (Format::NydusCsv, "/bin/app,1,x\n", "line 1: elapsed is no number"),
        (Format::NydusCsv, "/bin/app,1,1\n\"/x,1,1\n", "line 2: a quote is not closed"),
        (Format::NydusJson, "{\"version\":\"v1\",\n\"files\":3}", "line 2: invalid type"),
        (Format::NydusJson, "{\"version\":\"v9\",\"files\":[]}", "version \"v9\" is not known"),
        (Format::Overlaybd, "/bin/app\n/a\0b\n", "line 2: not text"),
        (Format::Paths, "[\"/bin/app\",\n3]", "line 2: invalid type"),
        (Format::Jsonl, "{\"t_ns\":1}\n", "line 1: no row of a trace: missing field"),
        (Format::Paths, "/gone\n/etc/empty\n", "no file of the image is in it (1 other paths"),
        (Format::Strace, "what is this\n", "no file of the image is in it (0 other paths, 1 lines not"),
    ] {
        let error = made(format, input).err().expect(input);
        assert!(error.starts_with(want), "{error}");
    }
    let long = "x".repeat(lines::MAX_LINE + 1);
    assert_eq!(
        made(Format::Paths, format!("/bin/app\n{long}\n")).err().unwrap(),
        "line 2: longer than 1 MiB"
    );
    let long = "x".repeat(5000);
    let row = format!(
        r#"{{"t_ns":0,"phase":"start","path":"/{long}","layer":null,"offset":0,"length":1,"kind":"read","pid":1,"comm":"","wait_ns":0}}"#
    );
    assert!(made(Format::Jsonl, row).err().unwrap().starts_with("line 1: path of 5000 bytes"));
}
