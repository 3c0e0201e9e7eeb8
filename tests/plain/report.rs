//! `soci report`: a trace as text, JSON and a page, the page drawn by a real browser.
//!
//! The pages are full of hostile names: a script that would change the title, a picture that would call a listener.

use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use harness::browser::{self, decode_png};
use harness::soci::Soci;
use soci_core::digest::Digest;
use soci_core::trace::{Access, AccessKind, End, Header, LayerRef, Outcome, Phase, Process, TraceWriter};

const MS: u64 = 1_000_000;
const PAGE: u64 = 4096;

/// Numbers that look random and are always the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn header(image: &str, layers: u64) -> Header {
    let layer = |at: u64| LayerRef { digest: Digest::of(&at.to_le_bytes()), size: (at + 3) * 9_000_000 };
    Header {
        image: image.into(),
        manifest: Some(Digest::of(b"manifest")),
        layers: (0..layers).map(layer).collect(),
        engine: "fuse".into(),
        argv: ["python3", "-m", "app", "--name", "</code><script>document.title='argv'</script>"]
            .map(String::from)
            .to_vec(),
        started_at: "2026-01-01T00:00:00Z".into(),
        warm: Some(false),
        waits: None,
        partial: false,
    }
}

/// One file that is read from its start on, page by page.
struct File<'a> {
    path: &'a [u8],
    layer: u32,
    start_ms: u64,
    pages: u64,
    process: (u32, &'a [u8]),
}

