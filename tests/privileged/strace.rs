//! `soci trace import --format strace` on what a real strace prints about programs that read known bytes.

use std::path::Path;
use std::process::Command;

use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::soci::Soci;
use soci_core::media_type::OCI_LAYER_GZIP;
use soci_core::trace::{Access, TraceReader};

/// An image that holds three files at the paths that they have on this machine, and a log of strace's `words`.
fn traced(options: &[&str], own_file: bool, words: &[&str]) -> (Soci, Vec<Access>) {
    let soci = Soci::new();
    let content = |seed| half_random(100_000, seed);
    let mut tar = TarWriter::default();
    for (seed, name) in ["a", "b", "c ü"].into_iter().enumerate() {
        let path = soci.dir().join(name);
        std::fs::write(&path, content(seed as u64)).unwrap();
        tar.file(path.strip_prefix("/").unwrap().to_str().unwrap(), &content(seed as u64));
    }
    disk_image::write(&soci.dir().join("image"), "v1", &[(OCI_LAYER_GZIP, gzip(&tar.finish(), 6))]);
    let mut command = Command::new("strace");
    command.current_dir(soci.dir()).arg("-f").args(options);
    if own_file {
        command.args(["-o", "log"]);
    }
    let output = command.args(words).output().expect("strace can be started: install it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    if !own_file {
        std::fs::write(soci.dir().join("log"), output.stderr).unwrap();
    }
    let outcome =
        soci.run(["trace", "import", "-f", "strace", "--image", "oci:image", "-o", "t.trace", "log"]);
    assert!(!outcome.stderr.contains("not understood"), "{}", outcome.stderr);
    outcome.ok();
    let trace = TraceReader::open(&soci.dir().join("t.trace")).unwrap();
    let accesses = trace.collect::<Result<Vec<_>, _>>().unwrap();
    (soci, accesses)
}

/// (name, offset, length) of each access.
fn rows(dir: &Path, accesses: &[Access]) -> Vec<(String, u64, u64)> {
    let name = |path: &[u8]| {
        let path = format!("/{}", String::from_utf8_lossy(path));
        path.strip_prefix(&format!("{}/", dir.display())).unwrap().to_owned()
    };
    accesses.iter().map(|a| (name(&a.path), a.offset, a.len)).collect()
}

/// Every way to print a log gives the same reads of `cat`, from the first byte to the last, in order.
#[test]
fn cat_reads_whole_files_in_all_forms_of_the_log() {
    for (options, own_file) in [
        (&["-tt"][..], true),
        (&["-ttt", "-T", "-y"], true),
        (&["-r"], false),
        (&["-xx", "-ttt"], false),
        (&["-t", "-yy", "-v"], false),
        (&[], true),
    ] {
        let script = "D=$PWD; cat \"$D/a\" \"$D/c ü\" >/dev/null; (cat \"$D/b\"; true) | cat >/dev/null";
        let (soci, accesses) = traced(options, own_file, &["sh", "-c", script]);
        let rows = rows(soci.dir(), &accesses);
        let mut names: Vec<&str> = rows.iter().map(|(name, ..)| name.as_str()).collect();
        names.dedup();
        assert_eq!(names, ["a", "c ü", "b"], "{options:?}");
        for name in names {
            let mut at = 0;
            for (_, offset, len) in rows.iter().filter(|row| row.0 == name) {
                assert_eq!(*offset, at, "{options:?}");
                at += len;
            }
            assert_eq!(at, 100_000, "{options:?} {name}");
        }
        let times: Vec<u64> = accesses.iter().map(|access| access.t_ns).collect();
        assert!(times.is_sorted());
        assert_eq!(accesses.iter().any(|access| access.wait_ns > 0), options.contains(&"-T"));
        assert!(
            accesses
                .iter()
                .all(|access| &*access.process.comm == b"cat" && access.process.pid > 0 || !own_file)
        );
    }
}

#[test]
fn a_program_with_threads_forks_and_mappings_is_followed() {
    let program = r"
import mmap, os, threading
d = os.getcwd()
a = os.open(d + '/a', os.O_RDONLY)
os.pread(a, 1000, 5000)
os.lseek(a, 70000, os.SEEK_SET)
twin = os.dup(a)
os.read(twin, 10)
os.read(a, 20)
thread = threading.Thread(target=lambda: os.read(a, 30))
thread.start(); thread.join()
if os.fork() == 0:
    os.read(twin, 40)
    os._exit(0)
os.wait()
os.read(a, 50)
b = os.open(d + '/b', os.O_RDONLY)
mmap.mmap(b, 8192, access=mmap.ACCESS_READ, offset=16384)
os.chdir(d + '/..')
c = os.open(os.path.basename(d) + '/c ü', os.O_RDONLY)
os.read(c, 60)
w = os.open(d + '/b', os.O_RDWR | os.O_TRUNC)
os.read(w, 70)
";
    for options in [&["-tt"][..], &["-ttt", "-y"]] {
        let (soci, accesses) = traced(options, true, &["python3", "-c", program]);
        let want = [
            ("a", 5000, 1000),
            ("a", 70000, 10),
            ("a", 70010, 20),
            ("a", 70030, 30),
            ("a", 70060, 40),
            ("a", 70100, 50),
            ("b", 16384, 8192),
            ("c ü", 0, 60),
        ];
        let want = want.map(|(name, offset, len)| (name.to_owned(), offset, len));
        assert_eq!(rows(soci.dir(), &accesses), want, "{options:?}");
    }
}
