//! The arrows inside each crate: no module uses one that uses it, over however many others.
//!
//! Reads `use` lines and paths that begin with `crate::` or `super::`, as text. A name that a module gives on (`pub use`) is the
//! module's where it is written. A module and those below it are one room: arrows between them do not count. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The path of a module in its crate; empty for the crate's own file.
type Module = Vec<String>;

/// What a module says.
#[derive(Debug, Default)]
struct Said {
    /// Full paths of what it uses.
    used: BTreeSet<Vec<String>>,
    /// Names that it gives on, and the full path of each.
    given_on: BTreeMap<String, Vec<String>>,
}

/// Circles that were there before this test. One that is broken up must leave the list.
const KNOWN: &[(&str, &[&str])] = &[
    (
        "soci-core/src",
        &[
            "containerd/content image/layer image/parts image/source store/artifacts store/content store/removal",
            "image/archive image/error",
            "image/descriptor image/platform",
            "index/fine index/layer index/planned index/settings index/told pack/build pack/collect pack/write",
            "registry/auth registry/error registry/follow registry/hosts registry/hosts/resting registry/link registry/manners registry/options registry/reference registry/reply registry/retry registry/transport",
            "registry/body registry/client registry/range registry/source",
            "registry/hosts/file registry/hosts/policy",
            "tree/attributes tree/grow tree/layer tree/refusal",
            "ztoc/builder ztoc/fine/writer",
        ],
    ),
    (
        "recorder/src",
        &[
            "session/arrival session/container session/watched",
            "until/grammar until/http until/probe until/rule",
            "workload/guard workload/launch",
        ],
    ),
    ("recorder-ebpf/programs/src", &["filter report tree"]),
    ("snapshotter/src", &[]),
    (
        "soci-cli/src",
        &[
            "cli commands/index commands/pack commands/prefetch commands/trace commands/ztoc root",
            "commands/build_args commands/create commands/pack_args",
            "commands/push commands/push_companions commands/push_image",
            "commands/record commands/record_container commands/record_rootfs commands/record_runs commands/results",
            "error hint",
        ],
    ),
    ("xtask/src", &["images/base images/database images/java images/node images/python images/recipe"]),
];

#[test]
fn no_module_uses_one_that_uses_it() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace");
    for (root, known) in KNOWN {
        let mut modules = BTreeMap::new();
        read(&workspace.join(root), &mut Vec::new(), &mut modules);
        assert!(modules.len() > 3, "{root} has no modules");
        let found: BTreeSet<String> =
            circles(&arrows(&modules)).iter().map(|circle| circle.join(" ")).collect();
        let known: BTreeSet<String> = known.iter().map(|circle| (*circle).to_owned()).collect();
        let new: Vec<_> = found.difference(&known).collect();
        let gone: Vec<_> = known.difference(&found).collect();
        assert!(
            new.is_empty() && gone.is_empty(),
            "{root}: new circles {new:#?}, known ones that are no more {gone:#?}"
        );
    }
}

#[test]
fn a_circle_is_found() {
    let modules = |texts: &[(&str, &str)]| {
        let names: Vec<Module> = texts.iter().map(|(name, _)| path(name)).collect();
        let said = texts.iter().zip(&names).map(|((_, text), name)| (name.clone(), said(name, text, &names)));
        said.collect::<BTreeMap<_, _>>()
    };
    let found = |texts: &[(&str, &str)]| circles(&arrows(&modules(texts)));
    let straight = [("a", "use crate::b::{B, c::C};"), ("b", "pub use c::C;"), ("b/c", "use super::B;")];
    assert_eq!(found(&straight), Vec::<Vec<String>>::new());
    let over_a_name_given_on =
        [("a", "use crate::b::C;"), ("b", "pub use c::C;"), ("b/c", "fn f() { crate::a::g() }")];
    assert_eq!(found(&over_a_name_given_on), [["a", "b/c"]]);
    let of_siblings =
        [("m", ""), ("m/a", "use super::b::B;"), ("m/b", "use super::c::C;"), ("m/c", "use super::a::A;")];
    assert_eq!(found(&of_siblings), [["m/a", "m/b", "m/c"]]);
    let in_tests = [("a", "use crate::b::B;"), ("b", "#[cfg(test)]\nmod tests {\n use crate::a::A;\n}")];
    assert_eq!(found(&in_tests), Vec::<Vec<String>>::new());
}

fn path(name: &str) -> Module {
    name.split('/').map(str::to_owned).collect()
}

/// Reads all modules below a directory.
fn read(directory: &Path, above: &mut Module, modules: &mut BTreeMap<Module, Said>) {
    let mut files = Vec::new();
    collect(directory, above, &mut files);
    let names: Vec<Module> = files.iter().map(|(name, _)| name.clone()).collect();
    for (name, text) in &files {
        modules.insert(name.clone(), said(name, text, &names));
    }
}

