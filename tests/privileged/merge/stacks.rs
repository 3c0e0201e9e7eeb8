//! Stacks of layers by chance: few names, so that they meet as everything that an archive can say.
//!
//! A stack lives below a directory of its own in all layers, so that many of them fit into one image. The same seed gives
//! the same stack.

use soci_core::tar::{Entry, EntryKind, Parser, Sink, Special, TarError};
use soci_core::testing::{TarBuilder, TarEntry, TarFormat};
use soci_core::tree::{Growing, LayerTree, Marker, Reason, Step, clean, split};

/// Layers of a stack, at most.
pub(super) const LAYERS: usize = 4;

/// A stack: its directory, and the entries of its layers, the lowest first.
#[derive(Clone, Debug)]
pub(super) struct Stack {
    pub(super) home: String,
    pub(super) layers: Vec<Vec<TarEntry>>,
    /// What was taken out of it because no layer can have it, and why.
    pub(super) refused: Vec<(TarEntry, Reason)>,
}

/// A small generator of numbers (xorshift64*).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

pub(super) const PARTS: [&[u8]; 8] = [b"a", b"b", b"c", b"d", b"lib", b"usr", b".e", b"\xff\xfe"];
const MODES: [u32; 8] = [0o755, 0o644, 0o700, 0o1777, 0o2755, 0o4711, 0o600, 0];
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

impl Stack {
    /// The stack of a seed.
    pub(super) fn of(seed: u64) -> Self {
        let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let home = format!("s{seed:06}");
        // Every other one has only what containerd takes as we do.
        let is_tame = seed.is_multiple_of(2);
        let mut stack = Self { home: home.clone(), layers: Vec::new(), refused: Vec::new() };
        for _ in 0..=chance.below(LAYERS) {
            let mut paths = Vec::new();
            let mut layer: Vec<_> =
                (0..=chance.below(10)).map(|_| entry(&mut chance, &home, &mut paths)).collect();
            if chance.one_in(3) {
                layer.insert(0, described(&mut chance, TarEntry::dir(format!("{home}/"))));
            }
            // What no layer can have goes, and all is looked at again: entries behind it may need it.
            let below: Vec<_> = stack.layers.iter().map(|layer| entries(layer)).collect();
            loop {
                if let Some((at, reason)) = first_refused(&layer) {
                    stack.refused.push((layer.remove(at), reason));
                } else if let Some((at, _)) = layer_differs(&entries(&layer), &below).filter(|_| is_tame) {
                    layer.remove(at);
                } else {
                    break;
                }
            }
            stack.layers.push(layer);
        }
        stack
    }

    /// The same on a lowest layer as distributions make it, where directories have moved behind links, with links after links; and
    /// with content that tells which entry it is of.
    pub(super) fn distinct(mut self, usr_merge: bool) -> Self {
        if usr_merge {
            let mut lowest = moved_directories(&self.home);
            lowest.append(&mut self.layers[0]);
            while let Some((at, _)) = first_refused(&lowest) {
                lowest.remove(at);
            }
            self.layers[0] = lowest;
        }
        for (layer, entries) in self.layers.iter_mut().enumerate() {
            for (at, entry) in entries.iter_mut().enumerate() {
                // In a sticky directory the kernel follows no links of other owners. Attributes are no matter of paths.
                entry.mode &= !0o1000;
                entry.pax.clear();
                if entry.data.is_empty() {
                    continue;
                }
                let own = format!("{} {layer} {at} ", self.home).into_bytes();
                let length = entry.data.len().max(own.len());
                entry.data = own.into_iter().cycle().take(length).collect();
            }
        }
        self
    }

    /// Why containerd's unpack of it is refused, or is known to differ: see docs/semantics.md.
    pub(super) fn differs_in_containerd(&self) -> Option<&'static str> {
        self.layers.iter().enumerate().find_map(|(at, layer)| {
            let below: Vec<_> = self.layers[..at].iter().map(|layer| entries(layer)).collect();
            layer_differs(&entries(layer), &below).map(|(_, reason)| reason)
        })
    }
}

/// Where `/lib` has become a link, files are reached by both names; some links need 39 others, 40, or themselves.
fn moved_directories(home: &str) -> Vec<TarEntry> {
    let at = |path: &str| format!("{home}/{path}");
    let mut entries = vec![
        TarEntry::dir(at("usr/")),
        TarEntry::dir(at("usr/lib/")),
        TarEntry::dir(at("usr/lib/a/")),
        TarEntry::file(at("usr/lib/b"), *b"library"),
        TarEntry::file(at("usr/lib/a/c"), *b"library"),
        TarEntry::symlink(at("lib"), "usr/lib"),
        TarEntry::symlink(at("d"), format!("/{home}/lib/a")),
        TarEntry::symlink(at("usr/d"), "../lib/../usr/d"),
        TarEntry::symlink(at("link0"), "lib/b"),
    ];
    let chain =
        |number: usize| TarEntry::symlink(at(&format!("link{}", number + 1)), format!("link{number}"));
    entries.extend((0..40).map(chain));
    entries
}

