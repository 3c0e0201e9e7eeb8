//! One request: which layer is asked what, and how its answer becomes the kernel's.
//!
//! Nothing here waits. A read goes to its tree with the [`Reply`]; a request for a layer that is not attached yet is parked;
//! all else is answered at once. No state lives here.

use std::sync::Arc;

use rustix::io::Errno;

use super::answer::{Answer, Listing, Timeouts};
use super::device::Device;
use super::forest::{Forest, Found, PROBE, Parked};
use super::ids::{NodeId, Slot};
use super::reply::Reply;
use super::tree::{Attr, Totals, Tree};
use super::wire::{Header, Operation};

/// What requests are answered from.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) device: Arc<Device>,
    pub(crate) forest: Forest,
    pub(crate) timeouts: Timeouts,
}

impl Dispatch {
    /// Answers a request, or sees to it that it will be. `request` has the header in front.
    pub(crate) fn request(&self, header: &Header, request: &[u8], reply: Reply) {
        let operation = match Operation::parse(header, request) {
            Ok(operation) => operation,
            Err(error) => {
                tracing::debug!(%error, "request is not answered");
                return reply.error(error.errno());
            }
        };
        let node = NodeId::from_raw(header.node);
        match operation {
            Operation::Forget => reply.none(),
            Operation::Interrupt { target } => self.interrupt(target, reply),
            // DESTROY is answered for politeness; the end of the connection follows.
            Operation::Destroy => reply.answer(Answer::new()),
            Operation::Init(_) | Operation::Unsupported => reply.error(Errno::NOSYS),
            Operation::Lookup { name } if node == NodeId::ROOT && name != PROBE => {
                let Some(slot) = self.forest.find_name(name) else { return reply.error(Errno::NOENT) };
                self.ask(slot, request, reply, |tree, reply| {
                    let found = tree.attr(NodeId::TOP);
                    // The name may get another slot, so the kernel must ask for it each time.
                    let timeouts = Timeouts { entry: std::time::Duration::ZERO, ..self.timeouts };
                    let top = NodeId::new(slot, NodeId::TOP);
                    settle(reply, found, |attr| Answer::new().entry(top, &attr, &timeouts));
                });
            }
            _ if node.slot == Slot::OWN => self.own(node, &operation, reply),
            _ => self.ask(node.slot, request, reply, |tree, reply| self.tree(tree, node, &operation, reply)),
        }
    }

    /// Tells a request that waits that its thread has a signal. The kernel asks again while the request is on its way into the
    /// table; if the request is answered already, the kernel does not know it any more.
    fn interrupt(&self, target: u64, reply: Reply) {
        if self.device.waiting.interrupt(target) {
            reply.none();
        } else {
            reply.error(Errno::AGAIN);
        }
    }

    /// Asks the tree of a slot now, or when it is attached.
    fn ask(&self, slot: Slot, request: &[u8], reply: Reply, ask: impl FnOnce(&dyn Tree, Reply)) {
        match self.forest.find(slot) {
            Found::Tree(tree) => ask(&*tree, reply),
            Found::Awaited => {
                let parked = Parked { request: request.to_vec(), reply: reply.waiting() };
                // It was attached in this moment.
                if let Some(parked) = self.forest.park(slot, parked) {
                    self.resume(vec![parked]);
                }
            }
            Found::Nothing => reply.error(Errno::STALE),
        }
    }

    /// Answers requests that have waited for their layer.
    pub(crate) fn resume(&self, parked: Vec<Parked>) {
        for Parked { request, reply } in parked {
            match Header::parse(&request) {
                Ok(header) => self.request(&header, &request, reply),
                Err(error) => reply.error(error.errno()),
            }
        }
    }

