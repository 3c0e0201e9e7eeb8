//! Image -> SOCI index: zTOCs of all layers in parallel, prefetch artifacts, the manifest, and their records.
//!
//! Owns the threads of one build. What must always hold: the index's bytes depend only on the image and the settings,
//! not on the order in which layers were done; the index is stored and recorded last, when all it names is there.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::runtime::Handle;

use super::{
    Companion, EMPTY_CONFIG, IndexVersion, LayerBuildError, SkipReason, SociIndex, Told,
    advice::advice,
    companion::listed_for,
    contents,
    event::Event,
    fine::{self, FineLayer},
    layer::{self, IndexedLayer},
    planned::{self, LayerBytes, Walked},
    report::{BuildError, BuildReport},
    settings::{PlanSource, Settings, TraceSettings},
};
use crate::{
    digest::Digest,
    image::{Descriptor, Image},
    media_type,
    prefetch::{ImageView, LayerFile, Needs, Plan, PrefetchArtifact, Selection, compat, map, select},
    store::{Artifact, ArtifactKind, Artifacts, ContentStore, StoreError, soci_index_labels},
    tar::ContentDigests,
    ztoc::{BuildOptions, Checkpointing, FineOptions, Ztoc},
};

/// Builds the index of one platform's image into `store` and records it in `artifacts`. Blocks; not to be called on a
/// thread that runs async tasks. `runtime` drives transfers from a registry.
///
/// # Errors
/// When a layer fails, no layer can be indexed, or the store fails.
pub fn build(
    image: &Image,
    settings: &Settings,
    store: &ContentStore,
    artifacts: &Artifacts,
    runtime: &Handle,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<BuildReport, BuildError> {
    Build { image, settings, store, artifacts, runtime, tell, records: artifacts.list()? }.run()
}

struct Build<'a> {
    image: &'a Image,
    settings: &'a Settings,
    store: &'a ContentStore,
    artifacts: &'a Artifacts,
    runtime: &'a Handle,
    tell: &'a (dyn Fn(Event<'_>) + Sync),
    records: Vec<Artifact>,
}

/// Where one layer's checkpoints go, and the name of that rule in the records.
#[derive(Default)]
struct Placement {
    checkpointing: Checkpointing,
    name: Option<String>,
}

impl Placement {
    /// The rule that puts checkpoints at these offsets. Its name holds their digest, so that only a zTOC made for the
    /// same needs is used again.
    fn new(boundaries: Vec<u64>) -> Self {
        if boundaries.is_empty() {
            return Self::default();
        }
        let bytes: Vec<u8> = boundaries.iter().flat_map(|at| at.to_le_bytes()).collect();
        let name = Some(format!("boundaries {}", Digest::of(&bytes)));
        Self { checkpointing: Checkpointing::Boundaries(boundaries), name }
    }
}

/// What the first look at a layer gave.
struct Look {
    /// `None` when the layer's compression cannot be read here.
    walked: Option<Walked>,
    /// A local copy, if it lies in a registry and will be looked at again.
    copy: Option<File>,
}

/// What a layer has.
struct Table {
    files: Vec<LayerFile>,
    contents: ContentDigests,
}

/// By the layer's number; `None` for those that cannot be read.
type Tables = HashMap<usize, Option<Table>>;

impl Table {
    /// And where blocks end.
    fn of(walked: Walked) -> (Self, Vec<u64>) {
        (Self { files: walked.files, contents: walked.contents }, walked.blocks)
    }
}

