//! containerds of Debian's releases: the installed one, and newer ones of later suites, which are fetched by apt, unpacked below the
//! target folder and started from there. Nothing is installed, and no list of the machine's apt is changed.
//!
//! apt checks what it fetches against Debian's keys; the archive is the one that the machine's apt is set up with. What was fetched is
//! used for a week. With `SOCI_DEBIAN_OFFLINE=1` whatever is there is used, however old it is; what is not there is an error.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// How long what was fetched is new enough.
const FRESH: Duration = Duration::from_hours(7 * 24);
/// Debian's keys: those of one release also sign the suites after it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Written last, with the path of the tree, which runc has in it: what is beside it is whole, and where it was made.
const STAMP: &str = "fetched";

/// A containerd and what it needs.
#[derive(Debug, Clone)]
pub struct Release {
    /// Where it was unpacked; `None`: it is installed.
    tree: Option<PathBuf>,
    version: (u64, u64),
}

impl Release {
    /// The installed one.
    ///
    /// # Panics
    /// When there is none.
    pub fn installed() -> Self {
        Self::at(None)
    }

    /// That of a later suite of Debian.
    ///
    /// # Panics
    /// When it is not there and cannot be fetched, with what to do.
    pub fn of(suite: &str) -> Self {
        let test = std::env::current_exe().expect("a running program has a path");
        let target = test.ancestors().nth(3).expect("cargo runs tests from TARGET/PROFILE/deps");
        let work = target.join("containerd").join(suite);
        fs::create_dir_all(&work).expect("the target folder is writable");
        // Tests may run at the same time. The lock ends with the file.
        let alone = File::create(work.join("lock")).expect("the target folder is writable");
        flock(&alone, FlockOperation::LockExclusive).expect("a lock");
        let tree = work.join("tree");
        let is_there = |said: &String| Path::new(said) == tree;
        let stamp = fs::read_to_string(tree.join(STAMP)).ok().filter(is_there);
        let fetched =
            stamp.and_then(|_| fs::metadata(tree.join(STAMP)).and_then(|stamp| stamp.modified()).ok());
        let is_offline = std::env::var_os("SOCI_DEBIAN_OFFLINE").is_some_and(|value| value == "1");
        let is_fresh = fetched.is_some_and(|time| time.elapsed().is_ok_and(|age| age < FRESH));
        let is_enough = is_fresh || is_offline && fetched.is_some();
        if !is_enough {
            assert!(
                !is_offline,
                "containerd of Debian's suite {suite} is not in {}: run once without SOCI_DEBIAN_OFFLINE",
                work.display()
            );
            fetch(suite, &work, &tree);
        }
        Self::at(Some(tree))
    }

    fn at(tree: Option<PathBuf>) -> Self {
        let mut release = Self { tree, version: (0, 0) };
        // `containerd NAME VERSION REVISION`.
        let said = run(Command::new(release.program("containerd")).arg("--version"));
        let version = said.split_whitespace().nth(2).unwrap_or_default().trim_start_matches('v');
        let mut numbers = version.split(['.', '~', '-']).map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten().unwrap_or_else(|| panic!("no version: {said}"));
        release.version = (next(), next());
        release
    }

    /// Major and minor number.
    pub const fn version(&self) -> (u64, u64) {
        self.version
    }

    /// One of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        let directories = ["usr/bin", "usr/sbin"].iter();
        let own = self.tree.iter().flat_map(|tree| directories.clone().map(|dir| tree.join(dir).join(name)));
        own.into_iter().find(|path| path.exists()).unwrap_or_else(|| name.into())
    }

    /// The value of `PATH` with which it finds its own shim and runc.
    pub fn path(&self) -> std::ffi::OsString {
        let system = std::env::var_os("PATH").unwrap_or_default();
        let own = self.tree.iter().flat_map(|tree| ["usr/bin", "usr/sbin"].map(|dir| tree.join(dir)));
        let all = own.chain(std::env::split_paths(&system));
        std::env::join_paths(all).expect("no colon in the target folder's name")
    }
}

