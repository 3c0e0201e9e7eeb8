//! File content that is like real files in how it compresses.

/// Bytes that compress about as well as programs do, a little differently for each seed: noise, words, and
/// repetitions of what came up to 30 000 bytes before.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 48);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let word = (state >> 33) as usize;
        match word % 4 {
            0 => bytes.extend_from_slice(&state.to_le_bytes()),
            1 if bytes.len() > 30_000 => {
                let from = bytes.len() - 1 - word % 30_000;
                bytes.extend_from_within(from..(from + 40).min(bytes.len()));
            }
            _ => bytes.extend_from_slice(&b"the quick brown fox jumps over"[word % 20..]),
        }
    }
    bytes.truncate(length);
    bytes
}