impl Build<'_> {
    fn run(&self) -> Result<BuildReport, BuildError> {
        let layers = self.image.layers();
        let first = first_occurrences(layers);
        let distinct: Vec<usize> = (0..layers.len()).filter(|&i| first[i] == i).collect();

        let trace = self.settings.trace.as_ref().filter(|_| self.settings.prefetch_files.is_empty());
        let mut copies: HashMap<usize, File> = HashMap::new();
        let (mut needs, mut plan) = (None, None);
        let mut placements: HashMap<usize, Placement> = HashMap::new();
        if let Some((trace, gap)) = trace.and_then(|t| Some((t, t.span_gap?))) {
            let mut tables = Tables::new();
            let mut blocks = HashMap::new();
            for (i, look) in self.in_parallel(&distinct, |i| self.look(i))? {
                copies.extend(look.copy.map(|file| (i, file)));
                let (table, ends) = look.walked.map(Table::of).unzip();
                tables.insert(i, table);
                blocks.insert(i, ends.unwrap_or_default());
            }
            let of;
            (of, plan) = self.needs(trace, &first, &tables);
            for (i, blocks) in blocks {
                placements.insert(i, Placement::new(planned::hug(&of.merged(i, gap), &blocks)));
            }
            needs = Some(of);
        }

        let built =
            self.in_parallel(&distinct, |i| self.index_layer(i, copies.get(&i), placements.get(&i)))?;
        let (mut indexed, mut fine) = (HashMap::new(), HashMap::new());
        for (i, (layer, table)) in built {
            indexed.extend(layer.map(|layer| (i, layer)));
            fine.extend(table.map(|table| (i, table)));
        }
        if indexed.is_empty() {
            return Err(BuildError::NoZtocs);
        }
        let ztocs: Vec<Option<Ztoc>> =
            (0..layers.len()).map(|i| indexed.get(&i).and_then(|layer| layer.ztoc.clone())).collect();

        let prefetch = if let Some(trace) = trace {
            let needs = if let Some(needs) = needs {
                needs
            } else {
                let (needs, made) = self.needs(trace, &first, &self.tables(&distinct, &indexed)?);
                plan = made;
                needs
            };
            let budget = trace.budget.map(|budget| budget.of(layers));
            self.prefetched(&needs, budget, &ztocs)
        } else if self.settings.selection == Selection::Image {
            self.selected(&first, &distinct, &indexed)?
        } else {
            let by_layer: Vec<_> = first.iter().map(|&i| ztocs[i].clone()).collect();
            let listed = compat::artifacts(&self.settings.prefetch_files, &by_layer);
            for path in &listed.missing {
                (self.tell)(Event::FileNotFound(path));
            }
            listed.layers
        };

        let mut entries: Vec<Descriptor> = (0..layers.len())
            .filter_map(|i| Some(self.ztoc_entry(&layers[i], indexed.get(&first[i])?)))
            .collect();
        for (layer, artifact) in layers.iter().zip(prefetch) {
            entries.extend(artifact.map(|artifact| self.prefetch_entry(layer, &artifact)).transpose()?);
        }
        for i in fine::fit(&mut fine) {
            (self.tell)(Event::NoFineTable { layer: &layers[i], reason: &SkipReason::FineTable });
        }
        let fine = self.settings.fine.map(|_| fine::companion(self.image, &distinct, &fine, self.store));
        self.seal(entries, fine.transpose()?, plan)
    }

    /// Runs `work` for each of the layers, on as many threads as there are processors. All failures are collected.
    fn in_parallel<T: Send>(
        &self,
        layers: &[usize],
        work: impl Fn(usize) -> Result<T, LayerBuildError> + Sync,
    ) -> Result<Vec<(usize, T)>, BuildError> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(layers.len());
        let mut largest_first = layers.to_vec();
        largest_first.sort_by_key(|&i| std::cmp::Reverse(self.image.layers()[i].size));
        let next = AtomicUsize::new(0);
        let (done, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(&i) = largest_first.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match work(i) {
                            Ok(value) => done.lock().unwrap_or_else(PoisonError::into_inner).push((i, value)),
                            Err(error) => failed
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push((self.image.layers()[i].digest, error)),
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        if failed.is_empty() {
            Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
        } else {
            Err(BuildError::Layers(failed))
        }
    }

    fn index_layer(
        &self,
        i: usize,
        copy: Option<&File>,
        placement: Option<&Placement>,
    ) -> Result<(Option<IndexedLayer>, Option<FineLayer>), LayerBuildError> {
        let descriptor = &self.image.layers()[i];
        match layer::eligible(descriptor, self.settings.min_layer_size) {
            Ok(()) => {}
            Err(SkipReason::Prefetch) => return Ok((None, None)),
            Err(reason) => {
                (self.tell)(Event::Skipped { layer: descriptor, reason: &reason });
                return Ok((None, self.fine_alone(descriptor)?));
            }
        }
        let name = placement.and_then(|p| p.name.as_deref());
        let span_size = self.settings.span_size;
        let known = (!self.settings.force)
            .then(|| layer::known(&self.records, self.store, &descriptor.digest, span_size, name))
            .flatten();
        // A fine index is made of the layer's bytes, and the same zTOC with it.
        let fine = self.settings.fine.map(|span_size| FineOptions { span_size });
        let before = known.as_ref().map(|known| known.ztoc_digest);
        let (indexed, fine) = if let Some(known) = known.filter(|_| fine.is_none()) {
            (known, None)
        } else {
            let checkpointing = placement.map(|p| p.checkpointing.clone()).unwrap_or_default();
            // With a span layout of its own, the first look has found out about contents.
            let contents = self.wants_contents() && placement.is_none();
            let options =
                BuildOptions { span_size, checkpointing, fine, contents, ..BuildOptions::default() };
            let bytes = self.open(descriptor, copy)?;
            match layer::build(descriptor, bytes, &options, name, self.store, self.artifacts) {
                Ok(built) => built,
                Err(error) => {
                    let reason = self.odd(descriptor, copy, error)?;
                    (self.tell)(Event::Skipped { layer: descriptor, reason: &reason });
                    return Ok((None, None));
                }
            }
        };
        if self.settings.fine.is_some() && fine.is_none() {
            (self.tell)(Event::NoFineTable { layer: descriptor, reason: &SkipReason::FineTable });
        }
        let ztoc = indexed.ztoc_digest;
        let existed = indexed.existed || before == Some(ztoc);
        (self.tell)(Event::Ztoc { layer: descriptor, ztoc, existed });
        Ok((Some(indexed), fine))
    }

    /// The fine index of a layer without a zTOC: with a pack, it too is served in parts, and nothing of it is waited for.
    fn fine_alone(&self, descriptor: &Descriptor) -> Result<Option<FineLayer>, LayerBuildError> {
        let Some(span_size) = self.settings.fine else { return Ok(None) };
        if layer::eligible(descriptor, 0).is_err() {
            return Ok(None);
        }
        let options = BuildOptions { fine: Some(FineOptions { span_size }), ..BuildOptions::default() };
        let bytes = self.open(descriptor, None);
        let built = bytes.and_then(|bytes| layer::build_fine_alone(descriptor, bytes, &options, self.store));
        let reason = match built {
            Ok(Ok(made)) => return Ok(made),
            Err(error @ LayerBuildError::Store(_)) => return Err(error),
            Ok(Err(reason)) => reason,
            // Nobody asked for this layer: whatever is wrong with it, the image's index does without.
            Err(error) => error.skips().unwrap_or_else(|error| SkipReason::Unreadable(Box::new(error))),
        };
        (self.tell)(Event::NoFineTable { layer: descriptor, reason: &reason });
        Ok(None)
    }

    /// The reason to leave out a layer that could not be read, unless its bytes are not those of the manifest.
    fn odd(
        &self,
        layer: &Descriptor,
        copy: Option<&File>,
        error: LayerBuildError,
    ) -> Result<SkipReason, LayerBuildError> {
        let reason = error.skips()?;
        if matches!(reason, SkipReason::Unreadable(_)) {
            planned::check_digest(layer, planned::open(self.image, layer, copy, self.runtime)?)?;
        }
        Ok(reason)
    }

    /// A layer's bytes, told as they are read.
    fn open<'a>(
        &'a self,
        layer: &'a Descriptor,
        copy: Option<&File>,
    ) -> Result<Told<'a, LayerBytes>, LayerBuildError> {
        let inner = planned::open(self.image, layer, copy, self.runtime)?;
        Ok(Told { inner, blob: layer, tell: self.tell })
    }

    /// The first look at a layer for a span layout of its own.
    fn look(&self, i: usize) -> Result<Look, LayerBuildError> {
        let descriptor = &self.image.layers()[i];
        let again = layer::eligible(descriptor, self.settings.min_layer_size).is_ok();
        let copy = if again {
            planned::copy(self.image, descriptor, self.store, self.runtime, self.tell)?
        } else {
            None
        };
        let bytes = self.open(descriptor, copy.as_ref())?;
        Ok(Look { walked: walked(descriptor, bytes, self.wants_contents())?, copy })
    }

    /// Whether the plan depends on what the files contain.
    fn wants_contents(&self) -> bool {
        self.settings.trace.as_ref().is_some_and(|trace| matches!(trace.plan, PlanSource::OfFiles(_)))
    }

    /// The tables of files of all layers, from this build where it has read them.
    fn tables(
        &self,
        distinct: &[usize],
        indexed: &HashMap<usize, IndexedLayer>,
    ) -> Result<Tables, BuildError> {
        let tables = self.in_parallel(distinct, |i| {
            let layer = indexed.get(&i);
            let contents = layer.and_then(|layer| layer.contents.as_ref());
            if let Some(ztoc) = layer.and_then(|layer| layer.ztoc.as_ref())
                && (contents.is_some() || !self.wants_contents())
            {
                let files = ztoc.files().iter().map(LayerFile::from).collect();
                return Ok(Some(Table { files, contents: contents.cloned().unwrap_or_default() }));
            }
            let descriptor = &self.image.layers()[i];
            let bytes = self.open(descriptor, None)?;
            Ok(walked(descriptor, bytes, self.wants_contents())?.map(|walked| Table::of(walked).0))
        })?;
        Ok(tables.into_iter().collect())
    }

    /// The artifacts of the prefetch list, looked up in the merged image.
    fn selected(
        &self,
        first: &[usize],
        distinct: &[usize],
        indexed: &HashMap<usize, IndexedLayer>,
    ) -> Result<Vec<Option<PrefetchArtifact>>, BuildError> {
        if self.settings.prefetch_files.is_empty() {
            return Ok(vec![None; first.len()]);
        }
        let view = self.view(first, &self.tables(distinct, indexed)?);
        let ztoc = |i: &usize| indexed.get(i).and_then(|layer| layer.ztoc.clone());
        let by_layer: Vec<_> = first.iter().map(ztoc).collect();
        let selected = select(&self.settings.prefetch_files, &view, &by_layer);
        selected.lines.iter().for_each(|chosen| (self.tell)(Event::Chosen(chosen)));
        Ok(selected.layers)
    }

    /// All layers on top of each other; a layer that occurs twice goes by the number of its first place.
    fn view(&self, first: &[usize], tables: &Tables) -> ImageView {
        for (&i, table) in tables {
            if table.is_none() {
                (self.tell)(Event::LayerUnread(&self.image.layers()[i]));
            }
        }
        let table = |i: &usize| {
            tables.get(i).and_then(Option::as_ref).map_or(&[][..], |table| table.files.as_slice())
        };
        ImageView::build(first.iter().map(|i| (*i, table(i))))
    }

    /// What is needed of the layers, and the plan that says so.
    fn needs(&self, trace: &TraceSettings, first: &[usize], tables: &Tables) -> (Needs, Option<Plan>) {
        let view = self.view(first, tables);
        let plan = match &trace.plan {
            PlanSource::Known(plan) => plan.clone(),
            PlanSource::OfFiles(plan_of) => {
                let contents = |i| tables.get(&i)?.as_ref().map(|table: &Table| &table.contents);
                plan_of(contents::files(&view, contents))
            }
        };
        let needs = Needs::of(&plan, &view);
        if let Some(first) = needs.missing.first() {
            (self.tell)(Event::PathsNotFound { count: needs.missing.len(), first });
        }
        (needs, Some(plan))
    }

    fn prefetched(
        &self,
        needs: &Needs,
        budget: Option<u64>,
        ztocs: &[Option<Ztoc>],
    ) -> Vec<Option<PrefetchArtifact>> {
        let tables: Vec<_> = ztocs.iter().map(|z| z.as_ref().map(Ztoc::spans)).collect();
        let mut mapped = map(needs, &tables);
        let ahead = mapped.cut(budget, &tables);
        (self.tell)(Event::Ahead { image: self.image.manifest.digest, ahead });
        if mapped.unspanned_bytes > 0 {
            (self.tell)(Event::OutsideSpans(mapped.unspanned_bytes));
        }
        mapped
            .layers
            .into_iter()
            .map(|spans| (!spans.is_empty()).then(|| PrefetchArtifact::new(spans)))
            .collect()
    }

    fn ztoc_entry(&self, layer: &Descriptor, indexed: &IndexedLayer) -> Descriptor {
        let mut entry = Descriptor::new(indexed.media_type, indexed.ztoc_digest, indexed.ztoc_size);
        let mut note = |key: &str, value: String| drop(entry.annotations.insert(key.to_owned(), value));
        note(media_type::LAYER_DIGEST, layer.digest.to_string());
        note(media_type::LAYER_MEDIA_TYPE, layer.media_type.clone());
        note(media_type::SPAN_SIZE, self.settings.span_size.to_string());
        if self.settings.mark_no_xattrs && !indexed.xattrs_present {
            note(media_type::DISABLE_XATTRS, "true".to_owned());
        }
        entry
    }

    fn prefetch_entry(
        &self,
        layer: &Descriptor,
        artifact: &PrefetchArtifact,
    ) -> Result<Descriptor, BuildError> {
        let bytes = artifact.encode();
        let digest = self.store.put(&bytes)?;
        let mut entry = Descriptor::new(media_type::PREFETCH, digest, bytes.len() as u64);
        entry.annotations.insert(media_type::LAYER_DIGEST.to_owned(), layer.digest.to_string());
        let kind = ArtifactKind::SociPrefetch;
        self.artifacts.put(&Artifact::new(kind, &entry, layer.digest, self.store))?;
        (self.tell)(Event::Prefetch { layer: layer.digest, artifact: digest });
        Ok(entry)
    }

    fn seal(
        &self,
        entries: Vec<Descriptor>,
        fine: Option<Companion>,
        plan: Option<Plan>,
    ) -> Result<BuildReport, BuildError> {
        let (version, manifest) = (self.settings.version, &self.image.manifest);
        let subject = (version == IndexVersion::V1).then(|| manifest.descriptor());
        let mut index = SociIndex::new(version, entries, subject);
        index.annotations.extend(advice(self.settings.advised_whole));
        let raw = index.encode();
        let config = self.store.put(EMPTY_CONFIG)?;
        let digest = self.store.put_labelled(&raw, soci_index_labels(&config, &index.layers))?;
        let mut descriptor = Descriptor::new(media_type::OCI_MANIFEST, digest, raw.len() as u64);
        descriptor.artifact_type = Some(version.media_type().to_owned());
        for blob in &index.layers {
            // Found here before, and removed since by somebody else.
            if self.store.size(&blob.digest)?.is_none() {
                return Err(StoreError::NotFound(blob.digest).into());
            }
        }
        let (image, platform) = (&self.image.reference, self.image.platform.to_string());
        self.store.add_manifest(listed_for(&descriptor, image, &platform))?;
        self.artifacts.put(&Artifact {
            image_digest: Some(self.image.target_digest()),
            image_ref: Some(image.clone()),
            platform: Some(platform),
            ..Artifact::new(ArtifactKind::SociIndex, &descriptor, manifest.digest, self.store)
        })?;
        let report = BuildReport { index, descriptor, fine, plan };
        if let Some(fine) = report.put_companion(self.image, version, self.store, self.artifacts)? {
            let tables = report.fine.as_ref().map_or(0, Companion::tables_size);
            (self.tell)(Event::FineIndex { manifest: &fine, tables });
        }
        Ok(report)
    }
}

/// What a layer shows; `None` when nobody can unpack it.
fn walked(layer: &Descriptor, bytes: impl Read, contents: bool) -> Result<Option<Walked>, LayerBuildError> {
    let walked = planned::walk(layer, bytes, contents);
    walked.map_or_else(|error| error.skips().map(|_| None), |walked| Ok(Some(walked)))
}

/// For each layer the number of the first layer with the same digest.
fn first_occurrences(layers: &[Descriptor]) -> Vec<usize> {
    let mut seen = HashMap::new();
    layers.iter().enumerate().map(|(i, layer)| *seen.entry(layer.digest).or_insert(i)).collect()
}
