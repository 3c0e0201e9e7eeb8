//! Messages with descriptors over a Unix socket that keeps their borders (SOCK_SEQPACKET).
//!
//! Only system calls; what the messages say is in [`super::holder`] and [`super::systemd`]. No state lives here. What must
//! always hold: every descriptor that is received is closed on exec.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recvmsg, sendmsg, socket_with,
};

/// Descriptors that one message can have.
pub(crate) const MAX_DESCRIPTORS: usize = 16;
/// Bytes that one message can have.
pub(crate) const MAX_BYTES: usize = 4096;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

fn socket() -> Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Listens on a path that does not exist.
pub(crate) fn listen_on(path: &Path) -> Result<OwnedFd> {
    let listener = socket()?;
    bind(&listener, &SocketAddrUnix::new(path)?)?;
    listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Connects to a path that somebody listens on.
pub(crate) fn connect_to(path: &Path) -> Result<OwnedFd> {
    let connection = socket()?;
    connect(&connection, &SocketAddrUnix::new(path)?)?;
    Ok(connection)
}

/// Connects to a socket of datagrams: a path, or `@` and a name in the abstract space.
pub(crate) fn connect_to_datagrams(address: &[u8]) -> Result<OwnedFd> {
    let address = match address {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let connection = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    connect(&connection, &address)?;
    Ok(connection)
}

/// Accepts a connection.
pub(crate) fn accept(listener: impl AsFd) -> Result<OwnedFd> {
    accept_with(listener, SocketFlags::CLOEXEC)
}

/// Sends one message. It does not wait: a peer that does not read has no claim on our time.
pub(crate) fn send(connection: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOBIG);
    }
    sendmsg(connection, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Receives one message. `None`: the other side has closed the connection, by dying or otherwise.
pub(crate) fn receive(connection: impl AsFd) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(connection.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some((bytes, descriptors)))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn descriptors_arrive_with_their_message() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = listen_on(&path).unwrap();
        let client = connect_to(&path).unwrap();
        let server = accept(&listener).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        send(&client, b"here", &[writer.as_fd()]).unwrap();
        drop((client, writer));
        let (bytes, descriptors) = receive(&server).unwrap().unwrap();
        assert_eq!((&bytes[..], descriptors.len()), (&b"here"[..], 1));
        assert!(receive(&server).unwrap().is_none());
        rustix::io::write(&descriptors[0], b"through").unwrap();
        drop(descriptors);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(said, "through");
    }
}
