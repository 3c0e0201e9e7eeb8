//! Debian's archive: which kernel package a suite has, and its files.
//!
//! The archive is the one that this machine's apt is set up with; no host is named here. Everything is read by apt itself,
//! with lists of its own below the work folder: the machine's lists and packages stay as they are. Nothing is unpacked that
//! apt has not checked against Debian's keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::exec;

/// Debian's keys: those of one release also sign the suites after it.
pub(super) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The package that depends on the newest kernel of a suite, in the build for virtual machines.
const META: &str = "linux-image-cloud-amd64";

/// A kernel that tests are run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Series {
    /// Linux 6.1, of bookworm.
    #[value(name = "6.1")]
    Old,
    /// Linux 6.12, of trixie.
    #[value(name = "6.12")]
    Middle,
    /// Whatever sid has today.
    Newest,
}

impl Series {
    /// As it is called on the command line and in tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Old => "6.1",
            Self::Middle => "6.12",
            Self::Newest => "newest",
        }
    }

    const fn suite(self) -> &'static str {
        match self {
            Self::Old => "bookworm",
            Self::Middle => "trixie",
            Self::Newest => "sid",
        }
    }

    /// Whether a release is of this series.
    fn has(self, release: &str) -> bool {
        self == Self::Newest || release.strip_prefix(self.name()).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// A kernel as the archive has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    /// As `uname -r` says it.
    pub(super) release: String,
    /// Version of the package, which changes more often.
    pub(super) version: String,
    /// The package and those that have its parts.
    names: Vec<String>,
}

/// One suite of the archive.
#[derive(Debug)]
pub(super) struct Suite {
    series: Series,
    dir: PathBuf,
}

impl Suite {
    /// Reads the suite's list.
    pub(super) fn open(dir: &Path, series: Series) -> Result<Self> {
        let suite = Self { series, dir: dir.join(series.suite()) };
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(suite.dir.join(part))?;
        }
        let source = format!("deb [signed-by={KEYRING}] {} {} main\n", mirror()?, series.suite());
        fs::write(suite.dir.join("sources.list"), source)?;
        exec::read(suite.apt("apt-get").args(["update", "--error-on=any"])).with_context(|| {
            format!(
                "cannot read the list of Debian's suite {}: kernels come from the archive that apt is set up with \
                 (/etc/apt). Is it reachable, and does it have this suite? With --cached, kernels of an earlier run are taken",
                series.suite()
            )
        })?;
        Ok(suite)
    }

    /// The suite's newest kernel.
    pub(super) fn kernel(&self) -> Result<Package> {
        let image = depends(&self.depends(META)?, "linux-image-").into_iter().next();
        let image = image.with_context(|| format!("{} has no package {META}", self.series.suite()))?;
        let release = image.trim_start_matches("linux-image-").to_owned();
        ensure!(
            self.series.has(&release),
            "Debian's suite {} has Linux {release} now, not {}: teach xtask where that kernel is",
            self.series.suite(),
            self.series.name()
        );
        let shown = exec::read(self.apt("apt-cache").args(["show", "--no-all-versions", &image]))?;
        let version = shown.lines().find_map(|line| line.strip_prefix("Version: "));
        let version = version.with_context(|| format!("{image} has no version"))?.to_owned();
        let mut names = vec![image.clone()];
        // From Linux 7 on the package itself is empty.
        let list = self.depends(&image)?;
        for part in ["linux-base-", "linux-binary-", "linux-modules-"] {
            names.extend(depends(&list, part));
        }
        Ok(Package { release, version, names })
    }

    /// Downloads a kernel and unpacks it to `to`.
    pub(super) fn unpack(&self, package: &Package, to: &Path) -> Result<()> {
        let debs = self.dir.join("debs");
        let _ = fs::remove_dir_all(&debs); // of a run that was ended
        fs::create_dir_all(&debs)?;
        let mut download = self.apt("apt-get");
        exec::read(download.current_dir(&debs).arg("download").args(&package.names))
            .with_context(|| format!("cannot download {}", package.names.join(" ")))?;
        for deb in fs::read_dir(&debs)? {
            exec::read(exec::command(["dpkg-deb", "-x"]).arg(deb?.path()).arg(to))?;
        }
        fs::remove_dir_all(&debs)?;
        Ok(())
    }

    fn depends(&self, package: &str) -> Result<String> {
        exec::read(self.apt("apt-cache").args(["depends", package]))
    }

    /// apt with lists of its own.
    fn apt(&self, tool: &str) -> Command {
        let mut command = exec::command([tool, "-q"]);
        let at = |key: &str, part: &str| format!("{key}={}", self.dir.join(part).display());
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
        command.env("LC_ALL", "C");
        command
    }
}

/// Where this machine's apt takes Debian from.
fn mirror() -> Result<String> {
    let targets = || {
        let format = "$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)";
        exec::read(&mut exec::command([
            "apt-get",
            "indextargets",
            "--format",
            format,
            "Created-By: Packages",
        ]))
        .context("kernels come from Debian's archive by apt: this needs Debian, or a machine like it")
    };
    if let Some(uri) = main_of(&targets()?) {
        return Ok(uri);
    }
    // A machine whose lists have been removed does not know what its archives are.
    exec::run(&mut exec::command(["apt-get", "-qq", "update"]))?;
    match main_of(&targets()?) {
        Some(uri) => Ok(uri),
        None => bail!(
            "apt is set up with no archive of Debian (/etc/apt/sources.list.d): add one, as deb or in deb822 form"
        ),
    }
}

/// The archive of a Debian release, among the lines `ORIGIN|CODENAME|COMPONENT|URI`; not that of its updates.
fn main_of(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| match line.split('|').collect::<Vec<_>>()[..] {
        ["Debian", codename, "main", uri] if !codename.contains('-') => Some(uri.to_owned()),
        _ => None,
    })
}

/// The packages that `apt-cache depends` names with this prefix and a version behind it.
fn depends(list: &str, prefix: &str) -> Vec<String> {
    let names = list.lines().filter_map(|line| line.trim_start().strip_prefix("Depends: "));
    let of_version = |name: &&str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    names.filter(of_version).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_that_of_a_release() {
        let targets = "Debian|bookworm-updates|main|http://a.example/debian/\n\
            Other|bookworm|main|http://b.example/\n\
            Debian|bookworm|contrib|http://c.example/\n\
            Debian|bookworm|main|http://d.example/debian/\n";
        assert_eq!(main_of(targets).as_deref(), Some("http://d.example/debian/"));
        assert_eq!(main_of("||main|http://a.example/\n"), None);
    }

    #[test]
    fn parts_of_a_kernel_are_told_from_what_it_needs() {
        let list = "linux-image-7.2.13+deb14-cloud-amd64\n  Depends: kmod\n  Depends: linux-base (>= 4.3~)\n\
            \x20 Depends: linux-binary-7.2.13+deb14-cloud-amd64\n |Depends: initramfs-tools\n";
        assert_eq!(depends(list, "linux-binary-"), ["linux-binary-7.2.13+deb14-cloud-amd64"]);
        assert_eq!(depends(list, "linux-base-"), Vec::<String>::new());
    }

    #[test]
    fn a_series_is_not_one_that_begins_alike() {
        assert!(Series::Old.has("6.1.0-50-cloud-amd64") && !Series::Old.has("6.12.117+deb13-cloud-amd64"));
        assert!(Series::Newest.has("7.2.13+deb14-cloud-amd64"));
    }
}
