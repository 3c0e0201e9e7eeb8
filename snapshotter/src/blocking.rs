//! Work that waits for disks or locks, away from the threads of the async runtime. Holds no state.
//!
//! Work that has begun runs to its end, also when nobody waits for it any more. Work that has not begun when the runtime ends
//! is dropped; so is who waits for it.

use std::any::Any;
use std::future::pending;
use std::panic::resume_unwind;

use tokio::task::spawn_blocking;

/// Runs the work. A panic of it goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    try_blocking(work).await.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs the work. A panic of it, which its thread has logged, is an error.
pub(crate) async fn try_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Box<dyn Any + Send>> {
    match spawn_blocking(work).await {
        Ok(result) => Ok(result),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => Err(panic),
            Err(_) => pending().await, // cancelled: the runtime is ending
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_ends_with_its_result_or_its_panic() {
        assert_eq!(blocking(|| 7).await, 7);
        let panic = try_blocking(|| -> u8 { panic!("why") }).await.unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"why"));
        let passed_on = tokio::spawn(blocking(|| -> u8 { panic!("why") })).await.unwrap_err();
        assert!(passed_on.is_panic());
    }
}
