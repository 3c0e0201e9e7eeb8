//! Every way of showing a stack of layers shows the same: our unpack, lazy mounts by EROFS and by FUSE, the planner's view,
//! and containerd's own unpack on overlayfs, which is the reference. Needs root, /dev/fuse, overlayfs and containerd.
//!
//! Stacks are made by chance, many in one image. `SOCI_STACKS` says how many (512), `SOCI_STACKS_FROM` the first seed.

mod resolve;
mod stacks;
mod ways;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness::containerd::Containerd;
use harness::tree::Tree;
use harness::unpacker::Unpacker;
use harness::way::Way;
use soci_core::testing::{TarBuilder, TarEntry, TarFormat};
use soci_core::unpack::{ApplyOptions, LayerFormat, unpack_layer};
use stacks::{LAYERS, Stack};
use tokio::runtime::Runtime;
use ways::Plan;

/// Stacks in one image.
const BATCH: u64 = 64;
/// Times of unpacking are later: what has one was described by nobody, and shows when containerd has made it.
const NOW: i64 = 1_500_000_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The layers of an image with all the stacks.
fn tars<'a>(stacks: impl IntoIterator<Item = &'a Stack>) -> Vec<Vec<u8>> {
    let mut layers: Vec<Vec<TarEntry>> = vec![Vec::new(); LAYERS];
    for stack in stacks {
        for (all, own) in layers.iter_mut().zip(&stack.layers) {
            all.extend(own.iter().cloned());
        }
    }
    layers.iter().map(|layer| TarBuilder::archive(TarFormat::Pax, layer)).collect()
}

/// Without the root: it is nobody's.
fn rootless(mut tree: Tree) -> Tree {
    tree.remove(Path::new(""));
    tree
}

/// The names at which two ways differ.
fn different<T: PartialEq + std::fmt::Debug>(
    a: &BTreeMap<PathBuf, T>,
    b: &BTreeMap<PathBuf, T>,
    same: impl Fn(&T, &T) -> bool,
) -> Vec<(PathBuf, String)> {
    let mut names: Vec<_> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    let differ = |name: &&&PathBuf| match (a.get(**name), b.get(**name)) {
        (Some(a), Some(b)) => !same(a, b),
        _ => true,
    };
    let say = |name: &PathBuf| (name.clone(), format!("{:?}\n    {:?}", a.get(name), b.get(name)));
    names.iter().filter(differ).map(|name| say(name)).collect()
}

/// What the ways show of an image.
struct Shown {
    full: Tree,
    erofs: Tree,
    fuse: Tree,
    planner: Plan,
}

impl Shown {
    fn of(tars: &[Vec<u8>], work: &Path, on_unpacked: bool) -> Self {
        let place = |name: &str| {
            let place = work.join(name);
            std::fs::create_dir_all(&place).unwrap();
            place
        };
        Self {
            full: rootless(ways::full(tars, &place("full"))),
            erofs: rootless(ways::lazy(Way::Image, tars, &place("erofs"), on_unpacked)),
            fuse: rootless(ways::lazy(Way::Fuse, tars, &place("fuse"), on_unpacked)),
            planner: ways::planner(tars),
        }
    }

    fn differences(&self) -> Vec<(&'static str, PathBuf, String)> {
        let full = &self.full;
        let lazy = [("erofs", &self.erofs), ("fuse", &self.fuse)];
        let lazy = lazy.into_iter().flat_map(|(way, tree)| {
            different(full, tree, |a, b| a == b).into_iter().map(move |(path, text)| (way, path, text))
        });
        let planner = different(&ways::planned(full), &self.planner, |a, b| a == b);
        lazy.chain(planner.into_iter().map(|(path, text)| ("planner", path, text))).collect()
    }
}

/// Ours and containerd's.
fn different_from_containerd(ours: &Tree, theirs: &Tree) -> Vec<(&'static str, PathBuf, String)> {
    let same = |ours: &harness::tree::Item, theirs: &harness::tree::Item| {
        ours == theirs || theirs.seconds() > NOW && ours.same_but_made(theirs)
    };
    different(ours, theirs, same).into_iter().map(|(path, text)| ("containerd", path, text)).collect()
}

