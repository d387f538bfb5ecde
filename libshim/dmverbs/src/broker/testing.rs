//! What tests of the broker have in common.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socket_with,
    socketpair,
};

use super::pool::Helpers;

/// Both ends of a connection: a client's, and the broker's.
pub fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// Sends a message.
pub fn say(client: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd]) {
    try_say(client, bytes, descriptors).unwrap();
}

pub fn try_say(client: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(300))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    sendmsg(client, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

/// A TCP socket.
pub fn unbound(family: AddressFamily) -> OwnedFd {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

/// Has a helper do a job for this user that does not end before what is returned is dropped.
pub fn hold(helpers: &Helpers, uid: u32) -> Sender<()> {
    let (release, held) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    helpers.run(uid, move || {
        tell.send(()).unwrap();
        let _ = held.recv();
    });
    told.recv().unwrap();
    release
}

/// A socket that takes a minute to be closed, unless what it is connected with is closed.
pub fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    set_socket_linger(&socket, Some(Duration::from_secs(60))).unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[0; 1 << 16]).is_ok() {}
    (socket, peer)
}
