//! One layer from the registry to a directory.
//!
//! Two sides that run at the same time: the runtime fetches, a blocking thread decompresses, hashes and writes. The
//! directory belongs to [`UnpackedLayer`] from before its first byte, so that every way out but success removes it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use soci_core::unpack::{ApplyOptions, Below, LayerFormat, SNIFF, Whiteouts, inherit, unpack_layer};
use tokio::sync::mpsc;
use tracing::warn;

use super::stream::{BlobReader, Room, blob, pump};
use super::{Result, UnpackOptions, WholeLayer, WholeLayerError};
use crate::away::away;

/// Pieces between the two sides.
const PIECES: usize = 64;

/// A layer on disk, verified and in overlayfs's form. Removed when dropped.
#[derive(Debug)]
pub struct UnpackedLayer {
    directory: PathBuf,
    implied: Vec<Vec<u8>>,
}

impl UnpackedLayer {
    fn make(directory: PathBuf) -> Result<Self> {
        let made = fs::DirBuilder::new().mode(0o755).create(&directory);
        made.map_err(io_error("make a directory to unpack into"))?;
        Ok(Self { directory, implied: Vec::new() })
    }

    /// Moves the layer to where an empty directory is. Directories that the layer implies and does not list get the
    /// attributes they have in the layers below, whose directories are `parents`, nearest first.
    pub fn place(self, destination: &Path, parents: &[PathBuf]) -> Result<()> {
        if !parents.is_empty() && !self.implied.is_empty() {
            let below = Below::open(parents).map_err(WholeLayerError::Inherit)?;
            inherit(&self.directory, &self.implied, &below).map_err(WholeLayerError::Inherit)?;
        }
        fs::rename(&self.directory, destination).map_err(io_error("move an unpacked layer to its snapshot"))
    }
}

impl Drop for UnpackedLayer {
    fn drop(&mut self) {
        let directory = std::mem::take(&mut self.directory);
        away(move || match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(directory = %directory.display(), %error, "cannot remove an unpacked layer");
            }
            _ => {}
        });
    }
}

/// Fetches and unpacks a layer into `directory`.
pub(super) async fn run(
    layer: WholeLayer,
    directory: PathBuf,
    options: UnpackOptions,
    userxattr: bool,
    room: Room,
) -> Result<UnpackedLayer> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let fetcher = layer.repository.range_fetcher(layer.digest, layer.size);
    let fetching =
        pump(blob(fetcher, layer.size, options.chunk_size, options.requests_per_layer, room), sender);
    let digest = layer.digest;
    let writing = tokio::task::spawn_blocking(move || {
        let mut unpacked = UnpackedLayer::make(directory)?;
        let blob = BlobReader::new(receiver, layer.size);
        unpacked.implied = write(blob, &layer, &unpacked.directory, userxattr)?;
        Ok(unpacked)
    });
    let (fetched, written) = tokio::join!(fetching, writing);
    // When the registry fails, the reader fails too: the registry is the reason to tell.
    fetched.map_err(|source| WholeLayerError::Fetch { digest, source })?;
    written.unwrap_or(Err(WholeLayerError::Stopped))
}

/// Unpacks what `blob` gives, to its very end, and compares both digests. Gives the implied directories.
fn write(
    mut blob: BlobReader,
    layer: &WholeLayer,
    directory: &Path,
    userxattr: bool,
) -> Result<Vec<Vec<u8>>> {
    // As containerd does, by the bytes: media types lie, and Docker's do not tell.
    let format = LayerFormat::of(blob.peek(SNIFF).map_err(io_error("read the start of a layer"))?);
    let options = ApplyOptions { whiteouts: Whiteouts::Overlay { userxattr }, parents: Vec::new() };
    let unpacked = unpack_layer(&mut blob, format, directory, options, Some(layer.diff_id))
        .map_err(|source| WholeLayerError::Unpack { digest: layer.digest, source })?;
    let actual = blob.finish().map_err(io_error("read the end of a layer"))?;
    if actual == layer.digest {
        Ok(unpacked.applied.implied)
    } else {
        Err(WholeLayerError::Digest { expected: layer.digest, actual })
    }
}

fn io_error(action: &'static str) -> impl Fn(io::Error) -> WholeLayerError {
    move |source| WholeLayerError::Io { action, source }
}
