//! What the programs are made of: a bill of materials (CycloneDX 1.6, JSON) and the licences, from `cargo metadata`.
//!
//! Only what is linked into the programs counts: normal dependencies for Linux. Checksums are those of Cargo.lock. The C library and
//! what the compiler adds have no crate, so they are named here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use soci_core::digest::Digest;

use super::image::date;
use super::{Arch, Release};
use crate::exec;
use crate::lab::{cargo, workspace};

/// The crates that the programs come from.
const TOPS: [&str; 2] = ["soci-cli", "snapshotter"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// All that the programs contain, by the ids that cargo gives.
pub(super) struct Materials {
    packages: BTreeMap<String, Package>,
    /// What each is made from.
    uses: BTreeMap<String, Vec<String>>,
    /// SHA-256 by name and version.
    sums: BTreeMap<(String, String), String>,
    time: u64,
}

impl Materials {
    /// Asks cargo.
    pub(super) fn read(arch: Arch, time: u64) -> Result<Self> {
        let words = ["metadata", "--format-version", "1", "--locked", "--filter-platform", arch.triple()];
        let metadata: Metadata = serde_json::from_str(&exec::read(&mut cargo(words))?)?;
        let mut known: BTreeMap<_, _> =
            metadata.packages.into_iter().map(|package| (package.id.clone(), package)).collect();
        let normal = |node: Node| {
            let linked =
                node.deps.into_iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind.is_none()));
            (node.id, linked.map(|dep| dep.pkg).collect::<Vec<_>>())
        };
        let edges: BTreeMap<_, _> = metadata.resolve.nodes.into_iter().map(normal).collect();
        let tops =
            known.values().filter(|package| package.source.is_none() && TOPS.contains(&&*package.name));
        let mut next: Vec<String> = tops.map(|package| package.id.clone()).collect();
        ensure!(next.len() == TOPS.len(), "the workspace has {}", TOPS.join(" and "));
        let (mut packages, mut uses) = (BTreeMap::new(), BTreeMap::new());
        while let Some(id) = next.pop() {
            let Some(package) = known.remove(&id) else { continue };
            let used = edges.get(&id).cloned().unwrap_or_default();
            next.extend(used.iter().cloned());
            packages.insert(id.clone(), package);
            uses.insert(id, used);
        }
        let lock = fs::read_to_string(workspace().join("Cargo.lock"))?;
        Ok(Self { packages, uses, sums: sums(&lock), time })
    }

    /// The bill of materials.
    pub(super) fn bill(&self, release: &Release) -> Result<String> {
        let added = added()?;
        let components =
            self.packages.values().map(|package| self.component(package)).chain(added.iter().cloned());
        let components: Vec<Value> = components.collect();
        let tops: Vec<&Package> =
            self.packages.values().filter(|package| TOPS.contains(&&*package.name)).collect();
        let whole = format!("pkg:generic/soci-snapshotter@{}", release.version);
        let added = added.iter().map(|component| component["bom-ref"].clone());
        let parts: Vec<Value> = tops.iter().map(|package| json!(purl(package))).chain(added).collect();
        let mut dependencies = vec![json!({ "ref": whole, "dependsOn": parts })];
        for (id, used) in &self.uses {
            let used: BTreeSet<String> =
                used.iter().filter_map(|id| self.packages.get(id)).map(purl).collect();
            dependencies.push(json!({ "ref": purl(&self.packages[id]), "dependsOn": used }));
        }
        let document = json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {
                "timestamp": date(self.time)?,
                "tools": { "components": [{ "type": "application", "name": "cargo xtask dist" }] },
                "component": {
                    "type": "application",
                    "bom-ref": whole,
                    "name": "soci-snapshotter",
                    "version": release.version,
                    "licenses": [{ "expression": "Apache-2.0" }],
                },
            },
            "components": components,
            "dependencies": dependencies,
        });
        // A number of its own that is the same for the same contents.
        let hex = Digest::of(document.to_string().as_bytes()).hex();
        let serial = format!(
            "urn:uuid:{}-{}-8{}-a{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[13..16],
            &hex[17..20],
            &hex[20..32]
        );
        let mut document = document;
        document["serialNumber"] = json!(serial);
        Ok(format!("{document:#}\n"))
    }

    fn component(&self, package: &Package) -> Value {
        let mut component = json!({
            "type": "library",
            "bom-ref": purl(package),
            "name": package.name,
            "version": package.version,
            "purl": purl(package),
            "scope": "required",
        });
        if let Some(licence) = &package.license {
            component["licenses"] = json!([{ "expression": expression(licence) }]);
        }
        let key = (package.name.clone(), package.version.clone());
        if let Some(sum) = self.sums.get(&key).filter(|_| package.source.is_some()) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        component
    }

    /// Names, licences and the texts that come with the crates, each text once.
    pub(super) fn licences(&self) -> String {
        let mut list = String::from(
            "The programs soci and soci-snapshotter-grpc are licensed under Apache-2.0. They contain:\n\n",
        );
        let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for package in self.packages.values().filter(|package| package.source.is_some()) {
            let name = format!("{} {}", package.name, package.version);
            let licence = package.license.as_deref().map_or("see its text".to_owned(), expression);
            let _ = writeln!(list, "{name}: {licence}"); // a String takes everything
            for text in package.texts() {
                texts.entry(text).or_default().push(name.clone());
            }
        }
        list += "GNU C Library: LGPL-2.1-or-later, linked statically. The sources of the programs and `cargo xtask dist` let you link\n\
            them with another one.\nRust standard library: MIT OR Apache-2.0\nGCC runtime: GPL-3.0-or-later WITH GCC-exception-3.1\n";
        for (text, names) in texts {
            let (line, names) = ("=".repeat(80), names.join(", "));
            let _ = writeln!(list, "\n{line}\n{names}\n\n{}", text.trim_end());
        }
        list
    }
}