/// A workload of some files that is ready after 2.4 s and goes on until 3 s.
fn write(path: &Path, header: &Header, files: &[File<'_>], end: Option<&End>) {
    let mut dice = Dice(7);
    let mut accesses = Vec::new();
    for file in files {
        let process = Arc::new(Process { pid: file.process.0, comm: file.process.1.into() });
        let mut t_ns = file.start_ms * MS;
        for page in 0..file.pages {
            let wait_ns = 40_000 + dice.below(400_000);
            let phase = match t_ns / MS {
                0..5 => Phase::Setup,
                5..2400 => Phase::Start,
                _ => Phase::Tail,
            };
            accesses.push(Access {
                t_ns,
                phase,
                kind: AccessKind::Read,
                path: file.path.into(),
                layer: Some(file.layer),
                offset: page * PAGE,
                len: PAGE,
                process: Arc::clone(&process),
                wait_ns,
            });
            t_ns += wait_ns + dice.below(700_000);
        }
    }
    accesses.sort_by_key(|access| access.t_ns);
    let mut writer = TraceWriter::create(path, header).unwrap();
    for access in &accesses {
        writer.access(access).unwrap();
    }
    match end {
        Some(end) => writer.finish(end).unwrap(),
        None => writer.flush().unwrap(),
    }
}

fn ended(dropped: u64) -> End {
    let (outcome, ready_ns) = (Outcome::Ready, Some(2400 * MS));
    End {
        dropped,
        outcome,
        ready_ns,
        ended_ns: 3000 * MS,
        exit_code: None,
        outside: None,
        links: std::collections::BTreeMap::new(),
    }
}

/// What a web application in Python reads, and two names that nobody should trust.
fn application(path: &Path, hostile: &[&[u8]], dropped: u64) {
    let mut dice = Dice(3);
    let mut paths: Vec<Vec<u8>> =
        vec![b"usr/bin/python3.13".into(), b"usr/lib/x86_64-linux-gnu/libc.so.6".into()];
    paths.extend(hostile.iter().map(|path| path.to_vec()));
    for module in ["os", "re", "json/decoder", "asyncio/events", "logging/handlers", "ssl", "typing"] {
        paths.push(format!("usr/lib/python3.13/{module}.pyc").into());
    }
    for library in
        ["numpy/core/_multiarray", "numpy/linalg/lapack", "pandas/_libs/join", "sklearn/tree/_tree"]
    {
        paths.push(format!("opt/venv/lib/python3.13/site-packages/{library}.so").into());
    }
    for file in ["main.py", "model.bin", "templates/index.html", "static/app.css", "late/metrics.py"] {
        paths.push(format!("srv/app/{file}").into());
    }
    let number = paths.len() as u64;
    let files: Vec<File<'_>> = (0..)
        .zip(&paths)
        .map(|(at, path)| File {
            path,
            layer: (at * 4 / number) as u32,
            start_ms: if path.ends_with(b"metrics.py") { 2500 } else { at * 2200 / number },
            pages: 20 + dice.below(if at % 4 == 0 { 900 } else { 120 }),
            process: if at < 2 { (1, b"sh") } else { (2, b"python3 <b>\xff") },
        })
        .collect();
    write(path, &header("registry.example/<i>app</i>:1", 4), &files, Some(&ended(dropped)));
}

/// The page of a trace, and what the command printed.
fn page(soci: &Soci) -> (PathBuf, String) {
    let text = soci.run(["report", "run.trace", "-o", "page.html"]).ok();
    (soci.dir().join("page.html"), text)
}

#[test]
fn a_browser_draws_the_page_and_nothing_in_it_runs_or_calls_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let call = format!("x\"'><img src=http://{}/x.png>", listener.local_addr().unwrap());
    let script = b"</title></svg><script>document.title='run'</script>\xff\xfe.so";
    let soci = Soci::new();
    application(&soci.dir().join("run.trace"), &[script, call.as_bytes()], 3);
    let (html, text) = page(&soci);
    for line in
        ["registry.example/<i>app</i>:1", "ready:       2.40 s", "engine:      fuse", "(3 lost)", "page.html"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    let source = fs::read_to_string(&html).unwrap();
    assert_eq!(source.matches("<script").count(), 1, "only the page's own");
    assert!(!source.contains("<img") && !source.contains("<i>") && !source.contains("<b>"));

    let dom = browser::open(&html, ["--dump-dom"]);
    assert!(dom.console.is_empty(), "{:?}", dom.console);
    let dom = dom.stdout;
    assert!(dom.contains("<title>What registry.example/&lt;i&gt;app&lt;/i&gt;:1 reads"), "{dom}");
    assert_eq!(dom.matches("<svg class=\"chart\"").count(), 3);
    assert_eq!(dom.matches("role=\"img\"").count(), 3);
    assert_eq!(dom.matches("<script").count(), 1);
    for text in [
        "READY 2.40 s",
        "\\xff\\xfe.so",
        "python3 &lt;b&gt;\\xff",
        "srv/app/late/metrics.py",
        "3 accesses were seen but lost",
    ] {
        assert!(dom.contains(text), "{text}");
    }
    assert!(dom.contains("<button type=\"button\">"), "our own script has run");

    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.png"); // kept for people to look at
    let _ = fs::remove_file(&kept); // of an earlier run
    let shot = format!("--screenshot={}", kept.display());
    let shown = browser::open(&html, [shot.as_str(), "--window-size=1280,2400"]);
    assert!(shown.console.is_empty(), "{:?}", shown.console);
    println!("screenshot: {}", kept.display());
    let picture = decode_png(&fs::read(&kept).unwrap()).expect("a PNG");
    assert_eq!((picture.width, picture.height), (1280, 2400));
    let colours: HashSet<[u8; 3]> = picture.pixels.iter().copied().collect();
    assert!(colours.len() > 100, "{} colours", colours.len());
    let paper = picture.pixels[0];
    let drawn = picture.pixels.iter().filter(|&&pixel| pixel != paper).count();
    assert!(
        drawn * 4 > picture.pixels.len(),
        "{drawn} of {} pixels differ from the corner",
        picture.pixels.len()
    );
    assert!(listener.accept().is_err(), "the page has called out");
}

/// What the test above looks for would be seen if it happened.
#[test]
fn a_browser_would_tell_of_scripts_and_calls() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    let call = format!("<img src=http://{}/x.png>", listener.local_addr().unwrap());
    let script = "<script>document.title = 'run'; console.error('seen')</script>";
    fs::write(&page, format!("<!doctype html><title>quiet</title>{script}{call}")).unwrap();
    // Nobody answers the call: half a second of the page's time is all that it gets.
    let shown = browser::open(&page, ["--dump-dom", "--timeout=500"]);
    assert!(shown.stdout.contains("<title>run</title>"), "{}", shown.stdout);
    assert!(shown.console.iter().any(|line| line.contains("seen")), "{:?}", shown.console);
    assert!(listener.accept().is_ok(), "the page has not called out");
}