fn first_refused(layer: &[TarEntry]) -> Option<(usize, Reason)> {
    let entries = entries(layer);
    let tree = LayerTree::build(entries.as_slice(), entries.len());
    tree.refused().first().map(|refusal| (refusal.entry as usize, refusal.reason))
}

/// The entries of a layer, as they are read from its archive.
pub(super) fn entries(layer: &[TarEntry]) -> Vec<Entry> {
    struct All(Vec<Entry>);
    impl Sink for All {
        type Error = TarError;
        fn special(&mut self, entry: Entry, _: Special) -> Result<(), TarError> {
            self.entry(entry)
        }
        fn hole(&mut self, _: u64) -> Result<(), TarError> {
            Ok(())
        }
        fn entry(&mut self, entry: Entry) -> Result<(), TarError> {
            self.0.push(entry);
            Ok(())
        }
        fn data(&mut self, _: &[u8]) -> Result<(), TarError> {
            Ok(())
        }
    }
    let (mut parser, mut all) = (Parser::new(), All(Vec::new()));
    parser.push(&TarBuilder::archive(TarFormat::Pax, layer), &mut all).unwrap();
    all.0
}

/// The first entry by which a layer differs, and how.
fn layer_differs(layer: &[Entry], below: &[Vec<Entry>]) -> Option<(usize, &'static str)> {
    let mut tree = Growing::default();
    let mut implied = Vec::new();
    // Paths of directories and symbolic links.
    let mut ways: Vec<Vec<u8>> = Vec::new();
    for (at, entry) in layer.iter().enumerate() {
        let step = tree.add(layer, at as u32).expect("nothing is refused");
        let path = clean(&entry.name);
        let marker = Marker::of(split(&path).1);
        for &made in tree.made() {
            if tree.is_opaque(made) && marker != Marker::Opaque {
                return Some((at, "a directory implied in place of a whiteout"));
            }
            let path = tree.path(layer, made);
            // Below it each layer shows something at one of the paths above that is no directory.
            let blocked = below.iter().flatten().any(|lower| {
                let lower_path = clean(&lower.name);
                let is_way = !matches!(lower.kind, EntryKind::Dir);
                let shown = match Marker::of(split(&lower_path).1) {
                    Marker::Whiteout(hidden) => {
                        let above = split(&lower_path).0;
                        if above.is_empty() { hidden.to_vec() } else { [above, b"/", hidden].concat() }
                    }
                    _ => lower_path,
                };
                is_way && path.starts_with(&shown) && path.get(shown.len()) == Some(&b'/')
            });
            let through_dots = below.iter().flatten().any(|lower| {
                lower.kind == EntryKind::Symlink
                    && lower.link_name.windows(2).any(|dots| dots == b"..")
                    && path.starts_with(&clean(&lower.name))
            });
            if through_dots {
                return Some((at, "a directory implied where a lower layer has a link through `..`"));
            }
            if blocked {
                return Some((at, "a directory implied below what is none in a lower layer"));
            }
            implied.push(made);
            ways.push(match split(&path) {
                (b"", name) => [b"/", name].concat(),
                _ => path,
            });
        }
        if below.is_empty() && marker == Marker::Opaque && !implied.is_empty() {
            return Some((at, "an opaque directory with implied ones in the lowest layer"));
        }
        if matches!(marker, Marker::Whiteout(_)) && !matches!(step, Step::Whiteout { replaces: false, .. }) {
            return Some((at, "a whiteout beside an entry of its name"));
        }
        match step {
            Step::Put { parent, name, inode, replaces, merges, target } => {
                let key = [&tree.path(layer, parent)[..], b"/", &entry.name[name]].concat();
                if replaces && ways.contains(&key) {
                    return Some((at, "a directory or link is replaced"));
                }
                if merges && implied.contains(&inode) {
                    return Some((at, "a directory is listed after it was implied"));
                }
                let kind = if target.is_some() { tree.kind(layer, inode) } else { entry.kind };
                let is_dir = kind == EntryKind::Dir;
                if is_dir && !merges && tree.is_opaque(inode) {
                    return Some((at, "a directory in place of a whiteout"));
                }
                if is_dir || kind == EntryKind::Symlink {
                    ways.push(key);
                }
                let refuses_user = !is_dir && kind != EntryKind::Reg;
                if refuses_user && entry.pax.keys().any(|key| key.starts_with(b"SCHILY.xattr.user.")) {
                    return Some((at, "a user attribute on what can have none"));
                }
            }
            Step::Whiteout { parent, name, replaces } => {
                let key = [&tree.path(layer, parent)[..], b"/", &entry.name[name]].concat();
                if replaces && ways.contains(&key) {
                    return Some((at, "a directory or link is replaced"));
                }
            }
            Step::Nothing | Step::Opaque(_) => {}
        }
    }
    None
}

