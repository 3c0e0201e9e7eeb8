//! Entries that no zTOC describes, unpacked by us and by containerd: sparse files of GNU tar's three PAX formats, and global
//! headers. Needs root, containerd and GNU tar.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use harness::containerd::Containerd;
use harness::disk_image;
use soci_core::digest::Digest;
use soci_core::testing::{
    GzipShape, ImageBuilder, LayerFormat as ImageLayerFormat, TarBuilder, TarEntry, TarFormat,
};
use soci_core::unpack::{ApplyOptions, LayerFormat, unpack_layer};

/// A tar of a file with holes, in one of GNU tar's formats.
fn sparse(dir: &Path, name: &str, version: &str) -> Vec<u8> {
    let file = File::create(dir.join(name)).unwrap();
    file.set_len(3 << 20).unwrap();
    for at in [0_u64, 40_960, 2 << 20] {
        file.write_all_at(name.as_bytes(), at).unwrap();
    }
    let output = Command::new("tar")
        .args(["--format=posix", "--sparse", &format!("--sparse-version={version}"), "-cf", "-", "-C"])
        .arg(dir)
        .arg(name)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.len() < 1 << 20, "the holes are left out");
    output.stdout
}

#[test]
fn sparse_files_and_global_headers_are_what_containerd_unpacks() {
    let work = tempfile::tempdir().unwrap();
    let mut tars: Vec<Vec<u8>> =
        ["0.0", "0.1", "1.0"].map(|version| sparse(work.path(), &format!("holes-{version}"), version)).into();
    let mut global = TarBuilder::new(TarFormat::Pax);
    global
        .extension(b'g', b"pax_global_header", b"18 comment=abcdef\n")
        .add(&TarEntry::file("behind", *b"a global header"));
    tars.push(global.finish());

    let ours = work.path().join("ours");
    fs::create_dir(&ours).unwrap();
    for tar in &tars {
        let expected = Some(Digest::of(tar));
        unpack_layer(&tar[..], LayerFormat::Tar, &ours, ApplyOptions::default(), expected).unwrap();
    }

    let containerd = Containerd::plain(work.path());
    let (image, tar) = (work.path().join("image"), work.path().join("image.tar"));
    let gzip = ImageLayerFormat::Gzip(GzipShape::Level(6));
    let layers = tars.iter().fold(ImageBuilder::new(), |image, tar| image.layer(tar, &gzip));
    layers.write(&image, "v1").unwrap();
    disk_image::pack(&image, &tar);
    let to = work.path().join("theirs");
    fs::create_dir(&to).unwrap();
    let (tar, theirs) = (tar.to_str().unwrap(), to.to_str().unwrap());
    containerd.ctr_ok(&[
        "images",
        "import",
        "--snapshotter",
        "native",
        "--base-name",
        "registry.test/k",
        tar,
    ]);
    containerd.ctr_ok(&["images", "mount", "--snapshotter", "native", "registry.test/k:v1", theirs]);
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let (seen, expected) = (names(&ours), names(&to));
    let differing: Vec<_> = seen
        .iter()
        .filter(|name| fs::read(ours.join(name)).unwrap() != fs::read(to.join(name)).unwrap())
        .collect();
    containerd.ctr_ok(&["images", "unmount", theirs]);
    assert_eq!(seen, expected);
    assert_eq!(seen.len(), 4);
    assert!(differing.is_empty(), "{differing:?}");
    for version in ["0.0", "0.1", "1.0"] {
        let name = format!("holes-{version}");
        assert!(fs::read(ours.join(&name)).unwrap() == fs::read(work.path().join(&name)).unwrap(), "{name}");
    }
}