#[test]
fn a_million_accesses_make_a_page_below_two_megabytes() {
    let soci = Soci::new();
    let (trace, mut dice) = (soci.dir().join("run.trace"), Dice(1));
    // Some names are as long as they can be.
    let name = |at: usize| "d/".repeat(if at.is_multiple_of(40) { 1900 } else { 9 }) + &format!("<&\"{at}");
    let paths: Vec<Arc<[u8]>> = (0..3000).map(|at| name(at).into_bytes().into()).collect();
    let process = Arc::new(Process { pid: 0, comm: Arc::from(&b""[..]) });
    let mut writer = TraceWriter::create(&trace, &header(&"<".repeat(100_000), 300)).unwrap();
    for at in 0..1_000_000u64 {
        let file = dice.below(3000) as usize;
        writer
            .access(&Access {
                t_ns: at * 3000,
                phase: Phase::Start,
                kind: AccessKind::Fault,
                path: Arc::clone(&paths[file]),
                layer: (!file.is_multiple_of(7)).then_some(file as u32 % 300),
                offset: dice.below(1 << 20),
                len: PAGE,
                process: Arc::clone(&process),
                wait_ns: 0,
            })
            .unwrap();
    }
    writer.flush().unwrap();
    let (html, text) = page(&soci);
    let size = fs::metadata(html).unwrap().len();
    println!("{size} bytes");
    assert!(size < 2_000_000, "{size} bytes");
    assert!(text.contains("1000000 (0 lost)"), "{text}");
}

#[test]
fn json_has_everything_and_a_torn_or_empty_trace_is_shown_as_such() {
    let soci = Soci::new();
    let trace = soci.dir().join("run.trace");
    application(&trace, &[b"odd\x1b[31m"], 0);
    let json: serde_json::Value =
        serde_json::from_str(&soci.run(["report", "run.trace", "--json"]).ok()).unwrap();
    assert_eq!(json["engine"], "fuse");
    assert_eq!(json["summary"]["files"], json["files"].as_array().unwrap().len());
    let sum = |list: &str| {
        json[list].as_array().unwrap().iter().map(|row| row["bytes"].as_u64().unwrap()).sum::<u64>()
    };
    let bytes = json["summary"]["bytes"].as_u64().unwrap();
    assert_eq!((sum("files"), sum("processes")), (bytes, bytes));
    assert_eq!(json["timeline"]["cumulative_bytes"].as_array().unwrap().last().unwrap(), bytes);
    let late = json["files"].as_array().unwrap().iter().filter(|file| file["tail_only"] == true);
    assert_eq!(late.map(|file| &file["path"]).collect::<Vec<_>>(), ["srv/app/late/metrics.py"]);
    assert!(json["files"].to_string().contains("odd\\\\u{1b}[31m"));

    let whole = fs::read(&trace).unwrap();
    fs::write(&trace, &whole[..whole.len() - 5]).unwrap();
    let outcome = soci.run(["report", "run.trace", "-o", "page.html"]);
    assert!(outcome.stderr.contains("warning: the trace has no end"), "{}", outcome.stderr);
    outcome.ok();
    assert!(fs::read_to_string(soci.dir().join("page.html")).unwrap().contains("Torn trace."));

    write(&trace, &header("empty", 0), &[], None);
    soci.run(["report", "run.trace", "--overwrite", "-o", "page.html"]).ok();
    assert!(fs::read_to_string(soci.dir().join("page.html")).unwrap().contains("Nothing was read."));
    let same = soci.run(["report", "run.trace", "-o", "./run.trace"]);
    assert!(same.failed().contains("is the trace itself"));
    fs::write(&trace, "no trace at all").unwrap();
    assert_eq!(
        soci.run(["report", "run.trace"]).failed(),
        "soci: cannot read trace run.trace: not a trace file (wrong magic)"
    );
    assert!(
        !fs::read_dir(soci.dir()).unwrap().any(|file| file
            .unwrap()
            .file_name()
            .as_bytes()
            .starts_with(b".tmp"))
    );
}
