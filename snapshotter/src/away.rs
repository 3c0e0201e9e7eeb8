//! Work that blocks and that an end brings with it: syncing a file, removing a tree. Holds no state.
//!
//! What is dropped may be dropped by a worker of the async runtime, which must not wait for a disk.

use tokio::runtime::Handle;

/// Does the work on a thread that may block, or here when there is no runtime. What needs it to be over waits for something
/// that the work lets go of.
pub(crate) fn away(work: impl FnOnce() + Send + 'static) {
    #[cfg(test)]
    if crate::doors::staged::stage().is_some() {
        return work();
    }
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::away;

    #[test]
    fn no_worker_does_it() {
        let (send, receive) = mpsc::channel();
        let told = send.clone();
        let worker = thread::current().id();
        away(move || told.send(thread::current().id()).unwrap());
        assert_eq!(receive.recv().unwrap(), worker, "there is no runtime");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { away(move || send.send(thread::current().id()).unwrap()) });
        assert_ne!(receive.recv().unwrap(), worker);
    }
}
