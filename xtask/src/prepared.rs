//! An image as a user of the product would have prepared it: in the registry, recorded, with a SOCI index
//! and prefetch artifacts beside it.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::bench::bound::Bound;
use crate::exec;
use crate::images;
use crate::lab::Lab;
use crate::link::{Link, REGISTRY};
use crate::product::Product;
use crate::reference;

/// A prepared image.
pub(crate) struct Prepared {
    /// Name of the image.
    pub(crate) name: String,
    /// Where the registry has it.
    pub(crate) reference: String,
    /// Compressed bytes of all layers.
    pub(crate) size: u64,
    /// An independent unpack of all layers.
    pub(crate) rootfs: PathBuf,
    /// What its start cannot do without.
    pub(crate) bound: Bound,
}

impl Prepared {
    /// Builds, pushes, records and indexes the image.
    pub(crate) fn new(lab: &Lab, product: &Product, link: &Link, name: &str) -> Result<Self> {
        let built = images::ensure(lab, name, false)?;
        let layout = lab.image(name);
        let step = |what: &str, started: Instant| {
            eprintln!("  {name}: {what} in {:.1} s", started.elapsed().as_secs_f64());
        };
        let started = Instant::now();
        let recording = lab.fresh_dir(&format!("recordings/{name}"))?;
        exec::run(&mut product.record(&layout, &lab.dir("record-state")?, &recording))?;
        let trace = find_trace(&recording)?;
        step("recorded", started);

        let started = Instant::now();
        let store = lab.fresh_dir(&format!("stores/{name}"))?;
        exec::run(&mut product.create(&store, &layout, &trace))?;
        step("SOCI index made", started);

        let started = Instant::now();
        let reference = format!("{REGISTRY}/{name}:latest");
        exec::run(&mut link.client(product.push(&store, &layout, &reference)))?;
        step("image and SOCI index pushed", started);

        let started = Instant::now();
        let rootfs = reference::unpack(lab, &built)?;
        let bound = Bound::from_trace(&trace, &rootfs)?;
        step("unpacked by GNU tar", started);
        Ok(Self { name: name.to_owned(), reference, size: built.compressed_size(), rootfs, bound })
    }
}

/// The trace that a recording left in its folder.
fn find_trace(dir: &std::path::Path) -> Result<PathBuf> {
    let files = fs::read_dir(dir)?.filter_map(|file| file.ok().map(|file| file.path()));
    let traces: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "trace")).collect();
    match &traces[..] {
        [trace] => Ok(trace.clone()),
        [] => bail!("soci record left no .trace file in {}", dir.display()),
        _ => Err(anyhow::anyhow!("{traces:?}")).context("more than one trace"),
    }
}
