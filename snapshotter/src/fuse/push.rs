//! Pages of a pack are given to the kernel before it asks for them.
//!
//! The kernel asks for one page at a time, because read-ahead would ask for bytes that nobody needs (see
//! [`super::FuseOptions::read_ahead`]); a start would make thousands of such requests. But what a pack has brought is needed:
//! when a file is read, all of it that lies in the cache around the read is put into the kernel's page cache at once
//! (FUSE_NOTIFY_STORE). Nothing is fetched for it.
//!
//! When a pack is found to be wrong, the kernel is told to forget what it has of the layer, by the same way.
//!
//! Each mount has a [`Pusher`], whose thread owns the record of what was given. What must always hold: an event loop never
//! waits for the pusher, since the kernel lets the pusher wait for pages that event loops have yet to answer; only bytes
//! that a read would return are given.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;

use fuser::{INodeNo, Notifier};
use soci_core::coverage::Coverage;
use tokio::sync::watch;

use crate::fs::{InodeNo, LayerFs};
use crate::stats::Stats;

/// Bytes of a file that are looked at together, aligned.
const WINDOW: u64 = 512 << 10;
/// Reads that may wait to be looked at; more are let go.
const QUEUE: usize = 1024;
/// Files of which it is known what was given. Behind that, all is forgotten: giving twice costs a copy.
const FILES: usize = 1 << 16;

/// The side of the event loops.
#[derive(Debug)]
pub(super) struct Pusher(SyncSender<Told>);

/// The side of the thread, before it runs.
#[derive(Debug)]
pub(crate) struct Waiting {
    told: Receiver<Told>,
    fs: Arc<LayerFs>,
    stats: Arc<Stats>,
}

/// What has happened.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// A read was answered.
    Read { ino: InodeNo, offset: u64 },
    /// What packs have brought was forgotten.
    Forgotten,
}

impl Pusher {
    pub(super) fn new(fs: Arc<LayerFs>, stats: Arc<Stats>) -> (Self, Waiting) {
        let (sender, told) = sync_channel(QUEUE);
        (Self(sender), Waiting { told, fs, stats })
    }

    /// Lets the kernel forget whenever the layer forgets its packs, as long as the mount is there.
    pub(super) async fn follow(this: Weak<Self>, mut forgotten: watch::Receiver<()>) {
        while forgotten.changed().await.is_ok() {
            let Some(pusher) = this.upgrade() else { return };
            let tell = move || pusher.0.send(Told::Forgotten);
            let _ = tokio::task::spawn_blocking(tell).await;
        }
    }

    /// Says that a file was read at `offset`. Never waits.
    pub(super) fn was_read(&self, ino: InodeNo, offset: u64) {
        let _ = self.0.try_send(Told::Read { ino, offset });
    }
}

impl Waiting {
    /// Starts the thread, which ends with the last [`Pusher`].
    pub(super) fn start(self, notifier: Notifier) -> io::Result<()> {
        let thread = thread::Builder::new().name("fuse-push".into());
        thread.spawn(move || {
            let mut given: HashMap<InodeNo, Coverage> = HashMap::new();
            while let Ok(told) = self.told.recv() {
                match told {
                    Told::Read { ino, offset } => {
                        if given.len() > FILES {
                            given.clear();
                        }
                        if let Err(error) = self.push(ino, offset, given.entry(ino).or_default(), &notifier) {
                            tracing::debug!(ino = ino.0, %error, "pages could not be given to the kernel");
                        }
                    }
                    Told::Forgotten => {
                        given.clear();
                        self.invalidate(&notifier);
                    }
                }
            }
        })?;
        Ok(())
    }

    fn push(&self, ino: InodeNo, offset: u64, given: &mut Coverage, notifier: &Notifier) -> io::Result<()> {
        let start = offset / WINDOW * WINDOW;
        for (offset, bytes) in self.fs.packed_pages(ino, start, WINDOW, given)? {
            notifier.store(INodeNo(ino.0), offset, &bytes)?;
            self.stats.pushed_bytes.add(bytes.len() as u64);
        }
        Ok(())
    }

    /// Makes the kernel forget the content of all files. It does not mind numbers that it does not know.
    fn invalidate(&self, notifier: &Notifier) {
        for ino in self.fs.inodes() {
            if let Err(error) = notifier.inval_inode(INodeNo(ino.0), 0, 0) {
                tracing::error!(ino = ino.0, %error, "the kernel may keep wrong pages of a pack");
            }
        }
    }
}