fn path(chance: &mut Chance) -> Vec<u8> {
    let depth = 1 + chance.below(4).min(chance.below(4));
    (0..depth).map(|_| chance.of(&PARTS)).collect::<Vec<_>>().join(&b'/')
}

/// A name as odd tools write it. The stack's home stays in it.
fn spelled(chance: &mut Chance, home: &str, path: &[u8]) -> Vec<u8> {
    let start: &[u8] = chance.of(&[&b""[..], b"", b"", b"./", b"/", b"../", b"x/../"]);
    let slash: &[u8] = chance.of(&[&b"/"[..], b"/", b"/", b"//", b"/./", b"/q/../"]);
    [start, home.as_bytes(), slash, path].concat()
}

fn target(chance: &mut Chance, home: &str) -> Vec<u8> {
    let path = path(chance);
    match chance.below(6) {
        0 => [b"/", home.as_bytes(), b"/", &path].concat(),
        1 => [b"../", &path[..]].concat(),
        2 => [b"./", &path[..], b"/"].concat(),
        3 => [b"nothing/../", &path[..]].concat(),
        _ => path,
    }
}

fn entry(chance: &mut Chance, home: &str, paths: &mut Vec<Vec<u8>>) -> TarEntry {
    let mut at = if !paths.is_empty() && chance.one_in(3) {
        let known = chance.of(paths);
        // The same, or something in it.
        if chance.one_in(2) { known } else { [&known[..], b"/", chance.of(&PARTS)].concat() }
    } else {
        path(chance)
    };
    let kind = chance.below(20);
    if kind < 12 {
        paths.push(at.clone());
    }
    let base = split(&at).1.to_vec();
    let marker = |at: &mut Vec<u8>, name: &[u8]| {
        at.truncate(at.len() - base.len());
        at.extend_from_slice(name);
    };
    let made = match kind {
        0..6 => TarEntry::file(spelled(chance, home, &at), content(chance)),
        6..10 => TarEntry::dir([&spelled(chance, home, &at)[..], b"/"].concat()),
        10..12 => TarEntry::symlink(spelled(chance, home, &at), target(chance, home)),
        12..14 => {
            let target = if paths.is_empty() || chance.one_in(6) { path(chance) } else { chance.of(paths) };
            TarEntry::hard_link(spelled(chance, home, &at), spelled(chance, home, &target))
        }
        14..17 => {
            marker(&mut at, &[b".wh.", &base[..]].concat());
            TarEntry::file(spelled(chance, home, &at), [])
        }
        17 => {
            let name: &[u8] = chance.of(&[
                &b".wh..wh..opq"[..],
                b".wh..wh..opq",
                b".wh..wh..opq",
                b".wh..wh.plnk",
                b".wh.",
            ]);
            marker(&mut at, name);
            TarEntry::file(spelled(chance, home, &at), [])
        }
        18 => TarEntry::fifo(spelled(chance, home, &at)),
        _ => {
            let number = chance.below(2) as u32;
            TarEntry::char_device(spelled(chance, home, &at), 5 * number, 300 * number)
        }
    };
    described(chance, made)
}

fn content(chance: &mut Chance) -> Vec<u8> {
    let (byte, length) = (chance.below(256) as u8, chance.of(&[0, 1, 5, 600, 5000]));
    vec![byte; length]
}

/// With attributes by chance.
fn described(chance: &mut Chance, entry: TarEntry) -> TarEntry {
    let (secs, nanos) = match chance.below(12) {
        0 => (-5, 0),
        1 => (0, 0),
        _ => (1_200_000_000 + chance.below(100_000_000) as i64, chance.of(&[0, 123_456_789])),
    };
    let mode = chance.of(&MODES);
    let owner = (chance.of(&[0, 0, 1000, 70_000]), chance.of(&[0, 0, 12]));
    let mut entry = entry.mode(mode).owner(owner.0, owner.1).mtime(secs, nanos);
    for name in ["user.a", "user.b", "trusted.t", "com.example"] {
        if chance.one_in(10) {
            entry = entry.xattr(name, vec![b'v'; chance.below(5)]);
        }
    }
    if chance.one_in(12) && entry.kind == EntryKind::Reg {
        entry = entry.xattr("security.capability", CAPABILITY);
    }
    entry
}
