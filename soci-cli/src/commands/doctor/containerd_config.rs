//! containerd's configuration: whether pulls through the snapshotter are lazy, and which key is missing when they are not. Files of
//! version 2 (containerd 1.x, and read by 2.x) and 3 (2.x), with their imports. Holds no state.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Finding, State};

const CHECK: &str = "lazy pulls";

/// Plugins of containerd 2.x, and of 1.x.
const IMAGES: &str = "io.containerd.cri.v1.images";
const TRANSFER: &str = "io.containerd.transfer.v1.local";
const CRI: &str = "io.containerd.grpc.v1.cri";

const NO_PROXY: &str = "add [proxy_plugins.soci] with type = \"snapshot\" and address = \"the snapshotter's socket\" (docs/containerd.md)";
const ANNOTATIONS_1: &str =
    "set disable_snapshot_annotations = false in [plugins.\"io.containerd.grpc.v1.cri\".containerd]";
const ANNOTATIONS_2: &str =
    "set disable_snapshot_annotations = false in [plugins.'io.containerd.cri.v1.images']";
const EXPORT: &str = "set enable_remote_snapshot_annotations = \"true\" in [proxy_plugins.soci.exports]";
const UNPACK: &str = "add [[plugins.'io.containerd.transfer.v1.local'.unpack_config]] with platform = 'linux/ARCH', \
    snapshotter = 'soci' and differ = 'walking', and a second one for overlayfs if that is used, too";
const REBASE: &str = "take rebase from its capabilities: with it, containers see the topmost layer only";
const ROOT: &str = "set root = \"the snapshotter's --root\" in [proxy_plugins.soci.exports], else the kubelet measures another file system";
const MAP_HERE: &str = "set remap_ids = true in [snapshotter] of the snapshotter's configuration";
const MAP_THERE: &str = "add capabilities = [\"remap-ids\"] to [proxy_plugins.soci], or set remap_ids = false in the snapshotter's [snapshotter]";

/// What is to be compared.
#[derive(Debug)]
pub(super) struct Node<'a> {
    /// containerd's configuration.
    pub(super) config: &'a Path,
    /// The snapshotter's.
    pub(super) snapshotter_config: &'a Path,
    /// The snapshotter's socket.
    pub(super) socket: &'a Path,
    /// containerd's version, if it answers.
    pub(super) version: Option<&'a str>,
}

/// All checks of the file.
pub(super) fn check(node: &Node<'_>) -> Vec<Finding> {
    let config = match load(node.config, 0) {
        Ok(config) => config,
        // There is no containerd.
        Err(error) if error.kind() == io::ErrorKind::NotFound && node.version.is_none() => return Vec::new(),
        Err(error) => {
            let text =
                format!("containerd's configuration was not checked: {}: {error}", node.config.display());
            return vec![Finding::warning(CHECK, text, "name its file with --containerd-config")];
        }
    };
    let maps_ids =
        fs::read_to_string(node.snapshotter_config).ok().and_then(|text| text.parse::<Table>().ok());
    let maps_ids =
        maps_ids.is_some_and(|ours| at(&ours, &["snapshotter", "remap_ids"]) == Some(&Value::Boolean(true)));
    let mut findings = judge(&config, node.socket, is_two(&config, node.version), maps_ids);
    if node.version.is_none() {
        // Nobody pulls by it now, and much works without it.
        let failed = findings.iter_mut().filter(|finding| finding.state == State::Failed);
        failed.for_each(|finding| finding.state = State::Warning);
    }
    findings
}

