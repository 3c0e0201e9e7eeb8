//! Image and plan -> a pack in the store: which layer each needed byte is in, the bytes themselves, and the companion.
//!
//! Owns nothing. What must always hold: bytes are only taken from layers with the digests that the manifest gives; the pack
//! is recorded last, when all it names is there.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

use tokio::runtime::Handle;

use super::{
    MAX_EXTENTS, MAX_PLAIN, PackBuildError, PackReport,
    collect::Collected,
    pin::HeadPin,
    purpose::Purpose,
    scratch::Scratch,
    write::{Bytes, Packed, lay_out, round, write},
};
use crate::{
    coverage::Coverage,
    digest::Digest,
    image::{Descriptor, Image, Manifest},
    index::{
        Companion, CompanionKind, Event, InParts, LayerBuildError, Told, advice::advice, layer_of, planned,
    },
    media_type,
    prefetch::{ImageView, LayerFile, Needs, Plan},
    store::{ArtifactKind, Artifacts, ContentStore, StoreError, remove},
    units::ByteRange,
    ztoc::{Bundle, Ztoc},
};

/// So many bytes of the file on both sides of a needed range are packed behind everything that is needed: two runs of one
/// workload differ in a few pages, nearly all of them next to pages that both need, and each page that is not there costs
/// two requests and a wait. (Node and Java, recorded twice: five such pages, all neighbours. The neighbours are 12 to 30 % of
/// a pack, and cost no need anything.)
const SLACK: u64 = 4096;

/// What container runtimes read of an image before the workload begins, to find its user; no recording of the workload has
/// it. Of larger files the start.
const OF_THE_RUNTIME: [&[u8]; 2] = [b"etc/passwd", b"etc/group"];
const MAX_OF_THE_RUNTIME: u64 = 64 << 10;

/// How large a pack may be, as a blob; or all spans that are fetched ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// So many bytes.
    Bytes(u64),
    /// So many percent of the image's layers as they are stored.
    Percent(u32),
}

impl Budget {
    /// Bytes, for an image of these layers.
    pub fn of(self, layers: &[Descriptor]) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => {
                let whole = layers.iter().fold(0u64, |whole, layer| whole.saturating_add(layer.size));
                whole / 100 * u64::from(percent)
            }
        }
    }
}

/// What to pack.
#[derive(Debug, Clone)]
pub struct PackSettings {
    /// What the workload needs.
    pub plan: Plan,
    /// What is needed last is left out when there is more than this.
    pub budget: Option<Budget>,
    /// What it is for.
    pub purpose: Purpose,
    /// Say beside the pack that a full pull of the image is faster.
    pub advised_whole: bool,
    /// The image can do without: see [`make_beside`].
    pub optional: bool,
}

/// Where a pack goes.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// Where blob and manifest are kept.
    pub store: &'a ContentStore,
    /// Where else zTOCs and fine tables may be.
    pub beside: &'a [ContentStore],
    /// Where the pack is recorded.
    pub artifacts: &'a Artifacts,
    /// The image as the user named it.
    pub name: &'a str,
    /// Drives transfers.
    pub runtime: &'a Handle,
}

/// Makes a pack for the image manifest `subject`, which has the layers of `image`, and puts it into the store, in the place of
/// one for the same. Layers that are not served in parts are left out; without `in_parts` all are taken that can be read.
/// Blocks; not to be called on a thread that runs async tasks.
///
/// # Errors
/// When a layer cannot be read, nothing is left to pack, or the store fails.
pub fn make(
    image: &Image,
    subject: &Manifest,
    in_parts: Option<InParts<'_>>,
    settings: &PackSettings,
    place: Destination<'_>,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<PackReport, PackBuildError> {
    let ztocs = in_parts.map(|in_parts| ztocs(in_parts, place));
    let layers = Layers { image, ztocs: ztocs.as_ref(), runtime: place.runtime, tell };
    let scratch = || place.artifacts.scratch().map(Scratch::new);
    let (packed, left_out) = layers.pack(&subject.digest, settings, scratch()?, scratch()?)?;
    let Packed { head, head_bytes, blocks, cut, cut_must_have } = packed;
    let (size, length) = (head.size(), head_bytes.len() as u64);
    let pin = HeadPin { size: length, digest: Digest::of(&head_bytes) };
    let blob = place.store.put_parts(head_bytes, blocks.into_file(), size - length)?;
    let mut layer = Descriptor::new(media_type::PACK_BLOCKS, blob, size);
    pin.annotate(&mut layer);
    let companion = Companion {
        kind: CompanionKind::Pack,
        subject: subject.descriptor(),
        layers: vec![layer],
        annotations: settings
            .purpose
            .annotations()
            .into_iter()
            .chain(advice(settings.advised_whole))
            .collect(),
    };
    let platform = image.platform.to_string();
    let report = PackReport {
        descriptor: companion.put(place.store, place.artifacts, place.name, &platform)?,
        size,
        plain: head.plain_size(),
        blocks: (head.blocks().len(), head.must_have()),
        cut,
        cut_must_have,
        left_out,
    };
    replace(&report.descriptor, subject, &settings.purpose, place)?;
    tell(Event::Pack(&report));
    Ok(report)
}

