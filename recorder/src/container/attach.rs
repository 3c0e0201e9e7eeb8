//! What `--attach` names, and how its processes are told: a container, a cgroup or a process.
//!
//! * A number of a running process is that process: its cgroup, where that is a container's own, else the process
//!   and its descendants.
//! * A path, absolute or relative to the unified hierarchy, of a cgroup is that cgroup, its descendants included; of another
//!   hierarchy, the processes in it and their descendants. One that holds several containers is an error: a trace is of
//!   one. A pod's sandbox is passed over.
//! * Anything else is the id of a container, the beginning of one, or a name: its cgroup, where it has one of its own in
//!   the unified hierarchy, else every process in its mount namespace.
//!
//! A cgroup is a container's own when the last part of its path holds the container's id, as runtimes name them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ContainerError;
use crate::workload::unified_root;

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Containerd's namespace.
    pub namespace: String,
    /// Its id.
    pub id: String,
    /// Other names of it.
    pub names: Vec<String>,
    /// Is it a pod's sandbox?
    pub sandbox: bool,
    /// Process id on the host of its first process.
    pub pid: u32,
}

impl Known {
    /// Its id and its names, for people.
    fn words(&self) -> String {
        let names =
            if self.names.is_empty() { String::new() } else { format!(" ({})", self.names.join(", ")) };
        format!("{}{names}", self.id)
    }
}

/// How the processes of what is attached to are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attached {
    /// The tasks of a cgroup of the unified hierarchy at this depth, its descendants included.
    Cgroup {
        /// The kernel's number of it.
        id: u64,
        /// How deep it is below the root, whose level is 0.
        level: u32,
    },
    /// The container: what is in the mount namespace of this process, and its descendants.
    Container(u32),
    /// These processes and their descendants.
    Processes(Vec<u32>),
}

/// Finds what `text` names among the running containers: the container, and how its processes are told.
pub fn find<'a>(text: &str, known: &'a [Known]) -> Result<(&'a Known, Attached), ContainerError> {
    if let Ok(pid) = text.parse::<u32>()
        && Path::new("/proc").join(text).exists()
    {
        let container =
            by_process(pid, known).ok_or_else(|| ContainerError::NoContainer(format!("process {pid}")))?;
        return Ok((container, own_cgroup(pid, container)?.unwrap_or(Attached::Processes(vec![pid]))));
    }
    if let Some(dir) = directory(text) {
        return by_cgroup(&dir, known);
    }
    let container = by_name(text, known)?;
    Ok((container, own_cgroup(container.pid, container)?.unwrap_or(Attached::Container(container.pid))))
}

fn by_name<'a>(name: &str, known: &'a [Known]) -> Result<&'a Known, ContainerError> {
    let exact: Vec<&Known> = known
        .iter()
        .filter(|one| one.id == name || (!one.sandbox && one.names.iter().any(|known| known == name)))
        .collect();
    let found = match exact.len() {
        0 => known.iter().filter(|one| one.id.starts_with(name)).collect(),
        _ => exact,
    };
    if let [one] = found[..] {
        return Ok(one);
    }
    let found = found.into_iter().map(Known::words).collect();
    Err(ContainerError::Name { name: name.into(), found })
}

/// The container of a process: by the cgroups that it is in, or because it is the first process.
fn by_process(pid: u32, known: &[Known]) -> Option<&Known> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let named = |one: &&Known| cgroups.lines().any(|line| is_named_after(line.rsplit('/').next(), &one.id));
    known.iter().find(|one| one.pid == pid).or_else(|| known.iter().find(named))
}

/// Is this part of a cgroup's path made of a container's id?
fn is_named_after(part: Option<&str>, id: &str) -> bool {
    let name = part.map(|part| part.strip_suffix(".scope").unwrap_or(part));
    name.is_some_and(|name| name == id || name.strip_suffix(id).is_some_and(|rest| rest.ends_with('-')))
}

/// The cgroup of a process in the unified hierarchy, if that is the container's own.
fn own_cgroup(pid: u32, container: &Known) -> Result<Option<Attached>, ContainerError> {
    let Some(root) = unified_root() else { return Ok(None) };
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    if !is_named_after(path.rsplit('/').next(), &container.id) {
        return Ok(None);
    }
    unified(&root, &root.join(path)).map(Some)
}

/// The directory of a cgroup that a text names.
fn directory(text: &str) -> Option<PathBuf> {
    let absolute = Path::new(text).starts_with("/").then(|| PathBuf::from(text));
    let dir = absolute.or_else(|| unified_root().map(|root| root.join(text)))?;
    dir.join("cgroup.procs").is_file().then_some(dir)
}

fn by_cgroup<'a>(dir: &Path, known: &'a [Known]) -> Result<(&'a Known, Attached), ContainerError> {
    let dir = dir.canonicalize().map_err(failed("find", dir))?;
    let mut pids = Vec::new();
    processes(&dir, &mut pids)?;
    let what = || format!("cgroup {}", dir.display());
    let (container, has_others) = only_one(&pids, known, by_process, what)?;
    // Beside a sandbox, or whatever else is in a pod's cgroup, the container's own says which processes are meant.
    if has_others {
        let own = own_cgroup(container.pid, container)?;
        return Ok((container, own.unwrap_or(Attached::Container(container.pid))));
    }
    match unified_root().filter(|root| dir.starts_with(root)) {
        Some(root) => Ok((container, unified(&root, &dir)?)),
        None => Ok((container, Attached::Processes(pids))),
    }
}

