//! Who may read a file is decided alike by an unpacked layer, by FUSE, by an EROFS image and under `soci record`: a POSIX ACL
//! in the layer (`SCHILY.xattr.system.posix_acl_access`, as containerd unpacks it) gives user 1001 what user 1002 does not get.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::daemon::program;
use harness::image::{LayerSource, Published, TarWriter, publish};
use harness::layout;
use harness::node::{TestMount, TestNode};
use harness::registry::TestRegistry;
use harness::way::Way;
use snapshotter::layer::MountOptions;

const FILE: &str = "secret";
/// Has the same ACL, and a mode that leaves nothing of it.
const SHUT: &str = "shut";
const CONTENT: &[u8] = b"for 1001\n";

/// `user::rw-, user:1001:r--, group::---, mask::r--, other::---`, as the kernel keeps it.
fn acl() -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(0x01u16, 6u16, NOBODY), (0x02, 4, 1001), (0x04, 0, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY)]
    {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// One PAX record, which names its own length.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3; // a blank, =, and the end of the line
    let length = (rest..rest + 20).find(|length| *length == rest + length.to_string().len()).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// One entry with a mode.
fn entry(name: &str, kind: u8, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut tar = TarWriter::default().entry(name, kind, "", content).finish();
    tar.truncate(512 + content.len().next_multiple_of(512));
    tar[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar
}

/// The program `do`, and the file: its mode's group bits are those of the mask.
fn layer(dir: &Path) -> Vec<u8> {
    layout::compile_workload(&dir.join("do"));
    let program = fs::read(dir.join("do")).unwrap();
    let attributes = record("SCHILY.xattr.system.posix_acl_access", &acl());
    let mut tar = entry("bin/", b'5', 0o755, b"");
    tar.extend(entry("bin/do", b'0', 0o755, &program));
    tar.extend(entry("x", b'x', 0o644, &attributes));
    tar.extend(entry(FILE, b'0', 0o640, CONTENT));
    // The mode takes from the mask what the ACL gives.
    tar.extend(entry("x", b'x', 0o644, &attributes));
    tar.extend(entry(SHUT, b'0', 0o610, CONTENT));
    tar.resize(tar.len() + 1024, 0);
    tar
}

struct Lab {
    dir: tempfile::TempDir,
    registry: TestRegistry,
    image: Published,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let registry = TestRegistry::start();
        let image = publish(&registry, "acl", &[LayerSource::of_tar(&layer(dir.path()))], 64 << 10);
        Self { dir, registry, image }
    }
}

/// Whether a user reads the file.
fn reads(user: u32, file: &Path) -> bool {
    let id = user.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "cat"]).arg(file);
    let output = command.stderr(Stdio::null()).output().unwrap();
    assert!(!output.status.success() || output.stdout == CONTENT);
    output.status.success()
}

#[track_caller]
fn decides(file: &Path) {
    assert_eq!([0, 1001, 1002].map(|user| reads(user, file)), [true, true, false], "{}", file.display());
    let mut value = [0; 128];
    let length = rustix::fs::lgetxattr(file, "system.posix_acl_access", &mut value[..]).unwrap();
    assert_eq!(value[..length], acl(), "{}", file.display());
}

fn a_mounted_layer_decides_by_its_acls(way: Way) {
    let lab = Lab::new();
    let node = TestNode::new(&lab.dir.path().join("node"), |options| way.ask(options));
    let mountpoint = lab.dir.path().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let mounted = TestMount::new(&node.layer(&lab.image, 0), &mountpoint, &MountOptions::default()).unwrap();
    way.check(&mountpoint);
    decides(&mountpoint.join(FILE));
    assert_eq!(
        [0, 1001].map(|user| reads(user, &mountpoint.join(SHUT))),
        [true, false],
        "as chmod(2) leaves it"
    );
    drop(mounted);
    drop(lab.registry);
}

harness::both_ways!(a_mounted_layer_decides_by_its_acls);

/// Records `do read /secret` as a user; whether it could.
fn records(lab: &Lab, engine: &str, user: u32) -> bool {
    let mut command = Command::new(program("soci"));
    command.args(["record", "--image", &lab.image.reference, "--engine", engine, "--until", "exit"]);
    command.args(["--user", &format!("{user}:{user}"), "--name", &format!("{engine}-{user}")]);
    command.arg("--state").arg(lab.dir.path().join("state")).arg("--out").arg(lab.dir.path());
    let output = command.args(["--", "/bin/do", "read", "/secret", "0", "9"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || said.contains("/secret: Permission denied"),
        "{engine} {user}: {said}"
    );
    output.status.success()
}

/// Runs `do read /secret` as a user with layers that come in one way; whether it could.
fn runs(lab: &Lab, mode: &str, user: u32) -> bool {
    let mut command = Command::new(program("soci"));
    command.args(["run", "--mode", mode, "--user", &format!("{user}:{user}"), "--snapshotter-bin"]);
    command.arg(program("soci-snapshotter-grpc")).arg(&lab.image.reference);
    let output = command.args(["--", "/bin/do", "read", "/secret", "0", "9"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("/secret: Permission denied"), "{mode} {user}: {said}");
    output.status.success()
}

#[test]
fn a_workload_that_is_run_is_decided_by_acls() {
    let lab = Lab::new();
    for mode in ["full", "lazy"] {
        let could = [1001, 1002].map(|user| runs(&lab, mode, user));
        assert_eq!(could, [true, false], "{mode}");
    }
}

/// The one of that name below a directory.
fn find(dir: &Path) -> Option<PathBuf> {
    let mut found = None;
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_name() == FILE {
            return Some(entry.path());
        }
        if entry.file_type().unwrap().is_dir() {
            found = found.or(find(&entry.path()));
        }
    }
    found
}

#[test]
fn an_unpacked_layer_and_recordings_decide_by_acls() {
    let lab = Lab::new();
    for engine in ["ebpf", "fuse"] {
        let could = [1001, 1002].map(|user| records(&lab, engine, user));
        assert_eq!(could, [true, false], "{engine}");
    }
    // What the recorder has unpacked is closed to others by the directories above it.
    let unpacked = find(&lab.dir.path().join("state")).unwrap();
    let mut above = unpacked.parent().unwrap();
    while above != lab.dir.path() {
        fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
        above = above.parent().unwrap();
    }
    decides(&unpacked);
}
