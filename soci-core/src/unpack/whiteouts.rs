//! The form that whiteouts of image layers take in an overlayfs layer directory.

/// What becomes of whiteouts when a layer is written to a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// The form of overlayfs: a character device 0:0, and the xattr `trusted.overlay.opaque` (`user.overlay.opaque`
    /// where the mount has the option `userxattr`).
    Overlay {
        /// The overlay will be mounted with `userxattr`.
        userxattr: bool,
    },
}

impl Default for Whiteouts {
    fn default() -> Self {
        Self::Overlay { userxattr: false }
    }
}

impl Whiteouts {
    /// The xattr that marks a directory as opaque; its value is `y`.
    pub(super) fn opaque_xattr(self) -> &'static str {
        match self {
            Self::Overlay { userxattr: false } => "trusted.overlay.opaque",
            Self::Overlay { userxattr: true } => "user.overlay.opaque",
        }
    }
}
