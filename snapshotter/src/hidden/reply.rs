//! The right, and the duty, to answer one request.
//!
//! A [`Reply`] goes to whoever has the answer and may be used later, on any thread. It is used once. One that is dropped
//! without an answer answers EIO, so that every reader gets an answer. A process that is leaving is the
//! exception: its dropped replies stay with the kernel, and the successor answers them.

use std::io::IoSlice;
use std::sync::Arc;

use rustix::io::Errno;

use super::answer::{self, Answer};
use super::device::Device;
use super::journal::Cell;
use super::wire::Header;

/// The answer that one request waits for.
#[derive(Debug)]
pub struct Reply(Option<Owed>);

#[derive(Debug)]
struct Owed {
    device: Arc<Device>,
    unique: u64,
    pid: u32,
    /// Most bytes of content that the kernel takes.
    size: usize,
    /// The request is in the table of waiting ones.
    waits: bool,
    /// An earlier process has read the request.
    inherited: bool,
    /// Where the journal has the request.
    cell: Option<Cell>,
}

impl Reply {
    /// For a request that this process has read, or, if `inherited`, an earlier one.
    pub(crate) const fn new(
        device: Arc<Device>,
        header: &Header,
        cell: Option<Cell>,
        inherited: bool,
    ) -> Self {
        let (unique, pid) = (header.unique, header.pid);
        Self(Some(Owed { device, unique, pid, size: usize::MAX, waits: false, inherited, cell }))
    }

    /// The answer may take a while: from now on the request may end early, with its reader.
    pub(crate) fn waiting(mut self) -> Self {
        if let Some(owed) = &mut self.0
            && !owed.waits
        {
            owed.waits = true;
            owed.device.waiting.add(owed.unique, owed.pid, owed.inherited);
        }
        self
    }

    /// The kernel takes at most so many bytes of content.
    pub(crate) const fn at_most(mut self, size: u32) -> Self {
        if let Some(owed) = &mut self.0 {
            owed.size = size as usize;
        }
        self
    }

    /// Answers with content. The bytes are copied, so they may be of any memory.
    pub fn data(self, bytes: &[u8]) {
        let size = self.0.as_ref().map_or(0, |owed| owed.size);
        self.fresh(bytes[..bytes.len().min(size)].to_vec());
    }

    /// Answers with content that the caller has just written into memory of its own. It is not copied.
    ///
    /// It must not be a mapping of a file: if the process is killed while the kernel faults a page of it in, the reader gets EIO.
    pub fn fresh(mut self, bytes: Vec<u8>) {
        if let Some(owed) = self.0.take() {
            let bytes = &bytes[..bytes.len().min(owed.size)];
            let header = answer::header(answer::HEADER + bytes.len(), 0, owed.unique);
            owed.send(&[IoSlice::new(&header), IoSlice::new(bytes)]);
        }
    }

    /// Answers with an error.
    pub fn error(mut self, errno: Errno) {
        if let Some(owed) = self.0.take() {
            owed.fail(errno);
        }
    }

    /// Answers with anything but content.
    pub(crate) fn answer(mut self, answer: Answer) {
        if let Some(owed) = self.0.take() {
            let bytes = answer.finish(owed.unique);
            owed.send(&[IoSlice::new(&bytes)]);
        }
    }

    /// The request has no answer.
    pub(crate) fn none(mut self) {
        self.0 = None;
    }
}

impl Owed {
    /// Consumes the debt: the cell of the journal is emptied after the answer is written.
    fn send(self, parts: &[IoSlice<'_>]) {
        if !self.waits || self.device.waiting.take(self.unique) {
            self.device.answer(parts);
        }
    }

    fn fail(self, errno: Errno) {
        let bytes = Answer::error(self.unique, errno);
        self.send(&[IoSlice::new(&bytes)]);
    }

    /// Leaves the request to the successor.
    fn hand_over(self) {
        if self.waits {
            self.device.waiting.take(self.unique);
        }
        if let Some(cell) = self.cell {
            cell.leave();
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        match self.0.take() {
            Some(owed) if owed.device.is_leaving() => owed.hand_over(),
            Some(owed) => {
                tracing::warn!(unique = owed.unique, "a request got no answer; its reader gets EIO");
                owed.fail(Errno::IO);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    /// A device whose answers can be read. A pipe stands for the kernel.
    fn device() -> (Arc<Device>, std::io::PipeReader) {
        let (reader, writer) = std::io::pipe().unwrap();
        (Arc::new(Device::new(OwnedFd::from(writer))), reader)
    }

    fn reply(device: &Arc<Device>, unique: u64) -> Reply {
        let header = Header { length: 40, opcode: 15, unique, node: 1, pid: 0 };
        Reply::new(Arc::clone(device), &header, None, false)
    }

    fn said(device: Arc<Device>, mut reader: std::io::PipeReader) -> Vec<u8> {
        drop(device);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    }

    #[test]
    fn content_is_cut_to_what_the_kernel_takes() {
        let (device, reader) = device();
        reply(&device, 2).at_most(3).data(b"abcdef");
        assert_eq!(said(device, reader), [&answer::header(19, 0, 2)[..], b"abc"].concat());
    }

    #[test]
    fn a_dropped_reply_is_eio() {
        let (device, reader) = device();
        drop(reply(&device, 2).waiting());
        assert_eq!(device.waiting.len(), 0);
        assert_eq!(said(device, reader), Answer::error(2, Errno::IO));
    }

    #[test]
    fn a_leaving_process_leaves_its_requests_to_the_next() {
        let (device, reader) = device();
        let (dropped, answered) = (reply(&device, 2).waiting(), reply(&device, 4).waiting());
        device.leave();
        drop(dropped);
        answered.error(Errno::NOENT);
        assert_eq!(device.waiting.len(), 0);
        assert_eq!(said(device, reader), Answer::error(4, Errno::NOENT));
    }

    #[test]
    fn a_request_that_ended_early_is_not_answered_again() {
        let (device, reader) = device();
        let late = reply(&device, 2).waiting();
        assert!(device.waiting.take(2));
        late.data(b"late");
        assert_eq!(said(device, reader), b"");
    }
}