    /// The root directory and the probe file.
    fn own(&self, node: NodeId, operation: &Operation<'_>, reply: Reply) {
        let attr = match node {
            NodeId::ROOT => Attr::directory(node.index),
            NodeId::PROBE => Attr::file(node.index, 0),
            _ => return reply.error(Errno::STALE),
        };
        let answer = match *operation {
            Operation::Lookup { .. } => {
                let probe = Attr::file(NodeId::PROBE.index, 0);
                Answer::new().entry(NodeId::PROBE, &probe, &self.timeouts)
            }
            Operation::Getattr => Answer::new().attr(node, &attr, &self.timeouts),
            Operation::Read { .. } => Answer::new(),
            Operation::Readdir { offset, size, plus } if node == NodeId::ROOT => {
                let mut listing = Listing::new(size, plus.then_some(self.timeouts));
                self.forest.list(offset, |name, node, attr, next| {
                    let kind = attr.map_or(0, |attr| attr.mode);
                    listing.add(name, node, kind, next, None)
                });
                listing.into_answer()
            }
            Operation::Statfs => Answer::new().statfs(&Totals::default()),
            Operation::Getxattr { .. } => return reply.error(Errno::NODATA),
            Operation::Listxattr { size } => return sized(reply, &[], size),
            Operation::Readdir { .. } => return reply.error(Errno::NOTDIR),
            _ => return reply.error(Errno::INVAL),
        };
        reply.answer(answer);
    }

    fn tree(&self, tree: &dyn Tree, node: NodeId, operation: &Operation<'_>, reply: Reply) {
        let NodeId { slot, index } = node;
        let timeouts = &self.timeouts;
        match *operation {
            Operation::Lookup { name } => match tree.lookup(index, name) {
                Err(Errno::NOENT) if !timeouts.negative.is_zero() => {
                    reply.answer(Answer::new().absent(timeouts.negative));
                }
                found => settle(reply, found, |attr| {
                    Answer::new().entry(NodeId::new(slot, attr.index), &attr, timeouts)
                }),
            },
            Operation::Getattr => {
                settle(reply, tree.attr(index), |attr| Answer::new().attr(node, &attr, timeouts));
            }
            Operation::Readlink => {
                settle(reply, tree.readlink(index), |target| Answer::new().bytes(&target));
            }
            Operation::Read { offset, size } => {
                tree.read(index, offset, size, reply.at_most(size).waiting());
            }
            Operation::Readdir { offset, size, plus } => {
                let mut listing = Listing::new(size, plus.then_some(*timeouts));
                let listed = tree.list(index, offset, &mut |name| {
                    let node = NodeId::new(slot, name.attr.index);
                    let attr = Some(&name.attr).filter(|_| !matches!(name.name, b"." | b".."));
                    listing.add(name.name, node, name.attr.mode, name.next, attr)
                });
                settle(reply, listed, |()| listing.into_answer());
            }
            Operation::Statfs => reply.answer(Answer::new().statfs(&tree.totals())),
            Operation::Getxattr { name, size } => match tree.xattr(index, name) {
                Ok(value) => sized(reply, &value, size),
                // See `Tree`: ENOSYS would be for all layers.
                Err(Errno::NOSYS) => reply.error(Errno::NODATA),
                Err(errno) => reply.error(errno),
            },
            Operation::Listxattr { size } => match tree.xattr_names(index) {
                Ok(names) => sized(reply, &names, size),
                Err(Errno::NOSYS) => sized(reply, &[], size),
                Err(errno) => reply.error(errno),
            },
            _ => reply.error(Errno::NOSYS),
        }
    }
}

fn settle<T>(reply: Reply, found: Result<T, Errno>, answer: impl FnOnce(T) -> Answer) {
    match found {
        Ok(found) => reply.answer(answer(found)),
        Err(errno) => reply.error(errno),
    }
}

/// The rules of getxattr(2) for the size that the caller has room for.
fn sized(reply: Reply, value: &[u8], size: u32) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.answer(Answer::new().length(length)),
        Ok(length) if length <= size => reply.answer(Answer::new().bytes(value)),
        _ => reply.error(Errno::RANGE),
    }
}