impl Package {
    /// The licence files of its sources.
    fn texts(&self) -> Vec<String> {
        let folder = self.manifest_path.parent().map(fs::read_dir);
        let Some(Ok(entries)) = folder else { return Vec::new() };
        let is_licence = |name: &str| {
            let name = name.to_ascii_uppercase();
            ["LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT"].iter().any(|word| name.starts_with(word))
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| {
            path.is_file() && path.file_name().and_then(|name| name.to_str()).is_some_and(is_licence)
        });
        paths.sort();
        paths
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .map(|text| text.replace('\r', ""))
            .collect()
    }
}

/// What the linker adds, without a crate.
fn added() -> Result<Vec<Value>> {
    let libc = exec::read(&mut exec::command(["ldd", "--version"]))?;
    let libc =
        libc.lines().next().and_then(|line| line.split_whitespace().last()).unwrap_or("unknown").to_owned();
    let rustc = exec::read(exec::command(["rustc", "--version"]).current_dir(workspace()))?;
    let rustc = rustc.split_whitespace().nth(1).context("rustc says its version")?.to_owned();
    let part = |name: &str, version: &str, licence: &str| {
        json!({
            "type": "library",
            "bom-ref": format!("pkg:generic/{name}@{version}"),
            "name": name,
            "version": version,
            "purl": format!("pkg:generic/{name}@{version}"),
            "scope": "required",
            "licenses": [{ "expression": licence }],
        })
    };
    Ok(vec![part("glibc", &libc, "LGPL-2.1-or-later"), part("rust-std", &rustc, "MIT OR Apache-2.0")])
}

/// Old crates write a slash for OR.
fn expression(licence: &str) -> String {
    licence.replace(" / ", " OR ").replace('/', " OR ")
}

fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// The checksums of a lock file.
fn sums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        line.and_then(|line| line.strip_suffix('"')).map(str::to_owned)
    };
    let blocks = lock.split("[[package]]").skip(1);
    blocks
        .filter_map(|block| {
            Some(((value(block, "name")?, value(block, "version")?), value(block, "checksum")?))
        })
        .collect()
}
