//! Which boot of the machine this is: what was written in an earlier one may not be on the disk. Holds no state.

/// Identifier of the running boot of the machine; all zero when the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootId([u8; 16]);

impl BootId {
    /// The id of this boot (`/proc/sys/kernel/random/boot_id`).
    pub fn current() -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut id = [0; 16];
        let mut digits = text.chars().filter_map(|c| c.to_digit(16));
        for byte in &mut id {
            let (Some(high), Some(low)) = (digits.next(), digits.next()) else {
                return Self::default();
            };
            *byte = (high * 16 + low) as u8;
        }
        Self(id)
    }

    /// Whether both are the same boot. One that is not known is no other's, nor its own.
    pub fn is_same(self, other: Self) -> bool {
        self == other && self != Self::default()
    }

    /// An id that was kept, or a made-up one.
    pub const fn from_bytes(id: [u8; 16]) -> Self {
        Self(id)
    }

    /// The id, to keep it.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}
