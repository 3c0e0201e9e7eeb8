//! Logs as strace writes them, line by line.

use soci_core::digest::Digest;
use soci_core::prefetch::{ImageView, LayerFile};
use soci_core::tar::EntryKind;
use soci_core::trace::{Access, AccessKind, LayerRef, TraceReader};
use soci_core::units::ByteRange;

use super::super::{Format, ImageFiles, Imported, Target, import};

fn read(log: &str) -> (Vec<Access>, Imported) {
    let file = |name: &str| LayerFile {
        name: name.to_owned().into(),
        kind: EntryKind::Reg,
        content: ByteRange::new(512, 512 + 100_000),
        link: String::new().into(),
        device: (0, 1),
    };
    let files: Vec<LayerFile> = ["app/main", "app/data", "lib/x.so", "etc/conf"].map(file).into();
    let layer = LayerRef { digest: Digest::of(b"0"), size: 1 };
    let target = Target {
        image: "image".into(),
        manifest: Digest::of(b"m"),
        files: ImageFiles::new(ImageView::build([(0, &files)]), vec![layer]),
        working_dir: "/app".into(),
        now: "2026-01-01T00:00:00Z".into(),
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let done = import(&mut log.as_bytes(), Format::Strace, &target, &path).unwrap();
    (TraceReader::open(&path).unwrap().collect::<Result<_, _>>().unwrap(), done)
}

/// `path offset+length` of each access.
fn rows(log: &str) -> Vec<String> {
    let (accesses, done) = read(log);
    assert_eq!(done.unknown_lines, 0, "{done:?}");
    let row = |a: &Access| format!("{} {}+{}", String::from_utf8_lossy(&a.path), a.offset, a.len);
    accesses.iter().map(row).collect()
}

#[test]
fn positions_move_with_reads_and_seeks_and_are_shared_by_duplicates() {
    let log = r#"
openat(AT_FDCWD, "data", O_RDONLY) = 3
read(3, "..."..., 10) = 10
dup(3) = 4
read(4, ""..., 4096) = 4096
lseek(3, 50000, SEEK_SET) = 50000
read(4, ""..., 8) = 8
pread64(3, ""..., 100, 7) = 100
close(3) = 0
readv(4, [{iov_base="a, (", iov_len=1}, {iov_base="b", iov_len=1}], 2) = 2
fcntl(4, F_DUPFD_CLOEXEC, 10) = 10
dup2(10, 0) = 0
read(0, "", 5) = 0
read(0, 0x7ffe, 5) = -1 EINTR (Interrupted system call)
sendfile(1, 4, NULL, 20) = 20
sendfile(1, 4, [99990] => [100000], 20) = 10
read(4, ""..., 5) = 5
"#;
    let want = [
        "app/data 0+10",
        "app/data 10+4096",
        "app/data 50000+8",
        "app/data 7+100",
        "app/data 50008+2",
        "app/data 50010+20",
        "app/data 99990+10",
        "app/data 50030+5",
    ];
    assert_eq!(rows(log), want);
}

#[test]
fn mappings_and_executed_files_are_needed_as_a_whole() {
    let log = r#"
execve("./main", ["main"], 0x7ff /* 2 vars */) = 0
execve("/app/data", ["x"], 0x7ff /* 2 vars */) = -1 EACCES (Permission denied)
openat(AT_FDCWD, "/lib/x.so", O_RDONLY|O_CLOEXEC) = 3
mmap(NULL, 200000, PROT_READ, MAP_PRIVATE, 3, 0x1000) = 0x7f00
mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f00
mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE, 3, 0) = 0x7f00
execve("/etc/../app/main", ["main"], 0x7ff /* 2 vars */) = 0
read(3, "", 10) = 10
"#;
    assert_eq!(rows(log), ["app/main 0+100000", "lib/x.so 4096+95904", "app/main 0+100000"]);
    let (accesses, _) = read(log);
    let kinds: Vec<AccessKind> = accesses.iter().map(|access| access.kind).collect();
    assert_eq!(kinds, [AccessKind::Exec, AccessKind::Fault, AccessKind::Exec]);
    assert_eq!(&*accesses[1].process.comm, b"main");
}