fn collect(directory: &Path, above: &mut Module, files: &mut Vec<(Module, String)>) {
    for entry in fs::read_dir(directory).expect("a crate has sources") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if name == "tests" || name.ends_with("_tests") {
            continue;
        }
        above.push(name);
        if path.is_dir() {
            collect(&path, above, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let is_own = above.last().is_some_and(|name| ["mod", "lib", "main"].contains(&&**name));
            let module = above[..above.len() - usize::from(is_own)].to_vec();
            files.push((module, fs::read_to_string(&path).expect("sources are text")));
        }
        above.pop();
    }
}

/// The paths in the text of a module.
fn said(module: &Module, text: &str, all: &[Module]) -> Said {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let text = lines.collect::<Vec<_>>().join("\n");
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut said = Said::default();
    for statement in text.split(';') {
        let Some(at) = statement
            .rfind("use ")
            .filter(|at| statement[..*at].ends_with(['\n', ' ', '}', '{']) || *at == 0)
        else {
            continue;
        };
        let line = statement[..at].rsplit('\n').next().unwrap_or_default();
        for words in expand(&statement[at + 4..]) {
            let Some(full) = full(module, &words, all) else { continue };
            if line.trim_start().starts_with("pub") {
                said.given_on.insert(full.last().cloned().unwrap_or_default(), full);
            } else {
                said.used.insert(full);
            }
        }
    }
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let rest = &text[at..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
            let is_whole = !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            let words: Vec<_> =
                rest[..end].split("::").filter(|word| !word.is_empty()).map(str::to_owned).collect();
            let is_given_on =
                text[..at].rsplit('\n').next().unwrap_or_default().trim_start().starts_with("pub");
            if is_whole && !is_given_on {
                said.used.extend(full(module, &words, all));
            }
        }
    }
    said
}

/// The paths of a tree of `use`.
fn expand(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some((before, inside)) = tree.split_once('{') else {
        let tree = tree.split(" as ").next().unwrap_or_default();
        return vec![
            tree.split("::").map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect(),
        ];
    };
    let before: Vec<String> =
        before.split("::").map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect();
    let inside = inside.trim_end().strip_suffix('}').unwrap_or(inside);
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inside[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[start..]);
    let all = parts.into_iter().filter(|part| !part.trim().is_empty()).flat_map(expand);
    all.map(|rest| [before.clone(), rest].concat()).collect()
}

/// A path from the crate's root; `None` for one of another crate.
fn full(module: &Module, words: &[String], all: &[Module]) -> Option<Vec<String>> {
    let (first, rest) = words.split_first()?;
    match &**first {
        "crate" => Some(rest.to_vec()),
        "self" => Some([&module[..], rest].concat()),
        "super" => {
            let up = words.iter().take_while(|word| *word == "super").count();
            let base = module.len().checked_sub(up)?;
            Some([&module[..base], &words[up..]].concat())
        }
        name => {
            let child = [&module[..], &[name.to_owned()]].concat();
            all.contains(&child).then(|| [&module[..], words].concat())
        }
    }
}

/// Which modules each one uses.
fn arrows(modules: &BTreeMap<Module, Said>) -> BTreeMap<&Module, BTreeSet<Module>> {
    let apart = |a: &Module, b: &Module| !a.starts_with(b) && !b.starts_with(a);
    let of = |(module, said): (_, &Said)| {
        let used = said.used.iter().filter_map(|path| home(path, modules, 0));
        (module, used.filter(|used| apart(module, used)).collect())
    };
    modules.iter().map(of).collect()
}

/// The module in which the thing at a path is written.
fn home(path: &[String], modules: &BTreeMap<Module, Said>, depth: usize) -> Option<Module> {
    let length = (0..=path.len()).rev().find(|length| modules.contains_key(&path[..*length]))?;
    let module = &path[..length];
    let given_on = path.get(length).and_then(|name| modules[module].given_on.get(name));
    match given_on {
        Some(elsewhere) if depth < 8 && elsewhere[..] != *path => {
            home(&[&elsewhere[..], &path[length + 1..]].concat(), modules, depth + 1)
        }
        _ => Some(module.to_vec()),
    }
}

/// Groups of modules that use each other, each sorted.
fn circles(arrows: &BTreeMap<&Module, BTreeSet<Module>>) -> Vec<Vec<String>> {
    let reach = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut waiting = vec![from.clone()];
        while let Some(module) = waiting.pop() {
            for next in arrows.get(&module).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    waiting.push(next.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> =
        arrows.keys().map(|module| (*module, reach(module))).collect();
    let mut all = BTreeSet::new();
    for (module, seen) in &reached {
        if seen.contains(*module) {
            let together =
                seen.iter().filter(|other| reached.get(other).is_some_and(|back| back.contains(*module)));
            all.insert(together.map(|module| module.join("/")).collect::<Vec<_>>());
        }
    }
    all.into_iter().collect()
}
