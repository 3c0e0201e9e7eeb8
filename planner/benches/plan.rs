//! `cargo xtask bench plan`: what it costs to plan for an image of 100 000 files in 10 layers, of which a workload needs 100 000 ranges, and to
//! apply its profile to the next build. The wanted figures are bounds: more ends with an error, in an optimised build.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use peak_alloc::PeakAlloc;
use planner::plan::plan;
use planner::profile::{Content, Inventory, Profile, Source, Threshold};
use soci_core::digest::Digest;
use soci_core::prefetch::{ImageView, LayerFile, Needs, Plan, map};
use soci_core::testing::{TarBuilder, TarEntry, TarFormat};
use soci_core::trace::{Access, AccessKind, Header, Phase, Process};
use soci_core::ztoc::{BuildOptions, Ztoc, build_tar};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const LAYERS: usize = 10;
const FILES_IN_LAYER: usize = 10_000;
const FILES: usize = LAYERS * FILES_IN_LAYER;
/// Bytes of a file.
const SIZE: u64 = 1 << 10;
const WANTED_SECONDS: f64 = 1.0;
const WANTED_MB: f64 = 200.0;

fn path(file: usize, build: usize) -> Vec<u8> {
    let (package, own) = (file / 50, file % 50);
    match file % 10 {
        // A library whose version is part of its name, and a file that moves.
        0 => format!("usr/lib/package-{}/lib{}.so.1.{build}", letters(package), letters(own)),
        1 => format!("opt/build-{}/package-{}/{}", letters(build), letters(package), letters(own)),
        _ => format!("usr/share/package-{}/{}", letters(package), letters(own)),
    }
    .into_bytes()
}

fn letters(number: usize) -> String {
    [number / 676, number / 26 % 26, number % 26].map(|letter| (b'a' + letter as u8) as char).iter().collect()
}

fn content(file: usize, build: usize) -> Content {
    // One of ten is changed by the next build, beside the libraries.
    let version = if file % 10 <= 2 && file % 10 != 1 { build } else { 0 };
    Content { size: SIZE, digest: Digest::of(format!("{file} {version}").as_bytes()) }
}

/// The tables of an image's layers, as they are read.
fn layers(build: usize) -> Vec<Ztoc> {
    let layer = |layer: usize| {
        let mut tar = TarBuilder::new(TarFormat::Ustar);
        for file in (0..FILES_IN_LAYER).map(|file| layer * FILES_IN_LAYER + file) {
            tar.add(&TarEntry::file(path(file, build), vec![file as u8; SIZE as usize]));
        }
        let options = BuildOptions { span_size: 256 << 10, ..BuildOptions::default() };
        let built = build_tar(tar.finish().as_slice(), &options).expect("it is a tar");
        Ztoc::open(built.ztoc.into()).expect("it was built just now")
    };
    (0..LAYERS).map(layer).collect()
}

/// One need of each file, in an order that is none of the layers'.
fn trace() -> Vec<Access> {
    let process = Arc::new(Process { pid: 1, comm: Arc::from(&b"app"[..]) });
    let access = |at: usize| Access {
        t_ns: at as u64 * 20_000,
        phase: Phase::Start,
        kind: AccessKind::Read,
        path: path(at * 7919 % FILES, 1).into(),
        layer: None,
        offset: 0,
        len: SIZE,
        process: Arc::clone(&process),
        wait_ns: 0,
    };
    (0..FILES).map(access).collect()
}

/// Span ranges of a plan.
fn mapped(plan: &Plan, ztocs: &[Ztoc]) -> usize {
    let tables: Vec<Vec<LayerFile>> =
        ztocs.iter().map(|ztoc| ztoc.files().iter().map(LayerFile::from).collect()).collect();
    let view = ImageView::build(tables.iter().enumerate());
    let needs = Needs::of(plan, &view);
    let spans: Vec<_> = ztocs.iter().map(|ztoc| Some(ztoc.spans())).collect();
    assert!(needs.ranges.len() > FILES / 2);
    map(&needs, &spans).layers.iter().map(Vec::len).sum()
}

/// Does it, and says what it cost; whether that is within the bounds.
fn measured<T>(name: &str, work: impl FnOnce() -> T) -> (T, bool) {
    MEMORY.reset_peak_usage();
    let began = Instant::now();
    let done = work();
    let (seconds, mb) = (began.elapsed().as_secs_f64(), MEMORY.peak_usage() as f64 / 1e6);
    println!("{name:<44} {seconds:>8.2} s {mb:>8.1} MB");
    (done, seconds <= WANTED_SECONDS && mb <= WANTED_MB)
}

fn main() -> ExitCode {
    let (old, new) = (layers(1), layers(2));
    let trace = trace();
    println!("{FILES} files, {LAYERS} layers, {} ranges; memory with all inputs", trace.len());
    let (_, plan_fits) = measured("plan of a trace, and its spans", || mapped(&plan(&trace), &old));
    let header = Header {
        image: "image:1".into(),
        manifest: None,
        layers: Vec::new(),
        engine: "bench".into(),
        argv: Vec::new(),
        started_at: "2026-01-01T00:00:00Z".into(),
        warm: None,
        waits: None,
        partial: false,
    };
    let known = |build| (0..FILES).map(move |file| (path(file, build).into(), content(file, build)));
    let profile = Profile::of_run("", &header, None, &trace).with_contents(&Inventory::new(known(1)));
    drop((trace, old));
    let ((), rebase_fits) = measured("rebase to the next build, plan, and spans", || {
        let (rebased, coverages) = profile.rebase(Source::default(), &Inventory::new(known(2)));
        assert_eq!(rebased.files().len(), FILES, "{coverages:?}");
        mapped(&rebased.plan(Threshold::default()).plan, &new);
    });
    println!("{:<44} {WANTED_SECONDS:>8.2} s {WANTED_MB:>8.1} MB", "wanted: at most");
    if cfg!(debug_assertions) {
        println!("this is no optimised build: nothing is wanted of it");
        return ExitCode::SUCCESS;
    }
    if plan_fits && rebase_fits { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