#[test]
fn forks_copy_and_threads_share_and_calls_go_on_where_they_were_cut() {
    let log = r#"
7 10:00:00.000001 openat(AT_FDCWD, "/app/data", O_RDONLY) = 3 <0.000010>
7 10:00:00.000002 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD <unfinished ...>
8 10:00:00.000003 read(3, ""..., 10) = 10
7 10:00:00.000004 <... clone resumed>, child_tidptr=0x7f) = 8
7 10:00:00.000005 clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD, stack=0x7f}, 88) = 9
9 10:00:00.000006 openat(AT_FDCWD, "/etc/conf", O_RDONLY <unfinished ...>
8 10:00:00.000007 close(3) = 0
8 10:00:00.000008 +++ exited with 0 +++
7 10:00:00.000009 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=8} ---
9 10:00:00.000010 <... openat resumed>) = 4 <0.000004>
7 10:00:00.000011 read(4,  <unfinished ...>
9 10:00:00.000012 read(3, ""..., 5) = 5
7 10:00:00.000013 <... read resumed>"x"..., 30) = 30 <0.000123>
"#;
    assert_eq!(rows(log), ["app/data 0+10", "etc/conf 0+30", "app/data 10+5"]);
    let (accesses, _) = read(log);
    let times: Vec<(u64, u64, u32)> = accesses.iter().map(|a| (a.t_ns, a.wait_ns, a.process.pid)).collect();
    assert_eq!(times, [(2000, 0, 8), (10_000, 123_000, 7), (11_000, 0, 9)]);
}

#[test]
fn without_a_file_of_its_own_strace_names_processes_only_while_there_are_several() {
    let log = r#"
     0.000000 openat(AT_FDCWD, "/app/data", O_RDONLY) = 3
     0.000100 vfork(strace: Process 8 attached
 <unfinished ...>
[pid     8]      0.000200 read(3, ""..., 1) = 1
[pid     7]      0.000300 <... vfork resumed>) = 8
[pid     7]      0.000400 read(3, ""..., 2) = 2
[pid     7]      0.000010 clone(flags=SIGCHLDstrace: Process 9 attached
, child_tidptr=0x7f) = 9
[pid     9]      0.000010 read(3, ""..., 5) = 5
[pid     9]      0.000010 +++ exited with 0 +++
[pid     8]      0.000500 +++ exited with 0 +++
     0.000600 read(3, ""..., 3) = 3
     0.000010 clone(flags=SIGCHLD) = 10
     0.000010 read(3, ""..., 1) = 1
[pid    10]      0.000010 +++ exited with 0 +++
     0.000010 read(3, ""..., 1) = 1
"#;
    let (accesses, done) = read(log);
    assert_eq!(done.unknown_lines, 0);
    assert!(accesses[1..].iter().all(|access| [7, 9].contains(&access.process.pid)));
    let seen: Vec<(u64, u64, u64)> = accesses.iter().map(|a| (a.t_ns, a.offset, a.len)).collect();
    assert_eq!(
        seen,
        [
            (300_000, 0, 1),
            (1_000_000, 1, 2),
            (1_020_000, 3, 5),
            (2_130_000, 8, 3),
            (2_150_000, 11, 1),
            (2_170_000, 12, 1)
        ]
    );
}

#[test]
fn directories_count_and_files_of_the_workload_do_not() {
    let log = r#"
chdir("/lib") = 0
openat(AT_FDCWD, "x.so", O_RDONLY) = 3
read(3, ""..., 1) = 1
openat(AT_FDCWD, "/app", O_RDONLY|O_DIRECTORY) = 5
openat(5, "data", O_RDONLY) = 6
read(6, ""..., 2) = 2
openat(9</etc>, "conf", O_RDONLY) = 7</etc/conf>
read(7</etc/conf>, ""..., 3) = 3
read(8</app/data>, ""..., 4) = 4
openat(AT_FDCWD, "/app/data", O_RDWR|O_CREAT|O_TRUNC, 0666) = 3
read(3, ""..., 5) = 5
openat(AT_FDCWD, "/app/data", O_RDONLY) = 3
read(3, ""..., 6) = 6
"#;
    assert_eq!(rows(log), ["lib/x.so 0+1", "app/data 0+2", "etc/conf 0+3", "app/data 0+4"]);
}

#[test]
fn times_of_day_go_on_after_midnight_and_foreign_lines_are_counted() {
    let log = r#"
23:59:59.900000 openat(AT_FDCWD, "/app/data", O_RDONLY) = 3
hello from the program
00:00:00.100000 read(3, ""..., 1) = 1
"#;
    let (accesses, done) = read(log);
    assert_eq!(accesses[0].t_ns, 200_000_000);
    assert_eq!((done.unknown_lines, done.first_unknown), (1, Some(3)));
}
