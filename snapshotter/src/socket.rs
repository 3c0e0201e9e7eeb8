//! Unix sockets to listen on: taken over from a dead process, never from a living one.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Mode of the socket, as containerd's own: its owner and group, and nobody else.
const MODE: u32 = 0o660;

/// The socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("another process listens on {}", .0.display())]
    InUse(PathBuf),
    /// Something else than a socket has its name.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The file system.
    #[error("{action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Listens on `path`. Its directory is made (mode 0700) if it does not exist; a socket on which nobody answers is
/// removed first.
pub async fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |action| move |source| SocketError::Io { action, path: path.to_path_buf(), source };
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
    {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(failed("make the directory of"))?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_path_buf()));
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(SocketError::InUse(path.to_path_buf()));
        }
        Ok(_) => fs::remove_file(path).map_err(failed("remove the old socket"))?,
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(failed("set the mode of"))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/a.sock");
        let first = bind(&path).await.unwrap();
        assert!(matches!(bind(&path).await, Err(SocketError::InUse(_))));
        drop(first);
        assert!(path.exists());
        bind(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_of_that_name_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "x").unwrap();
        assert!(matches!(bind(&path).await, Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }
}
