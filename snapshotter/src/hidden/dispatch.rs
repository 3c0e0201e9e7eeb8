//! One request: which layer is asked what, and how its answer becomes the kernel's.
//!
//! Nothing here waits. A read goes to its tree with the [`Reply`]; a request for a layer that is not attached yet is parked;
//! all else is answered at once. No state lives here.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

use super::answer::{Answer, Listing, Timeouts};
use super::device::Device;
use super::forest::{Forest, Found, Parked};
use super::ids::{NodeId, Slot};
use super::journal::Journal;
use super::reply::Reply;
use super::tree::Tree;
use super::values::{Attr, Totals};
use super::wire::{Header, Operation, PROBE, forgotten};

/// What requests are answered from.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) device: Arc<Device>,
    pub(crate) forest: Forest,
    pub(crate) journal: Arc<Journal>,
    pub(crate) timeouts: Timeouts,
    /// Held while forest and journal are changed together.
    pub(crate) changing: Mutex<()>,
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
            Operation::Forget => {
                self.forget(node);
                reply.none();
            }
            Operation::ForgetMany { objects } => {
                forgotten(objects).for_each(|object| self.forget(NodeId::from_raw(object)));
                reply.none();
            }
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

    /// The kernel has forgotten an object. A layer that has lost its name goes with its top: all else hangs on that.
    fn forget(&self, node: NodeId) {
        if node.index == NodeId::TOP && node.slot != Slot::OWN {
            let changing = self.changing.lock();
            if self.forest.is_retired(node.slot) {
                self.release(node.slot, changing);
            }
        }
    }

    /// Ends a slot. Who still asks for it gets ESTALE.
    pub(crate) fn release(&self, slot: Slot, changing: MutexGuard<'_, ()>) {
        let parked = self.forest.detach(slot);
        self.journal.release(slot);
        drop(changing);
        for parked in parked {
            parked.reply.error(Errno::STALE);
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

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::io::Read;
    use std::time::Duration;

    use super::super::answer;
    use super::super::values::Name;
    use super::super::wire;
    use super::*;

    /// A layer of one file that has no attributes, and says so as a layer of its own connection would.
    struct OneFile;

    impl Tree for OneFile {
        fn attr(&self, index: u32) -> Result<Attr, Errno> {
            if index == NodeId::TOP { Ok(Attr::file(index, 3)) } else { Err(Errno::NOENT) }
        }

        fn lookup(&self, _directory: u32, _name: &[u8]) -> Result<Attr, Errno> {
            Err(Errno::NOENT)
        }

        fn readlink(&self, _index: u32) -> Result<Cow<'_, [u8]>, Errno> {
            Err(Errno::INVAL)
        }

        fn list(&self, _: u32, _: u64, _: &mut dyn FnMut(Name<'_>) -> bool) -> Result<(), Errno> {
            Err(Errno::NOTDIR)
        }

        fn xattr(&self, _index: u32, _name: &[u8]) -> Result<Cow<'_, [u8]>, Errno> {
            Err(Errno::NOSYS)
        }

        fn xattr_names(&self, _index: u32) -> Result<Cow<'_, [u8]>, Errno> {
            Err(Errno::NOSYS)
        }

        fn totals(&self) -> Totals {
            Totals::default()
        }

        fn read(&self, _index: u32, _offset: u64, _size: u32, reply: Reply) {
            reply.data(b"abc");
        }
    }

    const SLOT: Slot = Slot::new(1);
    const FILE: NodeId = NodeId::new(SLOT, NodeId::TOP);

    /// A connection whose answers can be read. A pipe stands for the kernel.
    struct Kernel {
        dispatch: Dispatch,
        answers: std::io::PipeReader,
    }

    impl Kernel {
        fn new(forest: Forest) -> Self {
            let (answers, device) = std::io::pipe().unwrap();
            let device = Arc::new(Device::new(device.into()));
            let journal = Arc::new(Journal::create().unwrap());
            let (timeouts, changing) = (Timeouts::default(), Mutex::new(()));
            Self { dispatch: Dispatch { device, forest, journal, timeouts, changing }, answers }
        }

        fn with_file() -> Self {
            let kernel = Self::new(Forest::default());
            kernel.dispatch.forest.attach(SLOT, b"file", Arc::new(OneFile));
            kernel
        }

        fn ask(&self, opcode: u32, node: NodeId, body: &[u8]) {
            let mut request = Vec::new();
            request.extend(((wire::HEADER + body.len()) as u32).to_ne_bytes());
            request.extend(opcode.to_ne_bytes());
            request.extend(8u64.to_ne_bytes());
            request.extend(node.raw().to_ne_bytes());
            request.extend([0; 16]);
            request.extend(body);
            let header = Header::parse(&request).unwrap();
            let reply = Reply::new(Arc::clone(&self.dispatch.device), &header, None, false);
            self.dispatch.request(&header, &request, reply);
        }

        /// Error number and body of the next answer.
        fn answer(&mut self) -> (i32, Vec<u8>) {
            let mut header = [0; answer::HEADER];
            self.answers.read_exact(&mut header).unwrap();
            let [length, error, ..] = *header.as_chunks::<4>().0 else {
                unreachable!("a header has 16 bytes")
            };
            let mut body = vec![0; u32::from_ne_bytes(length) as usize - header.len()];
            self.answers.read_exact(&mut body).unwrap();
            (-i32::from_ne_bytes(error), body)
        }

        fn error(&mut self) -> Errno {
            Errno::from_raw_os_error(self.answer().0)
        }
    }

    fn range(size: u32) -> Vec<u8> {
        [&[0; 16][..], &size.to_ne_bytes(), &[0; 20]].concat()
    }

    #[test]
    fn a_layer_without_attributes_does_not_speak_for_all() {
        let mut kernel = Kernel::with_file();
        kernel.ask(22, FILE, b"\0\0\0\0\0\0\0\0user.a\0");
        assert_eq!(kernel.error(), Errno::NODATA);
        kernel.ask(23, FILE, &[0; 8]);
        assert_eq!(kernel.answer(), (0, vec![0; 8]));
    }

    #[test]
    fn operations_that_there_are_not_are_enosys_and_unknown_slots_estale() {
        let mut kernel = Kernel::with_file();
        kernel.ask(14, FILE, &[0; 8]);
        assert_eq!(kernel.error(), Errno::NOSYS);
        kernel.ask(25, NodeId::PROBE, &[0; 24]);
        assert_eq!(kernel.error(), Errno::NOSYS);
        kernel.ask(3, NodeId::new(Slot::new(9), 1), &[]);
        assert_eq!(kernel.error(), Errno::STALE);
        kernel.ask(1, NodeId::ROOT, b"other\0");
        assert_eq!(kernel.error(), Errno::NOENT);
    }

    #[test]
    fn a_request_for_an_awaited_layer_waits_for_it() {
        let mut kernel = Kernel::new(Forest::awaiting(vec![(SLOT, b"file".to_vec())]));
        kernel.ask(15, FILE, &range(2));
        assert_eq!(kernel.dispatch.device.waiting.len(), 1);
        let parked = kernel.dispatch.forest.attach(SLOT, b"file", Arc::new(OneFile));
        kernel.dispatch.resume(parked);
        assert_eq!(kernel.answer(), (0, b"ab".to_vec()));
        assert_eq!(kernel.dispatch.device.waiting.len(), 0);
    }

    #[test]
    fn an_interrupt_of_a_request_that_is_not_here_comes_again() {
        let mut kernel = Kernel::with_file();
        kernel.dispatch.device.waiting.add(2, 0, false);
        // The first has no answer, so the next answer is the second's.
        kernel.ask(36, NodeId::ROOT, &2u64.to_ne_bytes());
        kernel.ask(36, NodeId::ROOT, &4u64.to_ne_bytes());
        assert_eq!(kernel.error(), Errno::AGAIN);
    }

    #[test]
    fn names_of_layers_are_asked_for_each_time() {
        let mut kernel = Kernel::with_file();
        kernel.ask(1, NodeId::ROOT, b"file\0");
        let (error, body) = kernel.answer();
        assert_eq!((error, &body[..8]), (0, &FILE.raw().to_ne_bytes()[..]));
        let day = Duration::from_hours(24).as_secs();
        // How long the name is kept, and how long the attributes.
        assert_eq!((&body[16..24], &body[24..32]), (&[0; 8][..], &day.to_ne_bytes()[..]));
    }
}
