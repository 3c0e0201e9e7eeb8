//! Why eBPF cannot be used: each reason is provoked, and said with what to do.
//!
//! Needs root and a kernel with its type information. Another kernel is played by a file bound over that information,
//! in a mount namespace of the recorder alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use harness::access::{AccessImage, complete};
use harness::daemon::program;
use recorder::capture::{Ebpf, EbpfError, Settings};
use recorder::workload::Cgroup;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use soci_core::trace::AccessKind;

const TYPES: &str = "/sys/kernel/btf/vmlinux";

fn image() -> &'static AccessImage {
    static IMAGE: OnceLock<AccessImage> = OnceLock::new();
    IMAGE.get_or_init(|| {
        AccessImage::new(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(module_path!().replace("::", "-")))
    })
}

/// `soci` after a script, in a mount namespace of its own.
fn after(script: &str, file: &Path) -> Command {
    let mut command = Command::new("unshare");
    let script = format!(r#"{script} && shift && exec "$@""#);
    command.args(["--mount", "--", "sh", "-c", &script, "sh"]).arg(file).arg(program("soci"));
    command
}

/// The kernel's own type information with another word in it, of the same length.
fn kernel_without(word: &str) -> (tempfile::TempDir, PathBuf) {
    let mut types = fs::read(TYPES).unwrap();
    let word = [word.as_bytes(), b"\0"].concat();
    let at = types.windows(word.len()).position(|window| window == word).expect("this kernel has it");
    types[at + word.len() - 2] = b'_';
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vmlinux");
    fs::write(&file, types).unwrap();
    (dir, file)
}

const BIND: &str = r#"mount --bind "$1" /sys/kernel/btf/vmlinux"#;

fn refused(command: Command, flags: &[&str], said: &str) {
    let refused =
        image().record_by(command, &[&["--engine", "ebpf"], flags].concat(), &["access", "nothing"]);
    assert_eq!(refused.code(), Some(1), "{}", refused.stderr());
    assert!(refused.stderr().contains(said), "{}", refused.stderr());
}

#[test]
fn a_kernel_without_a_tracepoint_or_a_member_is_named() {
    let (_dir, file) = kernel_without("btf_trace_mm_filemap_fault");
    refused(after(BIND, &file), &[], "this kernel has no tracepoint mm_filemap_fault");
    let (_dir, file) = kernel_without("i_nlink");
    refused(after(BIND, &file), &[], "this kernel has no member i_nlink in struct inode");
    let (_dir, file) = kernel_without("i_blkbits");
    let fine = image().record_by(after(BIND, &file), &["--engine", "ebpf"], &["access", "nothing"]);
    complete(&fine); // nobody needs that one
}

#[test]
fn a_kernel_that_hides_its_overlays_records_all_the_same() {
    let (_dir, file) = kernel_without("__upperdentry");
    let recording =
        image().record_by(after(BIND, &file), &["--exact"], &["access", "exec", "pread", "direct", "opened"]);
    let accesses = complete(&recording);
    for path in [&b"data/direct"[..], b"data/pread", b"data/opened"] {
        assert!(accesses.iter().any(|access| &*access.path == path), "{accesses:?}");
    }
    let executed = |path: &[u8]| accesses.iter().any(|a| &*a.path == path && a.kind == AccessKind::Exec);
    assert!(executed(b"data/exec") && executed(b"bin/access"), "{accesses:?}");
}

#[test]
fn a_kernel_without_type_information_is_named() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    let said = "understand /sys/kernel/btf/vmlinux: it should be the kernel's type information (BTF)";
    refused(after(BIND, empty.path()), &[], said);
    let nothing = "mount -t tmpfs nothing /sys/kernel/btf";
    refused(after(nothing, empty.path()), &[], "the kernel must be built with CONFIG_DEBUG_INFO_BTF");
    let auto = image().record_by(after(nothing, empty.path()), &[], &["access", "pread"]);
    complete(&auto);
    assert!(auto.stderr().contains("engine:      fuse, because eBPF cannot be used"), "{}", auto.stderr());
}

