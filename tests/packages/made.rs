//! What `cargo xtask dist` has made for these tests: `SOCI_DIST` names a folder with one for each time it ran.

use std::fs;
use std::path::{Path, PathBuf};

/// Revision 1.
pub(crate) const FIRST: &str = "1";
/// Revision 2, of the same programs.
pub(crate) const SECOND: &str = "2";
/// Revision 1 once more.
pub(crate) const AGAIN: &str = "again";

/// The folder of one run.
pub(crate) fn folder(run: &str) -> PathBuf {
    let all =
        std::env::var_os("SOCI_DIST").expect("SOCI_DIST is set: run `cargo xtask test --tier packages`");
    Path::new(&all).join(run)
}

/// The only file of a run whose name begins and ends so.
pub(crate) fn file(run: &str, begin: &str, end: &str) -> PathBuf {
    let folder = folder(run);
    let names = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found: Vec<_> = names.filter(|name| name.starts_with(begin) && name.ends_with(end)).collect();
    assert_eq!(found.len(), 1, "{begin}*{end} in {}: {found:?}", folder.display());
    folder.join(&found[0])
}

/// The Debian package of this machine's architecture.
pub(crate) fn deb(run: &str) -> PathBuf {
    file(run, "soci-snapshotter_", &format!("_{}.deb", arch()))
}

/// This machine's architecture, as Debian calls it.
pub(crate) fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// Unpacks the image's layers for `arch` below `to`: what a container of it sees.
pub(crate) fn unpack_image(run: &str, arch: &str, to: &Path) {
    let archive = file(run, "soci-snapshotter-image-", ".oci.tar");
    let layout = tempfile::tempdir().unwrap();
    tar(&["--extract", "--file"], &archive, layout.path());
    let blob = |digest: &serde_json::Value| {
        layout.path().join("blobs").join(digest.as_str().unwrap().replacen(':', "/", 1))
    };
    let json = |path: PathBuf| serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap();
    let top = json(layout.path().join("index.json"));
    let index = json(blob(&top["manifests"][0]["digest"]));
    let manifests = index["manifests"].as_array().unwrap();
    let ours = manifests.iter().find(|manifest| manifest["platform"]["architecture"] == arch);
    let manifest = json(blob(&ours.expect("the image is for this machine, too")["digest"]));
    let config = json(blob(&manifest["config"]["digest"]));
    assert_eq!((&config["architecture"], &config["os"]), (&arch.into(), &"linux".into()));
    for layer in manifest["layers"].as_array().unwrap() {
        tar(&["--extract", "--gzip", "--file"], &blob(&layer["digest"]), to);
    }
}

/// GNU tar below a folder, as a runtime would: with owners and modes.
pub(crate) fn tar(words: &[&str], archive: &Path, to: &Path) {
    let mut tar = std::process::Command::new("tar");
    tar.args(words).arg(archive).arg("--directory").arg(to).args(["--same-owner", "--same-permissions"]);
    assert!(tar.status().unwrap().success(), "{} can be unpacked", archive.display());
}
