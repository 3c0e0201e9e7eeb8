//! The doors through which spans and their engine reach what decides the order of events: tasks, and work that blocks.
//!
//! Owns nothing. Outside of tests a door leads to tokio and costs nothing. In a simulation (`simulation`, docs/design/0010) it leads
//! to a scheduler whose order comes from a seed. Time needs no door of ours: behind these rooms it is tokio's, whose clock the
//! simulation stops. `clippy.toml` forbids other ways to tasks, time and environment in `cache`, `span` and `engine`.

use tokio::runtime::Handle;

/// Runs a task. It ends by itself: nobody waits for it.
pub(crate) fn spawn(runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
    #[cfg(test)]
    if let Some(stage) = staged::stage() {
        return stage.spawn(Box::pin(task));
    }
    runtime.spawn(task);
}

/// Runs work that blocks, on a thread that may. `None`: it has panicked. The work goes on when its waiter is gone.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    #[cfg(test)]
    let work = match staged::work(work) {
        Ok(result) => return result.await.ok(),
        Err(work) => work,
    };
    tokio::task::spawn_blocking(work).await.ok()
}

/// Another thread may do something here. Says so to the simulation, which then does. The caller holds no lock.
#[inline]
pub(crate) fn between() {
    #[cfg(test)]
    if let Some(stage) = staged::stage() {
        stage.between(staged::Holding::Nothing);
    }
}

/// What only a simulation has.
#[cfg(test)]
pub(crate) mod staged {
    use std::cell::{Cell, RefCell};
    use std::io;
    use std::rc::Rc;
    use std::time::Duration;

    use futures_util::future::BoxFuture;
    use soci_core::digest::Digest;
    use soci_core::units::ByteRange;
    use tokio::sync::oneshot;

    /// What stands behind the doors of this thread.
    pub(crate) trait Stage {
        /// Runs a task.
        fn spawn(&self, task: BoxFuture<'static, ()>);
        /// Runs blocking work.
        fn work(&self, work: Box<dyn FnOnce() + Send>);
        /// Others may go on here.
        fn between(&self, holding: Holding);
        /// A reader waits so long before it asks again, whatever comes.
        fn pauses(&self, pause: Duration);
        /// Bytes of which part of a write come to the disk before it fails; `None`: it does not fail.
        fn fault_of_write(&self, layer: &Digest, length: usize) -> Option<usize>;
        /// The engine begins to fetch spans.
        fn begins(&self, request: &Begins<'_>);
    }

    /// What the engine begins to fetch.
    #[derive(Debug)]
    pub(crate) struct Begins<'a> {
        pub(crate) host: &'a str,
        pub(crate) layer: Digest,
        /// Compressed bytes.
        pub(crate) range: ByteRange,
        pub(crate) spans: usize,
        /// `demand`, or a class that nobody waits for.
        pub(crate) demand: bool,
    }

    /// What whoever lets others go on holds meanwhile.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Holding {
        /// No lock.
        Nothing,
        /// The right to write a layer's cache: work that blocks may want it, tasks do not.
        Writer,
    }

    /// A bug that is put into the product, to see whether the simulation finds it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Planted {
        /// A reader begins to listen after it has looked.
        LostWakeUp,
        /// Compressed bytes are believed as they come.
        NoDigest,
        /// A span that is not usable keeps its claim for ever.
        EndlessClaim,
        /// Bytes are marked before they are written.
        MarkedFirst,
        /// A write that fails is taken for one that does not.
        WriteBelieved,
        /// Prefetch does not wait while a reader's bytes arrive.
        PrefetchFirst,
        /// Prefetch takes no room for what it downloads.
        NoRoom,
        /// What a wrong pack has brought stays.
        PackBelieved,
        /// A reader takes what it has read, though bytes were given back meanwhile.
        HoleBelieved,
    }

    thread_local! {
        static STAGE: RefCell<Option<Rc<dyn Stage>>> = const { RefCell::new(None) };
        static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    pub(crate) fn stage() -> Option<Rc<dyn Stage>> {
        STAGE.with_borrow(Clone::clone)
    }

    /// Puts a stage behind the doors of this thread, or takes it away. Gives the one before.
    pub(crate) fn set(stage: Option<Rc<dyn Stage>>, planted: Option<Planted>) -> Option<Rc<dyn Stage>> {
        PLANTED.set(planted);
        STAGE.replace(stage)
    }

    /// Gives blocking work to the stage, or back when there is none.
    pub(crate) fn work<T, F>(work: F) -> Result<oneshot::Receiver<T>, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let Some(stage) = stage() else { return Err(work) };
        let (told, result) = oneshot::channel();
        stage.work(Box::new(move || _ = told.send(work())));
        Ok(result)
    }

    /// A reader waits so long before it asks again, whatever comes.
    pub(crate) fn pauses(pause: Duration) {
        if let Some(stage) = stage() {
            stage.pauses(pause);
        }
    }

    /// A write to a layer's cache, before which others may go on. `Err`: the disk takes only this part, and the write ends as
    /// [`refused`] says.
    pub(crate) fn write(layer: Digest, bytes: &[u8]) -> Result<&[u8], &[u8]> {
        let Some(stage) = stage() else { return Ok(bytes) };
        stage.between(Holding::Writer);
        match stage.fault_of_write(&layer, bytes.len()) {
            Some(part) => Err(&bytes[..part]),
            None => Ok(bytes),
        }
    }

    /// Others may go on between the maps of a layer's cache and its file.
    pub(crate) fn between_maps_and_file() {
        if let Some(stage) = stage() {
            stage.between(Holding::Writer);
        }
    }

    /// The disk is full.
    pub(crate) fn refused() -> io::Result<()> {
        if planted(Planted::WriteBelieved) { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// Whether the bug is planted.
    pub(crate) fn planted(bug: Planted) -> bool {
        PLANTED.get() == Some(bug)
    }
}
