//! `cargo xtask images`: real software as OCI images, built on this machine from Debian, PyPI and npm
//! packages, for the demo, the benchmarks and the tests.
//!
//! Every layer is the upper directory of an overlay mount over the layers below, so that real deletions and
//! replaced folders become whiteouts and opaque markers. Each image starts a workload that prints a line
//! beginning with `READY` once it did something useful. An image is rebuilt when its recipe's key changes;
//! the layout is complete once its `soci-lab.json` exists.

use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::lab::{Lab, LabArgs};
use crate::setup::{self, Need};
use layout::LayerBlob;
use recipe::Recipe;

mod base;
mod catalog;
mod database;
mod java;
mod layer;
mod layout;
mod node;
mod python;
mod recipe;
mod tar;

/// Build test images as OCI layouts below .lab/images/oci
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Images to build: redis, pyml, node, java, postgres, torchdeb, torch, base
    #[arg(default_values = ["redis", "pyml"])]
    names: Vec<String>,
    /// Build again, also when nothing changed
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    lab: LabArgs,
}

/// A built image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Built {
    key: String,
    /// Name of the image.
    pub(crate) name: String,
    /// Digest of its manifest.
    pub(crate) manifest: String,
    /// All layers, the parent's first.
    pub(crate) layers: Vec<LayerBlob>,
    /// Upper directories of all layers.
    uppers: Vec<PathBuf>,
}

impl Built {
    /// Compressed bytes of all layers.
    pub(crate) fn compressed_size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

pub(crate) use layer::mirror;
pub(crate) use layout::blob_path;

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    let lab = args.lab.open()?;
    for name in &args.names {
        let built = ensure(&lab, name, args.force)?;
        let plain: u64 = built.layers.iter().map(|layer| layer.tar_size).sum();
        println!(
            "{name}: {:.1} MB gzip, {:.1} MB tar, {} layers, {} at {}",
            built.compressed_size() as f64 / 1e6,
            plain as f64 / 1e6,
            built.layers.len(),
            built.manifest,
            lab.image(name).display()
        );
    }
    Ok(())
}

/// The image of this name, built when it is not there in its present form.
pub(crate) fn ensure(lab: &Lab, name: &str, force: bool) -> Result<Built> {
    let Some(recipe) = catalog::find(name) else {
        let known: Vec<&str> = catalog::all().iter().map(|recipe| recipe.name).collect();
        bail!("no image is called {name}; there are: {}", known.join(", "));
    };
    if !force && let Some(built) = cached(lab, &recipe) {
        return Ok(built);
    }
    setup::require_root("building images")?;
    setup::ensure(match name {
        "node" => &[Need::Images, Need::Node],
        "torch" => &[Need::Images, Need::Stubs],
        _ => &[Need::Images],
    })?;
    let parent = recipe.parent.map(|parent| ensure(lab, parent, false)).transpose()?;
    build(lab, &recipe, parent).with_context(|| format!("cannot build the image {name}"))
}

/// The image as an earlier run left it, when it was made by this very recipe.
fn cached(lab: &Lab, recipe: &Recipe) -> Option<Built> {
    let text = std::fs::read_to_string(lab.image(recipe.name).join("soci-lab.json")).ok()?;
    let built: Built = serde_json::from_str(&text).ok()?;
    let whole = built.key == catalog::key(recipe) && built.uppers.iter().all(|upper| upper.is_dir());
    whole.then_some(built)
}

fn build(lab: &Lab, recipe: &Recipe, parent: Option<Built>) -> Result<Built> {
    let name = recipe.name;
    let dir = lab.fresh_dir(&format!("images/oci/{name}"))?;
    std::fs::create_dir_all(dir.join("blobs/sha256"))?;
    let (mut layers, mut uppers) = (Vec::new(), Vec::new());
    if let Some(parent) = parent {
        for layer in &parent.layers {
            let from = layout::blob_path(&lab.image(&parent.name), &layer.digest);
            std::fs::hard_link(from, layout::blob_path(&dir, &layer.digest))?;
        }
        (layers, uppers) = (parent.layers, parent.uppers);
    }
    // A finished layer is compressed while the next one is built.
    let own = thread::scope(|scope| -> Result<Vec<LayerBlob>> {
        let mut writers = Vec::new();
        for (at, layer) in recipe.layers.iter().enumerate() {
            let upper = layer::upper_dir(lab, name, at)?;
            layer::build(lab, name, layer, &uppers, &upper)?;
            let lowest = uppers.is_empty();
            uppers.push(upper.clone());
            let dir = &dir;
            writers.push(scope.spawn(move || layout::write_layer(dir, layer.title, &upper, lowest)));
        }
        writers.into_iter().map(|writer| writer.join().expect("a layer writer does not panic")).collect()
    })?;
    layers.extend(own);
    let manifest = layout::finish(&dir, recipe, &layers)?;
    let built = Built { key: catalog::key(recipe), name: name.to_owned(), manifest, layers, uppers };
    std::fs::write(dir.join("soci-lab.json"), serde_json::to_string_pretty(&built)?)?;
    Ok(built)
}