/// What a configuration means for pulls.
fn judge(config: &Table, socket: &Path, two: bool, maps_ids: bool) -> Vec<Finding> {
    let Some((name, proxy)) = proxy(config, socket) else {
        let text = format!("no proxy plugin has the socket {}", socket.display());
        return vec![Finding::failed(CHECK, text, NO_PROXY)];
    };
    let images = cri_images(config);
    let text = |key: &str| images.and_then(|images| images.get(key)).and_then(Value::as_str);
    let flag = |key: &str| images.and_then(|images| images.get(key)).and_then(Value::as_bool);
    let is_cri = text("snapshotter") == Some(name);
    let annotated = flag("disable_snapshot_annotations") == Some(false);
    let exported = text_at(proxy, &["exports", "enable_remote_snapshot_annotations"]) == Some("true");
    let missing = match (two, is_cri) {
        (false, true) => (!annotated).then_some(ANNOTATIONS_1),
        (true, true) if flag("use_local_image_pull") == Some(true) => (!annotated).then_some(ANNOTATIONS_2),
        // containerd 2 pulls as 1 does, if it is to send annotations.
        (true, true) if annotated => None,
        (true, _) if !exported => Some(EXPORT),
        (true, _) => (!unpacks(config, name)).then_some(UNPACK),
        (false, false) => None,
    };
    let line = if two { "2.x" } else { "1.x" };
    let lazy = match (missing, is_cri) {
        (None, true) => {
            Finding::ok(CHECK, format!("CRI pulls by {name}, with layer labels (containerd {line})"))
        }
        (Some(advice), true) => Finding::failed(
            CHECK,
            format!("CRI pulls by {name} without layer labels: every image comes whole"),
            advice,
        ),
        (None, false) => {
            Finding::ok(CHECK, format!("CRI pulls by another snapshotter than {name}; others may use it"))
        }
        (Some(advice), false) => Finding::warning(
            CHECK,
            format!("ctr images pull --snapshotter {name} is not lazy (soci pull is)"),
            advice,
        ),
    };
    let mut findings = vec![lazy];
    let capable = |what: &str| {
        let all = at(proxy, &["capabilities"]).and_then(Value::as_array);
        all.is_some_and(|all| all.iter().any(|one| one.as_str() == Some(what)))
    };
    if capable("rebase") {
        findings.push(Finding::failed(CHECK, format!("{name} is said to be capable of rebase"), REBASE));
    }
    if is_cri && text_at(proxy, &["exports", "root"]).is_none() {
        findings.push(Finding::warning(
            CHECK,
            "containerd does not know where the snapshotter's files are",
            ROOT,
        ));
    }
    match (capable("remap-ids"), maps_ids) {
        (true, false) => {
            findings.push(Finding::failed(
                "user namespaces",
                "containerd leaves the ids to the snapshotter, which leaves them as they are",
                MAP_HERE,
            ));
        }
        (false, true) => {
            findings.push(Finding::warning(
                "user namespaces",
                "containerd copies images for each map of ids, although the snapshotter could show them",
                MAP_THERE,
            ));
        }
        _ => {}
    }
    findings
}

/// Whether it is the configuration of a containerd 2: it says so itself, else its file may.
fn is_two(config: &Table, version: Option<&str>) -> bool {
    match version.and_then(|version| version.trim_start_matches('v').split('.').next()?.parse::<u64>().ok()) {
        Some(major) => major >= 2,
        None => config.get("version").and_then(Value::as_integer).is_some_and(|version| version >= 3),
    }
}

/// The proxy plugin at the snapshotter's socket, else the one that is called soci.
fn proxy<'a>(config: &'a Table, socket: &Path) -> Option<(&'a str, &'a Table)> {
    let all = config.get("proxy_plugins")?.as_table()?;
    let plugins: Vec<_> =
        all.iter().filter_map(|(name, plugin)| Some((name.as_str(), plugin.as_table()?))).collect();
    let is_ours = |plugin: &Table| {
        let address = plugin.get("address").and_then(Value::as_str).unwrap_or_default();
        Path::new(address.strip_prefix("unix://").unwrap_or(address)) == socket
    };
    let by_socket = plugins.iter().find(|(_, plugin)| is_ours(plugin));
    by_socket.or_else(|| plugins.iter().find(|(name, _)| *name == "soci")).copied()
}

fn cri_images(config: &Table) -> Option<&Table> {
    let places: [&[&str]; 3] =
        [&["plugins", IMAGES], &["plugins", CRI, "containerd"], &["plugins", "cri", "containerd"]];
    places.iter().find_map(|place| at(config, place)).and_then(Value::as_table)
}

/// Whether the transfer service unpacks by this snapshotter.
fn unpacks(config: &Table, name: &str) -> bool {
    let all = at(config, &["plugins", TRANSFER, "unpack_config"]).and_then(Value::as_array);
    all.is_some_and(|all| all.iter().any(|one| one.get("snapshotter").and_then(Value::as_str) == Some(name)))
}

fn at<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(key))
}

fn text_at<'a>(table: &'a Table, path: &[&str]) -> Option<&'a str> {
    at(table, path).and_then(Value::as_str)
}

/// Reads a file and what it imports, which is read later and wins.
fn load(path: &Path, depth: usize) -> io::Result<Table> {
    let text = fs::read_to_string(path)?;
    let mut config: Table = text.parse().map_err(|error| io::Error::other(format!("not TOML: {error}")))?;
    let imports = config.get("imports").and_then(Value::as_array).cloned().unwrap_or_default();
    for pattern in imports.iter().filter_map(Value::as_str).filter(|_| depth < 4) {
        let pattern = path.parent().unwrap_or(Path::new("/")).join(pattern);
        for file in matching(&pattern) {
            merge(&mut config, load(&file, depth + 1)?);
        }
    }
    Ok(config)
}

