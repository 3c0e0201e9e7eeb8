//! Layouts: how a tree or an image answers for a layer in what the kernel keeps over a restart of the daemon, such as numbers of
//! inodes, places in listings and in the image. No state lives here.
//!
//! What must always hold: a layout that was released answers as it did then, as long as it is on the list. Whatever changes an answer is
//! a new layout, with a new version. It comes in two steps, so that neither an upgrade nor its way back breaks a container: a release
//! that answers it, then one that mounts with it ([`LAYOUTS`]). An old one goes two releases after the last that mounted with it.

use soci_core::digest::Digest;

/// Digits of a layer's name on the connection.
const NAME_DIGITS: usize = 32;

/// How the kernel has a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Tree,
    Image,
}

/// One way to answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    version: u32,
    /// Bytes of an image that are free before its first inode.
    pub(super) gap: u64,
}

/// What this build can answer. The first is what it mounts layers with.
#[cfg(not(feature = "successor"))]
pub(super) const LAYOUTS: &[Layout] = &[Layout { version: 1, gap: 0 }];

/// A later release, for tests of upgrades: all inodes of its images have other numbers.
#[cfg(feature = "successor")]
pub(super) const LAYOUTS: &[Layout] = &[Layout { version: 2, gap: 4096 }, Layout { version: 1, gap: 0 }];

impl Layout {
    /// What layers are mounted with.
    pub(super) const fn current() -> &'static Self {
        &LAYOUTS[0]
    }

    /// Whether layers are mounted with it.
    pub(super) fn is_current(&self) -> bool {
        self == Self::current()
    }

    /// The name of a layer on the connection; `layer`: all else that its answers depend on.
    pub(super) fn name(&self, form: Form, layer: &str) -> String {
        let (letter, kind) = match form {
            Form::Tree => ('t', "tree"),
            Form::Image => ('i', "image"),
        };
        let text = format!("{kind} {} {layer}", self.version);
        format!("{letter}{}", &Digest::of(text.as_bytes()).hex()[..NAME_DIGITS])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_every_release() {
        // Changes only with a new layout: mounts of earlier builds have these names.
        assert_eq!(LAYOUTS[0].name(Form::Tree, "x"), format!("t{}", &Digest::of(b"tree 1 x").hex()[..32]));
        assert_eq!(LAYOUTS[0].name(Form::Image, "x"), format!("i{}", &Digest::of(b"image 1 x").hex()[..32]));
        let versions: Vec<_> = LAYOUTS.iter().map(|layout| layout.version).collect();
        assert!(versions.contains(&1) && Layout::current().is_current(), "{versions:?}");
    }
}
