//! Waiting for what another thread or process is to do. Holds no state.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Waits for something that happens soon; the limit is generous, because nothing is said about time.
///
/// # Panics
/// When it does not happen.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_mins(2);
    while !done() {
        assert!(Instant::now() < limit, "{what}");
        sleep(Duration::from_millis(10));
    }
}
