//! `soci convert`: make a SOCI-enabled image, in containerd or from one OCI image layout on disk to another.
//!
//! Standard output has the same lines as that of `create`, or with `--quiet` the digest of the new image index alone. With `--standalone`, new blobs are made in a temporary
//! directory beside the destination; layers go straight from the source to the destination.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use soci_core::{
    convert::{Original, Selection, Workshop, convert, output::Output, output::is_free},
    digest::Digest,
    image::{Descriptor, ImageError, ImageSource},
    index::{Event, IndexVersion, Settings},
    pack::PackSettings,
    store::{Artifacts, ContentStore, LayoutStore},
};
use tokio::runtime::Runtime;

use super::{
    build_args::{BuildArgs, source as source_of_plan},
    made::{Built, Heard},
    rehearsal::Rehearsal,
};
use crate::{
    error,
    global::Global,
    hint::Hinted,
    output::{
        json,
        place::{self, Overwrite},
        scratch::Scratch,
    },
    root::{self, Root},
    sources::{self, PlatformFlags, RegistryFlags},
    usage,
};

/// Make a SOCI-enabled image (index version 2) of an image.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image: its name in containerd. With --standalone: an image layout, as a directory or a tar, or a name of the
    /// form oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker://NAME (in a registry).
    source: Option<String>,
    /// Name of the new image. With --standalone: the file or directory to write.
    destination: Option<String>,
    #[command(flatten)]
    platforms: PlatformFlags,
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    build: BuildArgs,
    /// Work on images on disk, without containerd.
    #[arg(long)]
    standalone: bool,
    /// What --standalone writes: oci-archive (a tar) or oci-dir.
    #[arg(long, value_name = "FORMAT", default_value = "oci-archive")]
    format: Format,
    #[command(flatten)]
    overwrite: Overwrite,
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Archive,
    Directory,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "oci-archive" => Ok(Self::Archive),
            "oci-dir" => Ok(Self::Directory),
            _ => Err(format!("unsupported output format {text:?}: must be \"oci-archive\" or \"oci-dir\"")),
        }
    }
}

/// What was made. The keys of its JSON are an interface.
#[derive(Serialize)]
struct Made<'a> {
    /// The name, file or directory of the new image.
    image: &'a str,
    /// Its index.
    digest: Digest,
    dry_run: bool,
    #[serde(flatten)]
    built: Built,
}

type Tell<'a> = &'a (dyn Fn(Event<'_>) + Sync);

/// Converts one image.
pub(crate) fn run(args: Args, global: &Global) -> Result<()> {
    let (digest, built) = converted(&args, global)?;
    args.build.sum_up(&built);
    if args.build.json {
        let image = args.destination.as_deref().unwrap_or_default();
        out!("{}", json::pretty(&Made { image, digest, dry_run: args.build.dry_run, built })?);
    } else if args.build.is_quiet() {
        out!("{digest}");
    }
    Ok(())
}

impl Args {
    /// Of an image on disk or in a registry to a layout in a directory.
    pub(super) fn to_layout(
        source: String,
        to: &Path,
        build: BuildArgs,
        registry: RegistryFlags,
    ) -> Result<Self> {
        let destination = Some(to.to_string_lossy().into_owned());
        let (standalone, format) = (true, Format::Directory);
        Ok(Self {
            source: Some(source),
            destination,
            standalone,
            format,
            build,
            registry,
            ..usage::args(&[])?
        })
    }
}

/// Converts it, and says only what happens on the way: the new image index, and what was built.
pub(super) fn converted(args: &Args, global: &Global) -> Result<(Digest, Built)> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let source = given(&args.source).context("source image needs to be specified")?;
    let destination = given(&args.destination).context("destination needs to be specified")?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let progress = args.build.progress();
    let heard = Heard::default();
    let tell = |event: Event<'_>| {
        heard.hear(&event);
        args.build.tell(event, &progress);
    };
    let it = Conversion { args, runtime: &runtime, heard: &heard, tell: &tell };
    let made = if args.standalone {
        it.standalone(&source, Path::new(&destination))?
    } else {
        it.in_containerd(&source, &destination, global)?
    };
    Ok((made, heard.take()))
}

/// All that one conversion needs.
struct Conversion<'a> {
    args: &'a Args,
    runtime: &'a Runtime,
    heard: &'a Heard,
    tell: Tell<'a>,
}

