//! Which directory of a container's overlay is which layer of its image. Pure.
//!
//! Containerd names the snapshot of a layer by its chain id, and a snapshotter mounts the snapshots below a container's in
//! their order. What is mounted beside the image's layers (a runtime's own snapshot between them and the container) has
//! another name and is left out.

use std::path::PathBuf;

use soci_core::digest::Digest;

use super::ContainerError;
use crate::rootfs::chain_ids;

/// The directories of the layers with these digests of their plain bytes, lowest first. `parents` are names of
/// snapshots, the topmost first.
pub(super) fn directories(
    mounts: &[(String, Vec<String>)],
    parents: &[String],
    diff_ids: &[Digest],
) -> Result<Vec<PathBuf>, ContainerError> {
    let overlay = match mounts {
        [(kind, options)] if kind == "overlay" => options,
        [(kind, _)] => return Err(ContainerError::NoOverlay(format!("a {kind} mount"))),
        _ => return Err(ContainerError::NoOverlay(format!("{} mounts", mounts.len()))),
    };
    let lower = overlay.iter().find_map(|option| option.strip_prefix("lowerdir=")).unwrap_or_default();
    let lower: Vec<PathBuf> =
        lower.split(':').filter(|dir| dir.starts_with('/')).map(PathBuf::from).collect();
    if lower.len() != parents.len() {
        return Err(ContainerError::Lower { directories: lower.len(), snapshots: parents.len() });
    }
    let directory = |(number, chain_id): (usize, Digest)| {
        let at = parents.iter().position(|name| *name == chain_id.to_string());
        at.map(|at| lower[at].clone()).ok_or(ContainerError::NoLayer(number))
    };
    chain_ids(diff_ids).into_iter().enumerate().map(directory).collect()
}

/// The directory that a container's writes go to.
pub(super) fn writable(mounts: &[(String, Vec<String>)]) -> Option<PathBuf> {
    let (_, options) = mounts.first()?;
    options.iter().find_map(|option| option.strip_prefix("upperdir=")).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(lower: &str) -> Vec<(String, Vec<String>)> {
        let options = ["index=off", "upperdir=/s/9/fs", "workdir=/s/9/work", lower];
        vec![("overlay".into(), options.map(Into::into).to_vec())]
    }

    #[test]
    fn layers_are_told_by_the_names_of_their_snapshots() {
        let diff_ids = [Digest::of(b"low"), Digest::of(b"high")];
        let chain: Vec<String> = chain_ids(&diff_ids).iter().map(ToString::to_string).collect();
        let parents = ["own".to_owned(), chain[1].clone(), chain[0].clone()];
        let found = directories(&overlay("lowerdir=/s/3/fs:/s/2/fs:/s/1/fs"), &parents, &diff_ids).unwrap();
        assert_eq!(found, [PathBuf::from("/s/1/fs"), PathBuf::from("/s/2/fs")]);
        assert_eq!(writable(&overlay("lowerdir=/s/1/fs")), Some(PathBuf::from("/s/9/fs")));
        let refused = |mounts: &[_], parents: &[String]| directories(mounts, parents, &diff_ids).unwrap_err();
        assert!(matches!(refused(&overlay("lowerdir=/s/1/fs"), &parents), ContainerError::Lower { .. }));
        assert!(matches!(refused(&overlay("lowerdir=/s/1/fs:2"), &chain), ContainerError::Lower { .. }));
        assert!(matches!(refused(&overlay("lowerdir=/a:/b"), &parents[..2]), ContainerError::NoLayer(0)));
        assert!(matches!(refused(&[("bind".into(), Vec::new())], &parents), ContainerError::NoOverlay(_)));
        assert!(matches!(refused(&[], &parents), ContainerError::NoOverlay(_)));
    }
}
