//! Every format on one trace with the names that are hard to say.

use std::path::Path;
use std::sync::Arc;

use soci_core::digest::Digest;
use soci_core::trace::{Access, AccessKind, End, Header, LayerRef, Outcome, Phase, Process, TraceWriter};

use super::*;

/// (microseconds, kind, path, layer, offset, length, wait in microseconds)
type Line<'a> = (u64, AccessKind, &'a [u8], Option<u32>, u64, u64, u64);

const LINES: &[Line<'_>] = &[
    (0, AccessKind::Exec, b"bin/app", Some(0), 0, 4096, 100),
    (50, AccessKind::Read, b"lib/x.so", Some(1), 8192, 4096, 30),
    (60, AccessKind::Fault, b"lib/x.so", Some(1), 0, 4096, 0),
    (70, AccessKind::Read, b"lib/x.so", Some(1), 12288, 100, 0),
    (900, AccessKind::Read, "dir/a, \"b\"\\ü".as_bytes(), None, 0, 1, 0),
    (910, AccessKind::Map, b"bad\xff", Some(0), 0, 1, 0),
    (920, AccessKind::Read, b"two\nlines", Some(0), 0, 1, 0),
];

fn write(path: &Path) {
    let layer = |name: &[u8]| LayerRef { digest: Digest::of(name), size: 10 };
    let header = Header {
        image: "i".into(),
        manifest: Some(Digest::of(b"m")),
        layers: vec![layer(b"0"), layer(b"1")],
        engine: "fuse".into(),
        argv: vec!["app".into()],
        started_at: "2026-01-01T00:00:00Z".into(),
        warm: None,
        waits: None,
        partial: false,
    };
    let mut writer = TraceWriter::create(path, &header).unwrap();
    for &(us, kind, path, layer, offset, len, wait) in LINES {
        let process = Arc::new(Process { pid: 7, comm: Arc::from(&b"a\\pp"[..]) });
        let (t_ns, wait_ns) = (us * 1000, wait * 1000);
        let phase = if us < 900 { Phase::Start } else { Phase::Tail };
        writer
            .access(&Access { t_ns, phase, kind, path: path.into(), layer, offset, len, process, wait_ns })
            .unwrap();
    }
    let end = End {
        dropped: 0,
        outcome: Outcome::Ready,
        ready_ns: Some(800_000),
        ended_ns: 1_000_000,
        exit_code: None,
        outside: None,
        links: std::collections::BTreeMap::new(),
    };
    writer.finish(&end).unwrap();
}

fn exported(format: Format) -> (Vec<u8>, Exported) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.trace");
    write(&path);
    let mut out = Vec::new();
    let exported = export(&mut TraceReader::open(&path).unwrap(), format, &mut out).unwrap();
    (out, exported)
}

fn text(format: Format) -> String {
    String::from_utf8(exported(format).0).unwrap()
}

#[test]
fn a_row_has_the_documented_keys_in_order() {
    let text = text(Format::Jsonl);
    let digest = Digest::of(b"0");
    assert_eq!(
        text.lines().next().unwrap(),
        format!(
            r#"{{"t_ns":0,"phase":"start","path":"/bin/app","layer":"{digest}","offset":0,"length":4096,"kind":"exec","pid":7,"comm":"a\\\\pp","wait_ns":100000}}"#
        )
    );
    assert_eq!(text.lines().count(), LINES.len());
    assert!(text.contains(r#""path":"/dir/a, \"b\"\\\\ü","layer":null"#), "{text}");
    assert!(text.contains(r#""path":"/bad\\xff""#), "{text}");
}

#[test]
fn a_table_is_quoted_as_rfc_4180_says() {
    let text = text(Format::Csv);
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines[0], "t_ns,phase,path,layer,offset,length,kind,pid,comm,wait_ns");
    assert_eq!(lines[1], format!("0,start,/bin/app,{},0,4096,exec,7,a\\\\pp,100000", Digest::of(b"0")));
    assert_eq!(lines[5], r#"900000,tail,"/dir/a, ""b""\\ü",,0,1,read,7,a\\pp,0"#);
    assert!(text.contains("\"/two\nlines\""));
}

#[test]
fn a_timeline_is_valid_json_whose_lanes_do_not_overlap() {
    let timeline: serde_json::Value = serde_json::from_slice(&exported(Format::Perfetto).0).unwrap();
    let events = timeline["traceEvents"].as_array().unwrap();
    let of = |phase: &str| events.iter().filter(|event| event["ph"] == phase).collect::<Vec<_>>();
    assert_eq!(of("X").len(), LINES.len());
    assert_eq!(of("M")[0]["args"]["name"], "a\\\\pp");
    let slices = of("X");
    assert_eq!(
        (&slices[0]["ts"], &slices[0]["dur"], &slices[0]["tid"]),
        (&0.0.into(), &100.0.into(), &7.into())
    );
    // The second begins while the first waits: another lane.
    assert_ne!(slices[1]["tid"], slices[0]["tid"]);
    assert_eq!(slices[6]["tid"], 7);
    assert_eq!(of("i")[0]["name"], "ready");
}

#[test]
fn lists_are_in_the_order_of_first_use_and_leave_out_what_they_cannot_say() {
    let weird = "/dir/a, \"b\"\\ü";
    let (nydus, counts) = exported(Format::Nydus);
    let want = [b"/bin/app\n/lib/x.so\n", weird.as_bytes(), b"\n/bad\xff\n"].concat();
    assert_eq!((nydus.clone(), counts), (want, Exported { written: 4, left_out: 1 }));
    assert_eq!(exported(Format::Paths).0, nydus);
    assert_eq!(text(Format::Overlaybd), "/bin/app\n/lib/x.so\n");
    assert_eq!(exported(Format::Overlaybd).1.left_out, 3);

    let stargz = text(Format::Stargz);
    let entries: Vec<serde_json::Value> =
        stargz.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let manifest = Digest::of(b"m").to_string();
    assert_eq!(
        entries[1],
        serde_json::json!({ "path": "lib/x.so", "manifestDigest": manifest, "layerIndex": 1 })
    );
    assert_eq!(entries[2].get("layerIndex"), None);
    assert_eq!(entries.len(), 4, "all but the one that is no UTF-8");

    let table = exported(Format::NydusCsv).0;
    assert!(table.starts_with(b"path,size,elapsed\n/bin/app,4096,0\n/lib/x.so,12388,50\n"), "{table:?}");
    let ranges: serde_json::Value = serde_json::from_slice(&exported(Format::NydusJson).0).unwrap();
    assert_eq!(ranges["version"], "v1");
    assert_eq!(
        ranges["files"][1],
        serde_json::json!({ "path": "/lib/x.so", "ranges": [[0, 4096], [8192, 4196]] })
    );
}