/// Attaches with these settings in a thread that does not have some capabilities.
fn attach_without(missing: CapabilitySet, settings: Settings) -> Result<(), EbpfError> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [layer, mountpoint] = ["layer", "cgroup"].map(|name| dir.path().join(name));
    fs::create_dir(&layer).unwrap();
    fs::create_dir(&mountpoint).unwrap();
    let cgroup = Cgroup::new(&mountpoint).unwrap();
    thread::scope(|scope| {
        let attach = || {
            let mut sets = capabilities(None).unwrap();
            sets.effective -= missing;
            set_capabilities(None, sets).unwrap();
            Ebpf::attach(&cgroup, std::slice::from_ref(&layer), &layer, dir.path(), &settings).map(drop)
        };
        scope.spawn(attach).join().unwrap()
    })
}

#[test]
fn a_missing_capability_is_named() {
    let (admin, bpf, perfmon) = (CapabilitySet::SYS_ADMIN, CapabilitySet::BPF, CapabilitySet::PERFMON);
    attach_without(CapabilitySet::empty(), Settings::default()).unwrap();
    attach_without(admin, Settings::default()).unwrap(); // the two small ones are enough
    for missing in [admin | bpf | perfmon, admin | perfmon, admin | bpf] {
        let error = attach_without(missing, Settings::default()).unwrap_err();
        println!("without {missing:?}: {error}");
        assert!(error.to_string().contains("CAP_BPF and CAP_PERFMON are needed"), "{missing:?}: {error:?}");
    }
}

#[test]
fn what_the_verifier_says_is_shown() {
    // Programs that never end: each `exit` becomes `r0 = r10`.
    let mut object = Settings::default().object.to_vec();
    for instruction in object.as_chunks_mut::<8>().0 {
        if *instruction == [0x95, 0, 0, 0, 0, 0, 0, 0] {
            *instruction = [0xbf, 0xa0, 0, 0, 0, 0, 0, 0];
        }
    }
    let settings = Settings { object: object.leak(), ..Settings::default() };
    let error = attach_without(CapabilitySet::empty(), settings).unwrap_err();
    println!("{error}");
    assert!(matches!(&error, EbpfError::Verifier { log, .. } if !log.is_empty()), "{error:?}");
    assert!(error.to_string().contains("the verifier refuses the program"), "{error}");
}

/// The kernel's own type information, but with one member of a structure at the place of another.
fn kernel_with_member_at(member: &str, other: &str) -> (tempfile::TempDir, PathBuf) {
    let mut types = fs::read(TYPES).unwrap();
    let word = |at: usize, types: &[u8]| u32::from_ne_bytes(types[at..at + 4].try_into().unwrap());
    let header = word(4, &types) as usize;
    let (from, length) = (header + word(8, &types) as usize, word(12, &types) as usize);
    let strings = header + word(16, &types) as usize;
    let name = |text: &str| {
        let text = [b"\0", text.as_bytes(), b"\0"].concat();
        (types[strings..].windows(text.len()).position(|window| window == text).unwrap() + 1) as u32
    };
    let (member, other) = (name(member), name(other));
    let places: Vec<usize> = (from..from + length).step_by(4).collect();
    let offset = |wanted: u32| places.iter().copied().find(|&at| word(at, &types) == wanted).unwrap() + 8;
    let (to, what) = (offset(member), word(offset(other), &types));
    types[to..to + 4].copy_from_slice(&what.to_ne_bytes());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vmlinux");
    fs::write(&file, types).unwrap();
    (dir, file)
}

#[test]
fn a_member_that_is_not_where_it_should_be_is_refused_by_the_verifier() {
    // A file system is looked for where the inode's number is.
    let (_dir, file) = kernel_with_member_at("i_sb", "i_ino");
    refused(after(BIND, &file), &[], "the verifier refuses the program get_pages");
}

#[test]
fn an_inode_that_cannot_be_read_is_counted_and_told_to_who_listens() {
    // Where an overlay keeps its upper file, it is looked for in the midst of the inode.
    let (_dir, file) = kernel_with_member_at("__upperdentry", "i_ino");
    let words = ["access", "pread"];
    let quiet = image().record_by(after(BIND, &file), &["--engine", "ebpf"], &words);
    complete(&quiet); // pages have their file all the same
    assert!(quiet.stderr().contains("of unknown files"), "{}", quiet.stderr());
    assert!(!quiet.stderr().contains("could not be read"), "{}", quiet.stderr());
    let listening = image().record_by(after(BIND, &file), &["--engine", "ebpf", "--debug"], &words);
    complete(&listening);
    assert!(listening.stderr().contains("an inode could not be read"), "{}", listening.stderr());
}