/// Ends the test with the stacks whose names are among the differences.
fn report(stacks: &[Stack], found: &[(&'static str, PathBuf, String)]) {
    for stack in stacks {
        let own: Vec<_> = found.iter().filter(|(_, path, _)| path.starts_with(&stack.home)).collect();
        if own.is_empty() {
            continue;
        }
        for (at, layer) in stack.layers.iter().enumerate() {
            eprintln!("layer {at} of {}:", stack.home);
            for entry in layer {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                eprintln!(
                    "  {} {} -> {:?} {:o} {:?} {:?} {:?}",
                    entry.kind,
                    text(&entry.name),
                    text(&entry.link_name),
                    entry.mode,
                    entry.owner,
                    entry.mtime,
                    entry.pax.iter().map(|(key, _)| text(key)).collect::<Vec<_>>()
                );
            }
        }
        for (way, path, text) in own {
            eprintln!("{way}: {}\n    {text}", path.display());
        }
    }
    assert!(
        found.is_empty(),
        "{} differences, the first by {} at {}",
        found.len(),
        found[0].0,
        found[0].1.display()
    );
}

/// What containerd shows of those of the stacks that it takes; gives the others with its words.
struct Reference {
    runtime: Runtime,
    unpacker: Unpacker,
    next: usize,
}

impl Reference {
    fn new(containerd: &Containerd) -> Self {
        let runtime = Runtime::new().unwrap();
        let unpacker = runtime.block_on(Unpacker::connect(&containerd.socket()));
        Self { runtime, unpacker, next: 0 }
    }

    fn show(&mut self, stacks: &[&Stack], work: &Path, refused: &mut Vec<(String, String)>) -> Tree {
        self.next += 1;
        let name = format!("n{}", self.next);
        match ways::containerd(&self.runtime, &mut self.unpacker, &tars(stacks.iter().copied()), work, &name)
        {
            Ok(tree) => tree,
            Err(words) if stacks.len() == 1 => {
                refused.push((stacks[0].home.clone(), words));
                Tree::new()
            }
            // One of them is refused: which one tells each half.
            Err(_) => {
                let (left, right) = stacks.split_at(stacks.len() / 2);
                let mut all = self.show(left, work, refused);
                all.extend(self.show(right, work, refused));
                all
            }
        }
    }
}

#[test]
fn all_ways_show_the_same_of_stacks_by_chance() {
    let (count, from) = (number("SOCI_STACKS", 512), number("SOCI_STACKS_FROM", 1));
    let work = tempfile::tempdir().unwrap();
    let containerd = Containerd::plain(work.path());
    let mut reference = Reference::new(&containerd);
    let (mut compared, mut refused, mut known) = (0, Vec::new(), BTreeMap::<&str, u64>::new());
    for (at, first) in (from..from + count).step_by(BATCH as usize).enumerate() {
        let stacks: Vec<_> = (first..(first + BATCH).min(from + count)).map(Stack::of).collect();
        let batch = tempfile::tempdir_in(work.path()).unwrap();
        let shown = Shown::of(&tars(&stacks), batch.path(), at % 2 == 1);
        report(&stacks, &shown.differences());
        let mut common = Vec::new();
        for stack in &stacks {
            match stack.differs_in_containerd() {
                None => common.push(stack),
                Some(reason) => *known.entry(reason).or_default() += 1,
            }
        }
        let before = refused.len();
        let mut theirs = rootless(reference.show(&common, batch.path(), &mut refused));
        let mut ours = shown.full;
        common.retain(|stack| refused[before..].iter().all(|(home, _)| *home != stack.home));
        let is_common = |path: &PathBuf| common.iter().any(|stack| path.starts_with(&stack.home));
        ours.retain(|path, _| is_common(path));
        theirs.retain(|path, _| is_common(path));
        report(&stacks, &different_from_containerd(&ours, &theirs));
        compared += common.len() as u64;
    }
    println!("{count} stacks, {compared} of them by containerd, too; not, because: {known:?}");
    println!("refused by containerd: {refused:?}");
    // It follows paths into what is no directory of a lower layer, and sets times where something has gone: see docs/semantics.md.
    assert!(refused.len() as u64 <= count / 8, "containerd refuses what we show: {refused:?}");
    assert!(compared * 2 > count, "too few have one meaning in containerd: {known:?}");
}

#[test]
fn what_no_layer_can_have_is_refused_by_our_unpack_too() {
    let refused = (1..200).flat_map(|seed| Stack::of(seed).refused);
    let mut reasons = std::collections::BTreeSet::new();
    for (entry, reason) in refused {
        let alone = TarBuilder::archive(TarFormat::Pax, [&entry]);
        let to = tempfile::tempdir().unwrap();
        let unpacked =
            unpack_layer(alone.as_slice(), LayerFormat::Tar, to.path(), ApplyOptions::default(), None);
        // Some need entries before them to be wrong.
        if unpacked.is_err() {
            reasons.insert(format!("{reason:?}"));
        }
    }
    assert!(reasons.contains("WhiteoutOfNothing") && reasons.contains("LinkToNothing"), "{reasons:?}");
}

/// A test of the test: each way is given an image with one thing changed, and it is seen.
#[test]
fn a_difference_in_any_one_way_is_found() {
    let stacks: Vec<_> =
        (1..4000).map(Stack::of).filter(|s| s.differs_in_containerd().is_none()).take(8).collect();
    let work = tempfile::tempdir().unwrap();
    let containerd = Containerd::plain(work.path());
    let mut reference = Reference::new(&containerd);
    let shown = Shown::of(&tars(&stacks), &work.path().join("right"), false);
    assert_eq!(shown.differences().len(), 0);
    let all: Vec<_> = stacks.iter().collect();
    let theirs = rootless(reference.show(&all, work.path(), &mut Vec::new()));
    assert_eq!(different_from_containerd(&shown.full, &theirs).len(), 0);

    let mut changed = stacks;
    let home = changed[7].home.clone();
    let last = changed[7].layers.last_mut().unwrap();
    last.push(TarEntry::dir(format!("{home}/")).mode(0o123).mtime(1_300_000_000, 7));
    last.push(TarEntry::file(format!("{home}/planted"), b"x".to_vec()));
    let other = Shown::of(&tars(&changed), &work.path().join("wrong"), true);
    assert_eq!(other.differences().len(), 0);
    let right = shown;
    let wrong = |way: &str| {
        let pick = |own: &str, a: &Tree, b: &Tree| if own == way { b.clone() } else { a.clone() };
        Shown {
            full: pick("full", &right.full, &other.full),
            erofs: pick("erofs", &right.erofs, &other.erofs),
            fuse: pick("fuse", &right.fuse, &other.fuse),
            planner: if way == "planner" { other.planner.clone() } else { right.planner.clone() },
        }
    };
    for (way, lines) in [("full", 5), ("erofs", 2), ("fuse", 2), ("planner", 1)] {
        let found = wrong(way).differences();
        assert!(found.len() >= lines, "{way}: {found:?}");
        assert!(way == "full" || found.iter().all(|(other, ..)| *other == way), "{way}: {found:?}");
    }
    let all: Vec<_> = changed.iter().collect();
    let theirs = rootless(reference.show(&all, work.path(), &mut Vec::new()));
    assert_eq!(different_from_containerd(&right.full, &theirs).len(), 2);
}
