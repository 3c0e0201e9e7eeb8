//! The planner's resolution against the kernel's. Every path of a merged mount, and many that are not there, are opened as a process
//! in the image's root would open them, through all links; the bytes there must be those that our answer names in a layer's tar.
//!
//! Our answer is pure ([`ImageView::find`]); all that plans, prefetch artifacts and packs take of an image goes through it.
//! `SOCI_RESOLVED` says how many stacks (2048), `SOCI_STACKS_FROM` the first seed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use soci_core::prefetch::{ImageView, NotLocated};
use soci_core::tree::{clean, split};

use super::stacks::{PARTS, Stack, entries};
use super::ways::{self, Merged};
use super::{number, report, tars};

/// Stacks in one image.
const BATCH: u64 = 256;

/// What a path leads to: the file's own path and its bytes, or why there are none.
type Answer = Result<(Vec<u8>, Vec<u8>), NotLocated>;

/// A mounted image, as a process has it for its root.
struct Root {
    directory: OwnedFd,
    path: PathBuf,
}

impl Root {
    fn of(merged: &Merged) -> Self {
        let directory = File::open(&merged.0).unwrap().into();
        Self { directory, path: fs::canonicalize(&merged.0).unwrap() }
    }

    fn answer(&self, path: &[u8]) -> Answer {
        let open = || {
            openat2(
                &self.directory,
                path,
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT,
            )
        };
        // While anything on the machine is renamed or mounted, the kernel cannot say that `..` stays inside.
        let opened = std::iter::repeat_with(open).find(|opened| !matches!(opened, Err(Errno::AGAIN)));
        let file = match opened.unwrap() {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Err(NotLocated::Missing),
            Err(Errno::LOOP) => return Err(NotLocated::Loop),
            Err(error) => panic!("{}: {error}", String::from_utf8_lossy(path)),
        };
        if FileType::from_raw_mode(fstat(&file).unwrap().st_mode) != FileType::RegularFile {
            return Err(NotLocated::NotRegular);
        }
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let own = fs::read_link(&link).unwrap();
        let own = own.strip_prefix(&self.path).unwrap().as_os_str().as_bytes().to_vec();
        Ok((own, fs::read(&link).unwrap()))
    }
}

/// Paths below a directory, which is one of them; links are not followed.
fn walk(root: &Path, path: &Path, found: &mut BTreeSet<Vec<u8>>) {
    found.insert(path.as_os_str().as_bytes().to_vec());
    let whole = root.join(path);
    if fs::symlink_metadata(&whole).is_ok_and(|metadata| metadata.is_dir()) {
        for entry in fs::read_dir(&whole).unwrap() {
            walk(root, &path.join(entry.unwrap().file_name()), found);
        }
    }
}

/// What is asked for: all that is there, all that any layer names, and what lies beside, below and behind.
fn questions(stack: &Stack, root: &Path) -> BTreeSet<Vec<u8>> {
    let mut there = BTreeSet::new();
    if root.join(&stack.home).exists() {
        walk(root, Path::new(&stack.home), &mut there);
    }
    for entry in stack.layers.iter().flat_map(|layer| entries(layer)) {
        let path = clean(&entry.name);
        let (above, name) = split(&path);
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            there.insert([above, b"/", hidden].concat());
        }
        there.insert(path);
    }
    let mut all = there.clone();
    for (at, path) in there.iter().enumerate() {
        all.extend([&b"/"[..], b"/..", b"/no"].map(|behind| [path, behind].concat()));
        all.extend([at, at + 3].map(|part| [path, &b"/"[..], PARTS[part % PARTS.len()]].concat()));
        let before: [&[u8]; 4] = [b"/", b"./", b"../", b"no/../"];
        all.insert([before[at % 4], path].concat());
        all.insert([split(path).0, b"//./../", path].concat());
    }
    all.retain(|path| !path.is_empty());
    all
}

/// How our answer is not the kernel's.
fn differences(
    stacks: &[Stack],
    view: &ImageView,
    tars: &[Vec<u8>],
    merged: &Merged,
    asked: &mut [usize; 2],
) -> Vec<(&'static str, PathBuf, String)> {
    let root = Root::of(merged);
    let mut found = Vec::new();
    for stack in stacks {
        for path in questions(stack, &merged.0) {
            let theirs = root.answer(&path);
            let ours = ways::resolved(view, tars, &path).map(|(own, bytes)| (own, bytes.to_vec()));
            asked[usize::from(theirs.is_ok())] += 1;
            if ours != theirs {
                let text = |answer: Answer| match answer {
                    Ok((own, bytes)) => {
                        let start = &bytes[..bytes.len().min(24)];
                        format!("{} {:?}…", own.escape_ascii(), String::from_utf8_lossy(start))
                    }
                    Err(error) => error.to_string(),
                };
                let text =
                    format!("{}: {}\n    the kernel: {}", path.escape_ascii(), text(ours), text(theirs));
                found.push(("resolve", PathBuf::from(&stack.home), text));
            }
        }
    }
    found
}

fn stack(seed: u64) -> Stack {
    Stack::of(seed).distinct(seed.is_multiple_of(4))
}

#[test]
fn every_path_leads_to_the_bytes_that_the_kernel_shows() {
    let (count, from) = (number("SOCI_RESOLVED", 2048), number("SOCI_STACKS_FROM", 1));
    let work = tempfile::tempdir().unwrap();
    let _memory = ways::in_memory(work.path());
    let mut asked = [0; 2];
    for first in (from..from + count).step_by(BATCH as usize) {
        let stacks: Vec<_> = (first..(first + BATCH).min(from + count)).map(stack).collect();
        let batch = tempfile::tempdir_in(work.path()).unwrap();
        let tars = tars(&stacks);
        let merged = Merged::of(&ways::unpacked(&tars, batch.path()), batch.path());
        report(&stacks, &differences(&stacks, &ways::view(&tars), &tars, &merged, &mut asked));
    }
    let [not_there, there] = asked;
    println!("{count} stacks: {there} paths with content or none, {not_there} that are no files");
    assert!(there as u64 > 4 * count && not_there as u64 > 4 * count, "hardly anything was asked: {asked:?}");
}

/// A test of the test: an answer that leaves one rule out is found.
#[test]
fn an_answer_by_a_wrong_rule_is_found() {
    let stacks: Vec<_> = (1..64).map(stack).collect();
    let work = tempfile::tempdir().unwrap();
    let _memory = ways::in_memory(work.path());
    let right = tars(&stacks);
    let merged = Merged::of(&ways::unpacked(&right, work.path()), work.path());
    assert!(differences(&stacks, &ways::view(&right), &right, &merged, &mut [0; 2]).is_empty());
    let mut reversed = right.clone();
    reversed.reverse();
    let mut without_whiteouts = stacks.clone();
    for layer in without_whiteouts.iter_mut().flat_map(|stack| &mut stack.layers) {
        layer.retain(|entry| !split(&clean(&entry.name)).1.starts_with(b".wh."));
    }
    let mut without_links = stacks.clone();
    for layer in without_links.iter_mut().flat_map(|stack| &mut stack.layers) {
        layer.retain(|entry| entry.link_name.is_empty());
    }
    for wrong in [reversed, tars(&without_whiteouts), tars(&without_links)] {
        let found = differences(&stacks, &ways::view(&wrong), &wrong, &merged, &mut [0; 2]);
        assert!(found.len() > 20, "{found:?}");
    }
}
