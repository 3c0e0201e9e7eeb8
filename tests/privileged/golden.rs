//! The reference image as the overlay of its lazy layers shows it, compared with GNU tar's unpack of it, layer by layer.
//!
//! Needs root, and the reference material in the folder that SOCI_SHARED names. Allowed to differ: the modification time of
//! a directory that an upper layer implies without an entry (an unpack gives it the time of the unpack), and the link count
//! of a file that an upper layer replaced under one of its names (overlayfs shows the count of the lower layer).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::read::MultiGzDecoder;
use harness::image::{LayerSource, publish};
use harness::node::{TestMount, TestNode};
use harness::registry::TestRegistry;
use harness::tree::{self, listing};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;
use snapshotter::layer::MountOptions;
use soci_core::digest::Digest;

fn gnu_tar(arguments: &[&str], to: &Path, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("tar")
        .args(arguments)
        .arg("-C")
        .arg(to)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success());
    output.stdout
}

/// What a runtime does with a layer: deletions first, then the entries; the markers go.
fn apply(tar: &[u8], to: &Path) {
    let names = String::from_utf8(gnu_tar(&["--list", "--quoting-style=literal"], to, tar)).unwrap();
    let markers: Vec<PathBuf> =
        names.lines().filter(|name| name.contains(".wh.")).map(PathBuf::from).collect();
    for marker in &markers {
        let parent = to.join(marker.parent().unwrap());
        match marker.file_name().unwrap().to_str().unwrap() {
            ".wh..wh..opq" if parent.exists() => {
                fs::remove_dir_all(&parent).unwrap();
                fs::create_dir(&parent).unwrap();
            }
            name => {
                let hidden = parent.join(name.strip_prefix(".wh.").unwrap());
                match fs::symlink_metadata(&hidden) {
                    Ok(meta) if meta.is_dir() => fs::remove_dir_all(hidden).unwrap(),
                    Ok(_) => fs::remove_file(hidden).unwrap(),
                    Err(_) => {}
                }
            }
        }
    }
    let unpack = [
        "--extract",
        "--delay-directory-restore",
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
        "--same-owner",
        "-p",
    ];
    gnu_tar(&unpack, to, tar);
    for marker in markers {
        let parent = to.join(marker.parent().unwrap());
        let time = fs::metadata(&parent).unwrap().modified().unwrap();
        fs::remove_file(to.join(&marker)).unwrap();
        File::open(parent).unwrap().set_modified(time).unwrap();
    }
}

#[test]
fn the_reference_image_is_what_gnu_tar_unpacks() {
    let shared =
        std::env::var_os("SOCI_SHARED").expect("SOCI_SHARED names the folder of the reference material");
    let layout = Path::new(&shared).join("golden/image-small");
    let blob = |digest: &Value| {
        fs::read(layout.join("blobs/sha256").join(digest.as_str().unwrap().strip_prefix("sha256:").unwrap()))
            .unwrap()
    };
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0]["digest"])).unwrap();
    let work = tempfile::tempdir().unwrap();
    let unpacked = work.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let mut sources = Vec::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let gzip = blob(&layer["digest"]);
        let mut tar = Vec::new();
        MultiGzDecoder::new(gzip.as_slice()).read_to_end(&mut tar).unwrap();
        apply(&tar, &unpacked);
        sources.push(LayerSource { gzip, diff_id: Some(Digest::of(&tar)), ..LayerSource::default() });
    }
    let registry = TestRegistry::start();
    let image = publish(&registry, "golden", &sources, 1 << 20);
    let node = TestNode::new(&work.path().join("root"), |_| {});
    let mounts: Vec<_> = (0..sources.len())
        .map(|at| {
            let mountpoint = work.path().join(format!("layer{at}"));
            fs::create_dir(&mountpoint).unwrap();
            TestMount::new(&node.layer(&image, at), &mountpoint, &MountOptions::default()).unwrap()
        })
        .collect();
    let merged = work.path().join("merged");
    fs::create_dir(&merged).unwrap();
    let lower: Vec<_> = mounts.iter().rev().map(|mount| mount.mountpoint().to_str().unwrap()).collect();
    let options = std::ffi::CString::new(format!("lowerdir={}", lower.join(":"))).unwrap();
    mount("overlay", &merged, "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
    let (want, got) = (listing(&unpacked), listing(&merged));
    unmount(&merged, UnmountFlags::empty()).unwrap();
    let mut differences = tree::differences(&want, &got);
    differences.retain(|line| {
        let name = Path::new(line.split(':').next().unwrap());
        let allowed = want.get(name).zip(got.get(name)).is_some_and(|(want, got)| {
            name.starts_with("app") && want.same_but_links(got)
                || name == Path::new("data") && want.same_but_time(got)
        });
        !(allowed || name == Path::new(""))
    });
    assert!(want.len() > 100 && differences.is_empty(), "{}", differences.join("\n"));
}