/// The files that a pattern names, sorted; a star stands for any text, in the last part only.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((before, after)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let entries = pattern.parent().and_then(|parent| fs::read_dir(parent).ok());
    let mut files: Vec<_> = entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
    });
    files.sort();
    files
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => _ = into.insert(key, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: &str = "/run/soci.sock";
    const PROXY: &str = "[proxy_plugins.soci]\ntype = 'snapshot'\naddress = '/run/soci.sock'\n";
    const EXPORTS: &str = "[proxy_plugins.soci.exports]\nroot = '/var/lib/soci'\n";
    const UNPACKS: &str =
        "[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nsnapshotter = 'soci'\n";

    fn of(parts: &[&str], two: bool) -> (State, String) {
        let config: Table = parts.concat().parse().unwrap();
        let findings = judge(&config, Path::new(SOCKET), two, false);
        assert_eq!(findings.len(), 1, "{findings:?}");
        (findings[0].state, findings[0].advice.to_owned())
    }

    #[test]
    fn containerd_1_must_be_told_to_send_labels() {
        let cri = "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = 'soci'\n";
        let silent = (State::Failed, ANNOTATIONS_1.to_owned());
        assert_eq!(of(&[PROXY, EXPORTS, cri], false), silent);
        assert_eq!(of(&[PROXY, EXPORTS, cri, "disable_snapshot_annotations = true\n"], false), silent);
        let told = [PROXY, EXPORTS, cri, "disable_snapshot_annotations = false\n"];
        assert_eq!(of(&told, false).0, State::Ok);
        assert_eq!(of(&told, true).0, State::Ok, "2.x reads the file, too, and pulls as 1.x");
        assert_eq!(of(&[PROXY], false).0, State::Ok, "whoever pulls must be lazy by other means");
        assert_eq!(of(&[], false), (State::Failed, NO_PROXY.to_owned()));
    }

    #[test]
    fn containerd_2_needs_the_export_and_an_unpacker() {
        let cri = "[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'soci'\n";
        let export = "enable_remote_snapshot_annotations = 'true'\n";
        let failed = |advice: &str| (State::Failed, advice.to_owned());
        assert_eq!(of(&[PROXY, EXPORTS, cri, UNPACKS], true), failed(EXPORT));
        assert_eq!(of(&[PROXY, EXPORTS, export, cri], true), failed(UNPACK));
        assert_eq!(of(&[PROXY, EXPORTS, export, cri, UNPACKS], true).0, State::Ok);
        let local = "use_local_image_pull = true\n";
        assert_eq!(of(&[PROXY, EXPORTS, export, cri, local, UNPACKS], true), failed(ANNOTATIONS_2));
        let annotated = "disable_snapshot_annotations = false\n";
        assert_eq!(of(&[PROXY, EXPORTS, cri, local, annotated], true).0, State::Ok);
        assert_eq!(of(&[PROXY, EXPORTS, UNPACKS], true), (State::Warning, EXPORT.to_owned()));
    }

    #[test]
    fn capabilities_and_exports_are_compared_with_what_there_is() {
        let cri = "[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'soci'\ndisable_snapshot_annotations = false\n";
        let advice = |capabilities: &str, maps_ids| {
            let config: Table = [PROXY, capabilities, cri].concat().parse().unwrap();
            let findings = judge(&config, Path::new(SOCKET), true, maps_ids);
            findings
                .into_iter()
                .map(|finding| finding.advice)
                .filter(|advice| !advice.is_empty())
                .collect::<Vec<_>>()
        };
        assert_eq!(advice("capabilities = ['rebase', 'remap-ids']\n", false), [REBASE, ROOT, MAP_HERE]);
        assert_eq!(advice("capabilities = ['remap-ids']\n", true), [ROOT]);
        assert_eq!(advice("", true), [ROOT, MAP_THERE]);
    }

    #[test]
    fn the_line_is_that_of_the_program_or_of_its_file() {
        let file = |text: &str| text.parse::<Table>().unwrap();
        assert!(is_two(&file("version = 3"), None) && !is_two(&file("version = 2"), None));
        assert!(is_two(&file("version = 2"), Some("2.1.9")) && is_two(&file(""), Some("v2.0.0-rc.1")));
        assert!(!is_two(&file("version = 3"), Some("1.6.20~ds1")));
    }

    #[test]
    fn imports_are_read_and_win() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        write("config.toml", "imports = ['conf.d/*.toml', 'config.toml']\n[a]\nx = 1\ny = 1\n");
        write("conf.d/1.toml", "[a]\nx = 2\n");
        write("conf.d/2.toml", "[a]\nx = 3\n");
        write("conf.d/not.toml~", "[a]\nx = 4\n");
        let config = load(&dir.path().join("config.toml"), 3).unwrap();
        assert_eq!(at(&config, &["a", "y"]), Some(&Value::Integer(1)));
        write("config.toml", "imports = ['conf.d/*.toml']\n[a]\nx = 1\ny = 1\n");
        let config = load(&dir.path().join("config.toml"), 0).unwrap();
        assert_eq!(at(&config, &["a", "x"]), Some(&Value::Integer(3)));
        assert!(load(&dir.path().join("none.toml"), 0).is_err());
    }
}