/// The one container that these processes are of, sandboxes aside, and whether there is a sandbox.
fn only_one<'a>(
    pids: &[u32],
    known: &'a [Known],
    container_of: impl Fn(u32, &'a [Known]) -> Option<&'a Known>,
    what: impl Fn() -> String,
) -> Result<(&'a Known, bool), ContainerError> {
    let mut found: Vec<&Known> = Vec::new();
    for container in pids.iter().filter_map(|&pid| container_of(pid, known)) {
        if !found.iter().any(|one| std::ptr::eq(*one, container)) {
            found.push(container);
        }
    }
    let all = found.len();
    found.retain(|one| !one.sandbox);
    match found[..] {
        [one] => Ok((one, all > 1)),
        [] => Err(ContainerError::NoContainer(what())),
        _ => {
            let found = found.into_iter().map(Known::words).collect();
            Err(ContainerError::Several { what: what(), found })
        }
    }
}

/// The processes of a cgroup and its descendants.
fn processes(dir: &Path, pids: &mut Vec<u32>) -> Result<(), ContainerError> {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).map_err(failed("read", dir))?;
    pids.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in fs::read_dir(dir).map_err(failed("read", dir))? {
        let entry = entry.map_err(failed("read", dir))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes(&entry.path(), pids)?;
        }
    }
    Ok(())
}

fn unified(root: &Path, dir: &Path) -> Result<Attached, ContainerError> {
    let id = fs::metadata(dir).map_err(failed("look at", dir))?.ino();
    let level = dir.strip_prefix(root).map_or(0, |path| path.components().count() as u32);
    Ok(Attached::Cgroup { id, level })
}

fn failed(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> ContainerError {
    let path = path.to_owned();
    move |source| ContainerError::Cgroup { action, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: &str, name: &str, pid: u32) -> Known {
        Known { namespace: "default".into(), id: id.into(), names: vec![name.into()], sandbox: false, pid }
    }

    #[test]
    fn a_name_must_be_of_one_container() {
        let all = [known("abc1", "web", 1), known("abc2", "abc1", 2), known("abd", "db", 3)];
        assert_eq!(by_name("db", &all).unwrap().pid, 3);
        assert_eq!(by_name("abd", &all[1..]).unwrap().pid, 3);
        assert_eq!(by_name("abc2", &all).unwrap().pid, 2);
        assert_eq!(by_name("abc1", &all[..1]).unwrap().pid, 1);
        for (name, found) in [("abc", 2), ("abc1", 2), ("x", 0)] {
            let error = by_name(name, &all).unwrap_err();
            assert!(
                matches!(error, ContainerError::Name { found: ref list, .. } if list.len() == found),
                "{error}"
            );
        }
    }

    #[test]
    fn cgroups_are_named_after_containers_in_the_ways_of_runtimes() {
        for part in ["abc", "cri-containerd-abc.scope", "docker-abc.scope"] {
            assert!(is_named_after(Some(part), "abc"), "{part}");
        }
        for part in ["xabc", "abc-init.scope", "abcd", ""] {
            assert!(!is_named_after(Some(part), "abc"), "{part}");
        }
    }

    #[test]
    fn a_process_outside_of_containers_is_an_error() {
        let own = std::process::id().to_string();
        assert!(matches!(find(&own, &[known("abc", "web", 0)]), Err(ContainerError::NoContainer(_))));
        let own_container = [known("abc", "web", std::process::id())];
        let (container, told) = find(&own, &own_container).unwrap();
        assert_eq!((container.id.as_str(), told), ("abc", Attached::Processes(vec![std::process::id()])));
    }

    #[test]
    fn of_a_pod_the_sandbox_is_passed_over_and_several_containers_are_an_error() {
        let sandbox = Known { sandbox: true, ..known("pause", "pod", 10) };
        let pod = [sandbox, known("abc", "web", 20), known("def", "log", 30)];
        let of =
            |pid: u32, known: &'static [Known]| known.iter().find(|one| one.pid == pid || one.pid + 1 == pid);
        let pod: &'static [Known] = Box::leak(Box::new(pod));
        let found = |pids: &[u32]| only_one(pids, pod, of, || "cgroup /pod".into());
        let (container, has_others) = found(&[10, 21, 20]).unwrap();
        assert_eq!((container.id.as_str(), has_others), ("abc", true));
        assert!(!found(&[20, 21]).unwrap().1);
        assert!(matches!(found(&[10, 11, 99]), Err(ContainerError::NoContainer(_))));
        let error = found(&[10, 20, 30]).unwrap_err().to_string();
        assert!(error.contains("abc (web), def (log)"), "{error}");
        assert_eq!(by_name("pause", pod).unwrap().pid, 10, "by its id, a sandbox can be meant");
        assert!(by_name("pod", pod).is_err());
    }
}
