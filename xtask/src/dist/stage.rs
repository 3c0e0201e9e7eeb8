//! Which file goes where: the one list that packages and tarballs are made from.
//!
//! A [`Stage`] knows the contents; [`Stage::lay_out`] writes them below a folder, with the paths and modes that they have on a machine.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::archive::gzip;
use super::build::PROGRAMS;
use super::files::{put, source};
use super::pages::Pages;
use super::{Programs, Release};
use crate::exec;
use crate::lab::workspace;

const PACKAGE: &str = "soci-snapshotter";
/// Who answers for the packages. Distributors put their own address here.
pub(super) const MAINTAINER: &str = "The soci authors <soci@localhost>";
const SOCKET: &str = "/run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock";

/// What is laid out.
pub(super) struct Stage<'a> {
    pub(super) programs: &'a Programs,
    pub(super) release: &'a Release,
    pub(super) pages: &'a Pages,
    /// Licences of all that is in the programs.
    pub(super) licences: &'a str,
}

/// Whom the files are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// dpkg: programs in /usr/bin.
    Debian,
    /// An administrator, who unpacks below /usr/local.
    Hand,
}

impl Stage<'_> {
    /// Writes all files below `root`: as they are on the machine for a package, with `usr/` as the top for a tarball.
    pub(super) fn lay_out(&self, root: &Path, whose: For) -> Result<()> {
        let (usr, bin) = match whose {
            For::Debian => (root.join("usr"), "/usr/bin"),
            For::Hand => (root.to_owned(), "/usr/local/bin"),
        };
        for program in PROGRAMS {
            let from = self.programs.folder.join(program);
            let bytes = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            put(&usr.join("bin").join(program), 0o755, &bytes)?;
        }
        for kind in ["service", "socket"] {
            let text = unit(kind, bin)?;
            put(&usr.join(format!("lib/systemd/system/{PACKAGE}.{kind}")), 0o644, text.as_bytes())?;
        }
        put(
            &root.join("etc/soci-snapshotter-grpc/config.toml"),
            0o644,
            &source("packaging/etc/config.toml")?,
        )?;
        for (name, page) in &self.pages.manual {
            let section = name.rsplit('.').next().unwrap_or_default();
            put(&usr.join(format!("share/man/man{section}/{name}.gz")), 0o644, &packed(page)?)?;
        }
        let zsh = if whose == For::Debian { "vendor-completions" } else { "site-functions" };
        for (name, script) in [
            ("bash-completion/completions/soci", &self.pages.bash),
            (&format!("zsh/{zsh}/_soci"), &self.pages.zsh),
            ("fish/vendor_completions.d/soci.fish", &self.pages.fish),
        ] {
            put(&usr.join("share").join(name), 0o644, script)?;
        }
        let doc = usr.join("share/doc").join(PACKAGE);
        put(&doc.join("licenses.txt.gz"), 0o644, &packed(self.licences.as_bytes())?)?;
        put(&doc.join("changelog.gz"), 0o644, &packed(&source("CHANGELOG.md")?)?)?;
        if whose == For::Debian {
            put(
                &doc.join("changelog.Debian.gz"),
                0o644,
                &packed(debian_changelog(self.release)?.as_bytes())?,
            )?;
        }
        put(&doc.join("copyright"), 0o644, copyright()?.as_bytes())?;
        put(&doc.join("NOTICE"), 0o644, &source("NOTICE")?)?;
        if whose == For::Hand {
            put(&doc.join("LICENSE"), 0o644, &source("LICENSE")?)?;
        }
        for folder in ["containerd", "k3s", "nerdctl"] {
            for entry in fs::read_dir(workspace().join("packaging").join(folder))? {
                let entry = entry?;
                let to = doc.join("examples").join(folder).join(entry.file_name());
                put(&to, 0o644, &fs::read(entry.path())?)?;
            }
        }
        Ok(())
    }
}

/// Compressed as Debian wants documents.
fn packed(text: &[u8]) -> Result<Vec<u8>> {
    gzip(text, 9)
}

/// A unit with its places filled in.
fn unit(kind: &str, bin: &str) -> Result<String> {
    let text = String::from_utf8(source(&format!("packaging/systemd/{PACKAGE}.{kind}"))?)?;
    Ok(text.replace("@BIN@", bin).replace("@SOCKET@", SOCKET).replace(" @FLAGS@", ""))
}

/// Debian's own list of changes: of the packages, which are made anew for each release.
fn debian_changelog(release: &Release) -> Result<String> {
    let at = format!("@{}", release.time);
    let date = exec::read(exec::command(["date", "--utc", "-R", "--date", &at]).env("LC_ALL", "C"))?;
    Ok(format!(
        "{PACKAGE} ({}-{}) unstable; urgency=medium\n\n  * Release {}: see changelog.gz.\n\n -- {MAINTAINER}  {date}",
        release.version, release.revision, release.version
    ))
}

/// Debian's form of who may do what with the package.
fn copyright() -> Result<String> {
    let notice = String::from_utf8(source("NOTICE")?)?;
    let owner =
        notice.lines().find_map(|line| line.strip_prefix("Copyright ")).context("NOTICE names an owner")?;
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: soci\n\n\
         Files: *\n\
         Copyright: {owner}\n\
         License: Apache-2.0\n \
         /usr/share/common-licenses/Apache-2.0 on Debian systems has the text.\n\
         Comment:\n \
         The programs contain libraries with licences of their own: licenses.txt.gz beside this file names all.\n"
    ))
}
