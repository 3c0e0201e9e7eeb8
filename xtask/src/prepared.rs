//! An image as a user of the product would have prepared it: in the registry, recorded, with a SOCI index
//! and prefetch artifacts beside it.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::bench::bound::Bound;
use crate::exec;
use crate::images;
use crate::lab::Lab;
use crate::link::{Link, REGISTRY};
use crate::product::{Mode, Product};
use crate::reference;
use crate::requests::Catalogue;

/// A prepared image.
pub(crate) struct Prepared {
    /// Name of the image.
    pub(crate) name: String,
    /// Where the registry has it with all that was recorded.
    recorded: String,
    /// Where the registry has it with an index as upstream's tool makes it. A name of its own: an image has one SOCI index.
    plain: String,
    /// Compressed bytes of all layers.
    pub(crate) size: u64,
    /// An independent unpack of all layers.
    pub(crate) rootfs: PathBuf,
    /// What its start cannot do without.
    pub(crate) bound: Bound,
    /// What the registry's blobs are.
    pub(crate) catalogue: Catalogue,
}

impl Prepared {
    /// Builds, records, indexes and pushes the image for starts in these modes.
    pub(crate) fn new(lab: &Lab, product: &Product, link: &Link, name: &str, modes: &[Mode]) -> Result<Self> {
        let built = images::ensure(lab, name, false)?;
        let layout = lab.image(name);
        let step = |what: &str, started: Instant| {
            eprintln!("  {name}: {what} in {:.1} s", started.elapsed().as_secs_f64());
        };
        let started = Instant::now();
        let recording = lab.fresh_dir(&format!("recordings/{name}"))?;
        exec::run(&mut product.record(&layout, &lab.dir("record-state")?, &recording))?;
        let traces = recorded_runs(&recording)?;
        step("recorded", started);

        let started = Instant::now();
        let store = lab.fresh_dir(&format!("stores/{name}"))?;
        exec::run(&mut product.create(&store, &layout, &traces, modes))?;
        let plain_store = lab.fresh_dir(&format!("stores/{name}-plain"))?;
        let is_lazy = modes.contains(&Mode::Lazy);
        if is_lazy {
            exec::run(&mut product.create_plain(&plain_store, &layout))?;
        }
        step("SOCI index made", started);

        let started = Instant::now();
        let recorded = format!("{REGISTRY}/{name}:latest");
        exec::run(&mut link.client(product.push(&store, &layout, &recorded)))?;
        let plain = format!("{REGISTRY}/{name}-plain:latest");
        let mut layouts = vec![layout.clone(), store.join("content")];
        if is_lazy {
            exec::run(&mut link.client(product.push(&plain_store, &layout, &plain)))?;
            layouts.push(plain_store.join("content"));
        }
        let catalogue = Catalogue::of(&layouts)?;
        step("image and SOCI index pushed", started);

        let started = Instant::now();
        let rootfs = reference::unpack(lab, &built)?;
        let bound = Bound::from_trace(&traces[0], &rootfs)?;
        step("unpacked by GNU tar", started);
        let (name, size) = (name.to_owned(), built.compressed_size());
        Ok(Self { name, recorded, plain, size, rootfs, bound, catalogue })
    }

    /// Where the registry has the image as this mode wants it.
    pub(crate) fn reference(&self, mode: Mode) -> &str {
        match mode {
            Mode::Lazy => &self.plain,
            Mode::Full | Mode::Prefetch | Mode::Fine | Mode::Pack | Mode::Warm => &self.recorded,
        }
    }
}

/// The traces of the runs that a recording left in its folder, at least one. That of all runs together is not among them: it
/// has only what most of them need.
pub(crate) fn recorded_runs(dir: &std::path::Path) -> Result<Vec<PathBuf>> {
    let is_run = |path: &PathBuf| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        path.extension().is_some_and(|extension| extension == "trace")
            && stem.rsplit_once('.').is_some_and(|(_, number)| number.parse::<u32>().is_ok())
    };
    let files = fs::read_dir(dir)?.filter_map(|file| file.ok().map(|file| file.path()));
    let mut traces: Vec<PathBuf> = files.filter(is_run).collect();
    traces.sort();
    if traces.is_empty() {
        bail!("soci record left no trace of a run in {}", dir.display());
    }
    Ok(traces)
}
