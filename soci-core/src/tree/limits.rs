//! What the names of a layer may be at most. Holds no state.

/// Bytes of one part of a name, at most: the kernel's NAME_MAX.
pub(super) const MAX_NAME: usize = 255;
/// Bytes of a path, at most: the kernel's PATH_MAX without the NUL.
pub(super) const MAX_PATH: usize = 4095;
/// Directories that no entry names, at most: a name of a few bytes can imply thousands.
pub(super) const MAX_IMPLIED: usize = 1 << 18;