/// The same beside an index that is made of the image. An optional pack that the image gives no cause for is left out, and that
/// is told.
///
/// # Errors
/// As for [`make`].
pub fn make_beside(
    image: &Image,
    subject: &Manifest,
    in_parts: InParts<'_>,
    settings: &PackSettings,
    place: Destination<'_>,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Option<PackReport>, PackBuildError> {
    match make(image, subject, Some(in_parts), settings, place, tell) {
        Err(error) if settings.optional && error.is_of_the_image() => {
            tell(Event::NoPack(&error));
            Ok(None)
        }
        made => made.map(Some),
    }
}

/// Removes other packs of the image that are for the same. In containerd only their records go: another image may list one
/// of them, and containerd collects those that none does.
fn replace(
    pack: &Descriptor,
    subject: &Manifest,
    purpose: &Purpose,
    place: Destination<'_>,
) -> Result<(), StoreError> {
    for record in place.artifacts.list()? {
        let of_image = record.kind == ArtifactKind::Pack && record.oci_digest == subject.digest;
        if !of_image || record.digest == pack.digest {
            continue;
        }
        let raw = place.store.read(&record.digest).ok();
        let manifest = raw.and_then(|raw| Manifest::parse(raw, media_type::OCI_MANIFEST).ok());
        let same = |manifest: &Manifest| Purpose::of(&manifest.annotations) == *purpose;
        if manifest.as_ref().is_some_and(same) {
            match place.store {
                ContentStore::Layout(_) => drop(remove(place.store, place.artifacts, &record.digest)?),
                ContentStore::Containerd(_) => place.artifacts.remove(&record.digest)?,
            }
        }
    }
    Ok(())
}

/// The zTOCs or fine tables by layer; those that are not here, or that readers refuse, are left out.
fn ztocs(in_parts: InParts<'_>, place: Destination<'_>) -> HashMap<Digest, Ztoc> {
    let mut ztocs = HashMap::new();
    let stores = std::iter::once(place.store).chain(place.beside);
    let read =
        |blob: &Descriptor| stores.clone().find_map(|store| store.read_at_most(&blob.digest, blob.size).ok());
    if let Some(tables) = in_parts.fine_tables
        && let Some(Ok(bundle)) = read(tables).map(Bundle::open)
    {
        let table = |layer: Digest| Some((layer, bundle.table(&layer)?.ok()?));
        ztocs.extend(bundle.layers().filter_map(table));
    }
    for entry in in_parts.index.ztocs() {
        if let (Some(layer), Some(Ok(ztoc))) = (layer_of(entry), read(entry).map(Ztoc::open)) {
            ztocs.insert(layer, ztoc);
        }
    }
    ztocs
}

/// Layers that are not in a pack, with the bytes that are needed of each.
type LeftOut = Vec<(Digest, u64)>;

/// The image that a pack is made of.
struct Layers<'a> {
    image: &'a Image,
    ztocs: Option<&'a HashMap<Digest, Ztoc>>,
    runtime: &'a Handle,
    tell: &'a (dyn Fn(Event<'_>) + Sync),
}

