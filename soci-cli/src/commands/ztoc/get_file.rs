//! `soci ztoc get-file`: one file of a layer through its zTOC.
//!
//! Only the spans that hold the file are read, and each is checked against its digest first. Links are followed by the
//! exact name they hold, as upstream does.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use soci_core::{
    digest::Digest,
    image::{Descriptor, ImageSource, Platform},
    store::{Artifact, ContentStore},
    tar::EntryKind,
    units::{ByteRange, SpanId},
    ztoc::{FileEntry, Ztoc, extract_span},
};
use tokio::runtime::Runtime;

use crate::{
    global::Global,
    hint::Hinted,
    output::{
        place::{Overwrite, Pending},
        progress::{Progress, short},
        stream::Results,
    },
    root::{self, Root},
    sources::{self, RegistryFlags},
};

/// Most links followed from the file asked for.
const MAX_LINKS: usize = 40;

/// Get one file of a layer, fetching only the spans it is in.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Digest of the zTOC.
    ztoc: Option<String>,
    /// Name of the file as it is in the layer's tar.
    file: Option<String>,
    /// Write to this file in place of standard output.
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
    /// The image the layer is in; the default are the images whose indexes name the zTOC.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    registry: RegistryFlags,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let (Some(ztoc), Some(name)) = (&args.ztoc, &args.file) else {
        bail!("please provide both a ztoc digest and a filename to extract");
    };
    let digest = root::digest(Some(ztoc))?;
    let root = Root::open(global)?;
    if root.store_of(&digest)?.is_none() {
        bail!("{digest}: not found");
    }
    let (record, ztoc) = super::open(&root, &digest)?;
    let range = find(&ztoc, name.as_bytes())?.content_range();
    let spans = ztoc.spans().spans_covering(range);
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let layer =
        if spans.is_empty() { None } else { Some(runtime.block_on(find_layer(args, &root, &record))?) };
    let mut pending =
        args.output.as_ref().map(|path| Pending::new(path, args.overwrite.is_on())).transpose()?;
    let mut out: Box<dyn Write + '_> = match &mut pending {
        Some(pending) => Box::new(pending.writer()),
        None => Box::new(Results::buffered()),
    };
    if let Some(layer) = layer {
        // Bars and the file do not go together on one terminal.
        let progress = Progress::new(args.output.is_none() && io::stdout().is_terminal());
        let length = |span| ztoc.spans().compressed_range(span).len();
        let bar = progress.bytes(&short(&record.oci_digest), spans.clone().map(SpanId).map(length).sum());
        for span in spans.map(SpanId) {
            let bytes = layer.read(ztoc.spans().compressed_range(span), &runtime)?;
            write_part(&ztoc, span, &bytes, range, &mut out).with_context(|| format!("span {span}"))?;
            bar.inc(bytes.len() as u64);
        }
    }
    if args.output.is_none() {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    drop(out);
    pending.map_or(Ok(()), Pending::finish)
}

/// The entry of that name, or the one its links lead to.
fn find<'a>(ztoc: &'a Ztoc, name: &[u8]) -> Result<&'a FileEntry> {
    let mut name = name.to_vec();
    for _ in 0..MAX_LINKS {
        let Some(file) = ztoc.files().iter().find(|file| file.name == name) else {
            bail!("file {} does not exist in metadata", String::from_utf8_lossy(&name));
        };
        if !matches!(file.kind, EntryKind::HardLink | EntryKind::Symlink) {
            return Ok(file);
        }
        name = file.link_name.to_vec();
    }
    bail!("too many links: {}", String::from_utf8_lossy(&name));
}

/// Where the layer's bytes are.
enum Layer {
    Stored(ContentStore, Digest),
    OfImage(Box<(ImageSource, Descriptor)>),
}

impl Layer {
    fn read(&self, range: ByteRange, runtime: &Runtime) -> Result<Bytes> {
        Ok(match self {
            Self::Stored(store, layer) => store.read_range(layer, range)?,
            Self::OfImage(of) => runtime.block_on(of.0.read_range(&of.1, range))?,
        })
    }
}

/// The layer's place: the image the user names, a store, or an image that an index with this zTOC was created for.
async fn find_layer(args: &Args, root: &Root, ztoc: &Artifact) -> Result<Layer> {
    if args.image.is_none()
        && let Some(store) = root.store_of(&ztoc.oci_digest)?
    {
        return Ok(Layer::Stored(store, ztoc.oci_digest));
    }
    let mut images: Vec<(String, Platform)> = Vec::new();
    if let Some(name) = &args.image {
        images.push((name.clone(), Platform::host()));
    } else {
        for index in root.indexes()? {
            if let (Some(name), Some(platform)) = (index.image_ref, index.platform) {
                images.push((name, platform.parse()?));
            }
        }
    }
    let mut failure = None;
    for (name, platform) in images {
        match layer_in(args, root, &name, &platform, &ztoc.oci_digest).await {
            Ok(Some(found)) => return Ok(Layer::OfImage(Box::new(found))),
            Ok(None) => {}
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| {
        Hinted::new(format!("layer {}: not found", ztoc.oci_digest), "name the image it is in with --image")
            .into()
    }))
}

async fn layer_in(
    args: &Args,
    root: &Root,
    name: &str,
    platform: &Platform,
    layer: &Digest,
) -> Result<Option<(ImageSource, Descriptor)>> {
    let source = sources::find(name, root, &args.registry).await?;
    let image = source.resolve(platform).await?;
    let found = image.layers().iter().find(|descriptor| descriptor.digest == *layer).cloned();
    Ok(found.map(|layer| (source, layer)))
}

/// Writes the part of a span that is in `range`.
fn write_part(ztoc: &Ztoc, span: SpanId, bytes: &[u8], range: ByteRange, out: &mut impl Write) -> Result<()> {
    if ztoc.spans().digest(span) != Some(Digest::of(bytes)) {
        bail!("the layer's bytes do not have the digest that the zTOC gives");
    }
    let mut at = ztoc.spans().uncompressed_range(span).start;
    extract_span(ztoc, span, None, bytes, &mut |plain| {
        let here = ByteRange::new(at, at + plain.len() as u64);
        if let Some(part) = here.intersect(&range) {
            out.write_all(&plain[(part.start - at) as usize..(part.end - at) as usize])?;
        }
        at = here.end;
        Ok(())
    })?;
    Ok(())
}
