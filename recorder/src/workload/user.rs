//! The user of a workload: `name`, `uid`, either with `:group` or `:gid`, looked up in the image's own files.
//!
//! Follows the rules of OCI runtimes: an unknown number is taken as it is, an unknown name is an error; without a
//! group the one of passwd counts (0 for a number that passwd does not list) and the supplementary groups are those
//! which list the user's name. The files are opened with the image as root, so that their links cannot lead outside.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use serde::{Deserialize, Serialize};

/// Passwd and group files larger than this are refused.
const MAX_FILE: u64 = 16 << 20;

/// Ids of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory; `/` when passwd does not know one.
    pub home: String,
}

/// Why a user could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A file of the image could not be read.
    #[error("cannot read {path} of the image")]
    Read {
        /// `etc/passwd` or `etc/group`.
        path: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The name is not in the image's passwd file.
    #[error("no user {0:?} in the image")]
    NoUser(String),
    /// The name is not in the image's group file.
    #[error("no group {0:?} in the image")]
    NoGroup(String),
}

impl User {
    /// Resolves `words` (`""` is root) in the image unpacked at `rootfs`.
    pub fn resolve(rootfs: &Path, words: &str) -> Result<Self, UserError> {
        let passwd = read_in(rootfs, "etc/passwd")?;
        let group = read_in(rootfs, "etc/group")?;
        Self::find(words, &passwd, &group)
    }

    fn find(words: &str, passwd: &str, group: &str) -> Result<Self, UserError> {
        let (name, group_name) = match words.split_once(':') {
            Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
            None => (words, None),
        };
        let name = if name.is_empty() { "0" } else { name };
        let wanted = id(name);
        let entry = lines(passwd, 7)
            .find(|fields| fields[0] == name)
            .or_else(|| lines(passwd, 7).find(|fields| wanted.is_some() && id(fields[2]) == wanted));
        let uid = match &entry {
            Some(fields) => id(fields[2]).ok_or_else(|| UserError::NoUser(name.into()))?,
            None => wanted.ok_or_else(|| UserError::NoUser(name.into()))?,
        };
        let login = entry.as_ref().map(|fields| fields[0]);
        let home =
            entry.as_ref().map(|fields| fields[5]).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
        let (gid, groups) = if let Some(group_name) = group_name {
            let by_name =
                lines(group, 4).find(|fields| fields[0] == group_name).and_then(|fields| id(fields[2]));
            let gid =
                by_name.or_else(|| id(group_name)).ok_or_else(|| UserError::NoGroup(group_name.into()))?;
            (gid, Vec::new())
        } else {
            let gid = entry.as_ref().and_then(|fields| id(fields[3])).unwrap_or(0);
            let member =
                |fields: &Vec<&str>| login.is_some_and(|login| fields[3].split(',').any(|m| m == login));
            let groups = lines(group, 4).filter(member).filter_map(|fields| id(fields[2])).collect();
            (gid, groups)
        };
        Ok(Self { uid, gid, groups, home })
    }
}

/// Lines of at least `count` fields, separated by colons.
fn lines(text: &str, count: usize) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(move |fields| fields.len() >= count)
}

/// A user or group id; all ones would mean "unchanged" to the kernel.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&id| id != u32::MAX)
}

/// A text file of the image; empty when it is not there.
fn read_in(rootfs: &Path, path: &'static str) -> Result<String, UserError> {
    let fail = |source: io::Error| UserError::Read { path, source };
    let root = openat(CWD, rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| fail(errno.into()))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(&root, path, flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(fail(errno.into())),
    };
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(fail(io::Error::other("not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(fail(io::Error::other("larger than 16 MiB")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/false\nbroken\n7:x:700:7:::\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlog:x:50:www,other\nssl:x:51:other,www\nempty:x:52:\n";

    fn find(words: &str) -> (u32, u32, Vec<u32>, String) {
        let user = User::find(words, PASSWD, GROUP).unwrap();
        (user.uid, user.gid, user.groups, user.home)
    }

    #[test]
    fn names_numbers_and_groups_resolve_as_oci_runtimes_do() {
        assert_eq!(find(""), (0, 0, vec![], "/root".into()));
        assert_eq!(find("www"), (33, 34, vec![50, 51], "/var/www".into()));
        assert_eq!(find("33"), (33, 34, vec![50, 51], "/var/www".into()));
        assert_eq!(find("www:log"), (33, 50, vec![], "/var/www".into()));
        assert_eq!(find("www:4000"), (33, 4000, vec![], "/var/www".into()));
        assert_eq!(find("1234"), (1234, 0, vec![], "/".into()));
        assert_eq!(find("1234:5"), (1234, 5, vec![], "/".into()));
        assert_eq!(find("www:"), (33, 34, vec![50, 51], "/var/www".into()));
        assert_eq!(find("7"), (700, 7, vec![], "/".into()), "a name made of digits comes before the number");
    }

    #[test]
    fn unknown_names_are_errors() {
        assert!(
            matches!(User::find("nobody", PASSWD, GROUP), Err(UserError::NoUser(name)) if name == "nobody")
        );
        assert!(matches!(User::find("www:nobody", PASSWD, GROUP), Err(UserError::NoGroup(_))));
        assert!(User::find("4294967295", PASSWD, GROUP).is_err());
        assert!(User::find("-1", PASSWD, GROUP).is_err());
    }

    #[test]
    fn links_of_the_image_stay_in_the_image() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("real"), "in:x:5:6::/h:/s\n").unwrap();
        std::os::unix::fs::symlink("../../../../real", dir.path().join("etc/passwd")).unwrap();
        assert_eq!(User::resolve(dir.path(), "in").unwrap().uid, 5);
    }
}