impl Layers<'_> {
    /// The pack, and the layers that are left out.
    fn pack(
        &self,
        manifest: &Digest,
        settings: &PackSettings,
        mut plain: Scratch,
        blocks: Scratch,
    ) -> Result<(Packed, LeftOut), PackBuildError> {
        let layers = self.image.layers();
        let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
        let (view, whole) = self.view()?;
        let led_by = OF_THE_RUNTIME.into_iter().filter(|path| view.locate(path).is_ok()).map(Arc::from);
        let plan = settings.plan.led_by(led_by, MAX_OF_THE_RUNTIME).with_neighbours(SLACK);
        let mut needs = Needs::of(&plan, &view);
        if let Some(first) = needs.missing.first() {
            (self.tell)(Event::PathsNotFound { count: needs.missing.len(), first });
        }
        // A layer that occurs twice goes by its first place.
        for (layer, _) in &mut needs.ranges {
            *layer = digests.iter().position(|digest| *digest == digests[*layer]).unwrap_or(*layer);
        }
        let mut collected = Vec::new();
        let mut left_out = Vec::new();
        for (place, layer) in layers.iter().enumerate() {
            let needed = needs.merged(place, 0);
            let bytes =
                if needed.is_empty() { None } else { self.collect(layer, &needed, &whole, &mut plain)? };
            if bytes.is_none() && !needed.is_empty() {
                left_out.push((layer.digest, needed.iter().map(ByteRange::len).sum()));
            }
            collected.push(bytes);
        }
        let sizes: Vec<Option<u64>> = digests
            .iter()
            .zip(&collected)
            .map(|(digest, bytes)| {
                let known = self.ztocs.and_then(|ztocs| ztocs.get(digest)).map(Ztoc::uncompressed_size);
                let read = bytes.as_ref()?.plain_size;
                Some(known.map_or(read, |known| known.min(read)))
            })
            .collect();
        let size_of = |layer: usize| sizes.get(layer).copied().flatten();
        let (drafts, must_have) = lay_out(&needs.ranges, [needs.asked, needs.must_have], size_of)?;
        let budget = settings.budget.map(|budget| budget.of(layers));
        let bytes = Bytes { layers: &collected, scratch: &plain };
        Ok((write(manifest, &digests, &drafts, must_have, &bytes, budget, blocks)?, left_out))
    }

    /// All layers on top of each other, and those that can only be pulled whole.
    fn view(&self) -> Result<(ImageView, HashSet<Digest>), PackBuildError> {
        let mut tables: Vec<Vec<LayerFile>> = Vec::new();
        let mut whole = HashSet::new();
        for layer in self.image.layers() {
            let known = self.ztocs.and_then(|ztocs| ztocs.get(&layer.digest));
            let files = if let Some(ztoc) = known {
                Some(ztoc.files().iter().map(LayerFile::from).collect())
            } else {
                let failed = |error| PackBuildError::Layer(layer.digest, Box::new(error));
                match self.open(layer).and_then(|bytes| planned::walk(layer, bytes, false)) {
                    Ok(walked) => {
                        if !walked.in_parts {
                            whole.insert(layer.digest);
                        }
                        Some(walked.files)
                    }
                    Err(error) => {
                        error.skips().map_err(failed)?;
                        whole.insert(layer.digest);
                        None
                    }
                }
            };
            if files.is_none() {
                (self.tell)(Event::LayerUnread(layer));
            }
            tables.push(files.unwrap_or_default());
        }
        Ok((ImageView::build(tables.iter().enumerate()), whole))
    }

    /// Puts the needed bytes of a layer into `plain`, records of the tar rounded up; `None` for layers that are left out.
    fn collect(
        &self,
        layer: &Descriptor,
        needed: &[ByteRange],
        whole: &HashSet<Digest>,
        plain: &mut Scratch,
    ) -> Result<Option<Collected>, PackBuildError> {
        let has_table = self.ztocs.is_none_or(|ztocs| ztocs.contains_key(&layer.digest));
        if !has_table || whole.contains(&layer.digest) {
            return Ok(None);
        }
        let mut wanted = Coverage::default();
        for range in needed {
            wanted.add(round(*range, u64::MAX));
        }
        let extents = wanted.ranges().count();
        if wanted.len() > MAX_PLAIN || extents > MAX_EXTENTS {
            return Err(PackBuildError::TooLarge { plain: wanted.len(), extents });
        }
        let wanted: Vec<ByteRange> = wanted.ranges().collect();
        let collected = self.open(layer).and_then(|bytes| Collected::read(layer, bytes, &wanted, plain));
        collected.map(Some).map_err(|error| PackBuildError::Layer(layer.digest, Box::new(error)))
    }

    fn open<'b>(&'b self, layer: &'b Descriptor) -> Result<impl io::Read + use<'b>, LayerBuildError> {
        let inner = planned::open(self.image, layer, None, self.runtime)?;
        Ok(Told { inner, blob: layer, tell: self.tell })
    }
}
