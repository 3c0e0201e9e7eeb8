//! What a container runs, by its OCI runtime specification. Pure; what is absent is as runtimes take it.

use serde::Deserialize;

use super::ContainerError;
use crate::workload::{Process, User};

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    process: Words,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Words {
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    user: Ids,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Ids {
    uid: u32,
    gid: u32,
    additional_gids: Vec<u32>,
}

/// Command and user.
pub(super) fn parse(json: &[u8]) -> Result<(Process, User), ContainerError> {
    let Words { args, env, cwd, user } =
        serde_json::from_slice::<Spec>(json).map_err(ContainerError::Spec)?.process;
    let cwd = format!("/{}", cwd.trim_start_matches('/'));
    let process = Process { args, env, cwd, user: String::new() };
    let home = process.var("HOME").unwrap_or("/").to_owned();
    Ok((process, User { uid: user.uid, gid: user.gid, groups: user.additional_gids, home }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_has_its_default() {
        let json = br#"{"ociVersion":"1.0.2","process":{"args":["a","b"],"cwd":"/srv","env":["HOME=/h"],
            "user":{"uid":5,"gid":6,"additionalGids":[7]}},"root":{"path":"rootfs"}}"#;
        let (process, user) = parse(json).unwrap();
        assert_eq!((process.args.join(" ").as_str(), process.cwd.as_str()), ("a b", "/srv"));
        assert_eq!(user, User { uid: 5, gid: 6, groups: vec![7], home: "/h".into() });
        assert_eq!(parse(b"{}").unwrap().1.home, "/");
        assert!(parse(b"[").is_err());
    }
}