impl Conversion<'_> {
    fn in_containerd(&self, source: &str, destination: &str, global: &Global) -> Result<Digest> {
        let args = self.args;
        let settings = args.build.settings(IndexVersion::V2)?;
        let destination = sources::tagged(destination)?;
        let rehearsal = args.build.dry_run.then(Rehearsal::new).transpose()?;
        let global = rehearsal.as_ref().map_or_else(|| global.clone(), |rehearsal| rehearsal.global(global));
        let root = Root::open(&global)?;
        let connected = root::connect(&global.socket(), global.namespace());
        let containerd = connected.map_err(|error| {
            Hinted::new(error::words(&error), "without containerd, convert images on disk with --standalone")
        })?;
        let leased = self.runtime.block_on(containerd.leased())?;
        let name = source.strip_prefix("containerd://").unwrap_or(source);
        let found = self.runtime.block_on(sources::in_containerd(name, &leased))?;
        let source = found.ok_or_else(|| ImageError::NotFound(name.to_owned()))?;
        let store = match &rehearsal {
            Some(rehearsal) => rehearsal.store()?,
            None => ContentStore::Containerd(leased.clone()),
        };
        let pack = args.build.pack(&settings);
        let shop = Workshop {
            settings: &settings,
            store: &store,
            artifacts: &root.artifacts,
            name: &destination,
            runtime: self.runtime.handle(),
            pack: pack.as_ref(),
            plans: &HashMap::new(),
        };
        let target = self.build(&source, false, shop)?;
        if rehearsal.is_none() {
            self.runtime.block_on(leased.put_image(&destination, &target))?;
        }
        Ok(target.digest)
    }

    fn standalone(&self, source: &str, destination: &Path) -> Result<Digest> {
        let args = self.args;
        let settings = args.build.settings(IndexVersion::V2)?;
        let source = on_disk(args, source, self.runtime)?;
        if args.format == Format::Directory && !is_free(destination) {
            bail!("{} is there and is no OCI image layout", destination.display());
        }
        if args.format == Format::Archive {
            place::check(destination, args.overwrite.is_on())?;
        }
        if args.build.dry_run {
            let rehearsal = Rehearsal::new()?;
            let made = LayoutStore::open(&rehearsal.path().join("layout"))?;
            return Ok(self.made_in(&source, &settings, &made, rehearsal.path())?.digest);
        }
        let parent = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let work = Scratch::new_in(parent).map_err(|error| {
            let error = error::words(&anyhow::Error::from(error));
            Hinted::new(
                format!("cannot write {}: {error}", destination.display()),
                "with --standalone the new image is a file or a directory; soci push --image brings it to a registry",
            )
        })?;
        let made = LayoutStore::open(&work.path().join("layout"))?;
        let target = self.made_in(&source, &settings, &made, work.path())?;
        let output = Output { target: &target, made: &made, source: &source, runtime: self.runtime.handle() };
        match args.format {
            Format::Directory => output.directory(destination, self.tell)?,
            Format::Archive => {
                let path = work.path().join("archive");
                let file =
                    fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
                output.archive(file, destination, self.tell)?;
                place::put(&path, destination, args.overwrite.is_on())?;
            }
        }
        Ok(target.digest)
    }

    /// Converts an image on disk, with all that is new in `made`.
    fn made_in(
        &self,
        source: &ImageSource,
        settings: &Settings,
        made: &LayoutStore,
        work: &Path,
    ) -> Result<Descriptor> {
        let pack = self.args.build.pack(settings);
        let shop = Workshop {
            settings,
            store: &ContentStore::Layout(made.clone()),
            artifacts: &Artifacts::open(work)?,
            name: source.name(),
            runtime: self.runtime.handle(),
            pack: pack.as_ref(),
            plans: &HashMap::new(),
        };
        self.build(source, true, shop)
    }

    /// Converts, and gives what the result's name is to point to.
    fn build(&self, source: &ImageSource, only_present: bool, shop: Workshop<'_>) -> Result<Descriptor> {
        let (args, runtime) = (self.args, self.runtime);
        let named = args.platforms.named()?;
        let meant = match (args.platforms.all_platforms, named.is_empty()) {
            (true, _) => Selection::All,
            (false, true) => Selection::Default,
            (false, false) => Selection::These(named.clone()),
        };
        let (original, images) = runtime.block_on(async {
            let original = Original::read(source, only_present).await?;
            let images = original.images(source, &meant).await?;
            Ok::<_, anyhow::Error>((original, images))
        })?;
        for (platform, image) in named.iter().zip(&images) {
            sources::must_be_for(platform, image)?;
        }
        let mut plans = HashMap::new();
        let mut settings = shop.settings.clone();
        if let Some(known) = args.build.known()? {
            let (open, handle) = (args.build.open(), runtime.handle());
            for image in &images {
                let plan = source_of_plan(&known, open, image, handle, self.heard, self.tell)?;
                plans.insert(image.manifest.digest, plan);
            }
            // One index for all platforms: the first decides.
            if let Some(first) = images.first() {
                open.decide(&known, first, handle, self.tell, &mut settings)?;
            }
        }
        let advised_whole = settings.advised_whole;
        let pack = shop.pack.map(|pack| PackSettings { advised_whole, ..pack.clone() });
        let shop = Workshop { settings: &settings, pack: pack.as_ref(), plans: &plans, ..shop };
        let names = original.names().to_vec();
        let mut target = convert(original, &images, &shop, self.tell)?;
        if only_present {
            target.annotations.extend(names);
        }
        Ok(target)
    }
}

/// Finds the image of `--standalone`.
fn on_disk(args: &Args, text: &str, runtime: &Runtime) -> Result<ImageSource> {
    if ["oci:", "oci-archive:", "docker://"].iter().any(|scheme| text.starts_with(scheme)) {
        let registry = args.registry.registry(text)?;
        let source = ImageSource::parse(text.strip_prefix("docker://").unwrap_or(text), &registry)?;
        // Whether it is there is better known before anything is made.
        runtime.block_on(source.document())?;
        return Ok(source);
    }
    let path = PathBuf::from(text);
    let metadata = fs::metadata(&path).map_err(|error| {
        let cause = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        anyhow::anyhow!("failed to access input {text}: stat {text}: {cause}")
    })?;
    let source = if metadata.is_dir() {
        ImageSource::layout(&path).with_context(|| format!("failed to read index.json from {text}"))?
    } else {
        ImageSource::archive(&path).with_context(|| format!("failed to extract OCI tar {text}"))?
    };
    match runtime.block_on(source.document()) {
        Err(ImageError::NotFound(_)) => bail!("index.json contains no manifests"),
        outcome => outcome.with_context(|| format!("failed to read index.json from {text}"))?,
    };
    Ok(source)
}
