//! An independent unpack of an image, by GNU tar, for comparison with what the product serves and for the
//! bytes behind the physical bound.
//!
//! The folder is kept, named by the manifest's digest; it is complete once its `.done` mark exists.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use soci_core::testing::reference;

use crate::images::{Built, blob_path};
use crate::lab::Lab;

/// The image's files in a folder of their own.
pub(crate) fn unpack(lab: &Lab, image: &Built) -> Result<PathBuf> {
    let name = format!("reference/{}", image.manifest.replace(':', "-"));
    let done = lab.dir("reference")?.join(format!("{}.done", image.manifest.replace(':', "-")));
    if done.exists() {
        return lab.dir(&name);
    }
    let rootfs = lab.fresh_dir(&name)?;
    let layout = lab.image(&image.name);
    let layers: Vec<PathBuf> = image.layers.iter().map(|layer| blob_path(&layout, &layer.digest)).collect();
    reference::unpack(&layers, &rootfs)
        .with_context(|| format!("cannot unpack {} by GNU tar", image.name))?;
    fs::write(done, "")?;
    Ok(rootfs)
}