/// Fetches containerd and runc of a suite, and makes runc find its C library.
fn fetch(suite: &str, work: &Path, tree: &Path) {
    eprintln!("fetching containerd of Debian's suite {suite}");
    let new = work.join("new");
    for stale in [&new, tree] {
        if let Err(error) = fs::remove_dir_all(stale) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", stale.display());
        }
    }
    fs::create_dir_all(&new).expect("the target folder is writable");
    for part in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(work.join(part)).expect("the target folder is writable");
    }
    let source = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror());
    fs::write(work.join("sources.list"), source).expect("the target folder is writable");
    run(apt(work, "apt-get").args(["update", "--error-on=any"]));
    // containerd and its shim need no newer C library than that of Debian 12; runc does.
    unpack(apt(work, "apt-get"), &["containerd", "runc", "libc6", "libseccomp2"], &new);
    let host = work.join("host");
    fs::create_dir_all(&host).expect("the target folder is writable");
    unpack(Command::new("apt-get"), &["patchelf"], &host);
    // The path is written into runc.
    fs::rename(&new, tree).expect("the target folder is writable");
    let (loader, libraries) = c_library(tree);
    let mut patch = Command::new(host.join("usr/bin/patchelf"));
    patch.arg("--set-interpreter").arg(loader).args(["--force-rpath", "--set-rpath"]).arg(libraries);
    run(patch.arg(tree.join("usr/sbin/runc")));
    for left in [&host, &work.join("lists"), &work.join("cache")] {
        fs::remove_dir_all(left).expect("the target folder is writable");
    }
    fs::write(tree.join(STAMP), tree.display().to_string()).expect("the target folder is writable");
}

/// Downloads packages and unpacks them, without installing.
fn unpack(mut apt: Command, packages: &[&str], to: &Path) {
    let debs = to.with_extension("debs");
    // Of a run that was ended.
    let _ = fs::remove_dir_all(&debs);
    fs::create_dir_all(&debs).expect("the target folder is writable");
    run(apt
        .args(["-o", "APT::Sandbox::User=root", "download"])
        .args(packages)
        .current_dir(&debs)
        .env("LC_ALL", "C"));
    for deb in fs::read_dir(&debs).expect("it was made") {
        run(Command::new("dpkg-deb").arg("-x").arg(deb.expect("it is readable").path()).arg(to));
    }
    fs::remove_dir_all(&debs).expect("the target folder is writable");
}

/// The loader and the directory of the C library.
fn c_library(tree: &Path) -> (PathBuf, PathBuf) {
    let below = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let lib = tree.join("usr/lib");
    let libraries = below(&lib).into_iter().find(|dir| dir.join("libc.so.6").exists()).expect("a C library");
    let is_loader =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux-"));
    let places = [tree.join("usr/lib64"), lib, libraries.clone()];
    let loader = places.iter().flat_map(|place| below(place)).find(is_loader).expect("a loader");
    (loader, libraries)
}

/// apt on lists of its own, blind to what is installed.
fn apt(work: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    let at = |key: &str, part: &str| format!("{key}={}", work.join(part).display());
    for option in [
        at("Dir::Etc::sourcelist", "sources.list"),
        at("Dir::State::Lists", "lists"),
        at("Dir::Cache", "cache"),
        "Dir::Etc::sourceparts=-".to_owned(),
        "Dir::State::status=/dev/null".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "Acquire::Retries=3".to_owned(),
    ] {
        command.args(["-o", &option]);
    }
    command.arg("-q").env("LC_ALL", "C");
    command
}

/// Where this machine's apt takes Debian from.
fn mirror() -> String {
    let targets = || {
        let format = "$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)";
        let listed =
            run(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]));
        listed.lines().find_map(|line| match line.split('|').collect::<Vec<_>>()[..] {
            ["Debian", codename, "main", uri] if !codename.contains('-') => Some(uri.to_owned()),
            _ => None,
        })
    };
    let known = targets().or_else(|| {
        // A machine whose lists have been removed does not know what its archives are.
        run(Command::new("apt-get").args(["-qq", "update"]));
        targets()
    });
    known.expect("apt is set up with an archive of Debian (/etc/apt/sources.list.d)")
}

/// What a program prints.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}{}\nThe containerds of other suites come from the archive of Debian that apt is set up with. If it cannot be \
         reached now, SOCI_DEBIAN_OFFLINE=1 takes those of an earlier run.",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}
