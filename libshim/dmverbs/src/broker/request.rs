//! What a client has sent, and whether it may have what it asks for.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use dmverbs_netdev::broker::Request;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, Shutdown, recv, recvmsg, shutdown,
};

use super::pool::Foreign;
use super::port::Port;

/// Why a client is refused: the error number that comes closest, and words.
pub type Refusal = (i32, String);

/// A connection with a client. It ends when it is dropped; what is in it still may take a helper to close.
#[derive(Debug)]
pub struct Connection(Foreign);

/// A request that may be granted.
#[derive(Debug)]
pub struct Wish {
    pub ifindex: u32,
    pub dmabuf: Foreign,
    pub listener: Foreign,
    pub port: Port,
}

/// What came from a client.
#[derive(Debug)]
pub enum Heard {
    /// Nothing yet.
    Nothing,
    /// It has closed the connection, or the connection is broken.
    End,
    /// It has asked for something, which may be refused already.
    Request(Result<Wish, Refusal>),
}

impl Connection {
    pub fn new(connection: Foreign) -> Self {
        Self(connection)
    }

    /// Takes a message of the client, and judges it. A client can make this last for ever.
    pub fn hear(&self, own_namespace: u64) -> Heard {
        let mut bytes = [0; Request::LEN + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights.map(|descriptor| self.0.another(descriptor)));
            }
        }
        match received {
            Err(Errno::AGAIN | Errno::INTR) => Heard::Nothing,
            Ok(received) if received.bytes > 0 || !descriptors.is_empty() => {
                // Descriptors that found no room make it a request that it is not.
                let len = if received.flags.contains(ReturnFlags::CTRUNC) { 0 } else { received.bytes };
                Heard::Request(Wish::judge(&bytes[..len], descriptors, own_namespace))
            }
            Ok(_) | Err(_) => Heard::End,
        }
    }

    /// Takes away what is left in a connection that has been shut down, but for descriptors: false if there are any.
    fn clear(&self) -> bool {
        // With this, not even a message of no bytes looks like none: it has credentials.
        if set_socket_passcred(&self.0, true).is_err() {
            return false;
        }
        loop {
            let mut byte = [0];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut control, flags) {
                // There is no room for descriptors.
                Ok(peeked) if !peeked.flags.contains(ReturnFlags::CTRUNC) => {}
                _ => return false,
            }
            if control.drain().next().is_none() {
                return true;
            }
            if recv(&self.0, &mut byte, RecvFlags::DONTWAIT).is_err() {
                return false;
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Nothing comes any more; and the client sees the end now, whenever the connection is closed.
        let ended = shutdown(&self.0, Shutdown::Both);
        if ended.is_ok() && self.clear() {
            self.0.close();
        }
    }
}

impl Wish {
    /// What a client asks for by this message.
    ///
    /// # Errors
    /// Why it may not have it.
    fn judge(message: &[u8], descriptors: Vec<Foreign>, own_namespace: u64) -> Result<Self, Refusal> {
        let Some(Request { ifindex, port }) = Request::decode(message) else {
            return Err((libc::EPROTO, "that is no request that this broker understands".to_owned()));
        };
        // Whether the first one is a dma-buf, the kernel says when it is to bind it.
        let [dmabuf, listener] = <[Foreign; 2]>::try_from(descriptors)
            .map_err(|_| (libc::EPROTO, "a request comes with two descriptors".to_owned()))?;
        let port = Port::give(listener.as_fd(), port, ifindex, own_namespace)?;
        Ok(Self { ifindex, dmabuf, listener, port })
    }
}

/// A message has no more (SCM_MAX_FD): those that find no room, the kernel closes where they are received.
const MOST_DESCRIPTORS: usize = 253;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{self, Read};

    use dmverbs_netdev::Ethtool;

    use super::super::pool::Helpers;
    use super::super::testing::{hold, pair, say, try_say};
    use super::*;

    #[test]
    fn nonsense_is_refused_and_its_descriptors_are_closed() {
        let helpers = Helpers::start().unwrap();
        let ethtool = Ethtool::open().unwrap();
        let (namespace, ifindex) = (ethtool.namespace().unwrap(), ethtool.ifindex("lo").unwrap());
        let good = Request { ifindex, port: 0 }.encode();
        for (message, count) in [(&good[..4], 2), (&good, 0), (&good, 1), (&good, 3), (&good, 2)] {
            let (mut reader, writer) = io::pipe().unwrap();
            let writers = (0..count).map(|_| helpers.keep(1, writer.try_clone().unwrap().into())).collect();
            assert!(Wish::judge(message, writers, namespace).is_err());
            drop(writer);
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn a_message_may_have_as_many_descriptors_as_the_kernel_lets_it() {
        let helpers = Helpers::start().unwrap();
        let (client, connection) = pair();
        let connection = Connection::new(helpers.keep(1, connection));
        let (mut reader, writer) = io::pipe().unwrap();
        say(&client, b"x", &[writer.as_fd(); MOST_DESCRIPTORS]);
        assert!(try_say(&client, b"x", &[writer.as_fd(); MOST_DESCRIPTORS + 1]).is_err());
        drop(writer);
        // None went where they were received.
        let release = hold(&helpers, 1);
        assert!(matches!(connection.hear(0), Heard::Request(Err(_))));
        assert_eq!(helpers.waiting(), MOST_DESCRIPTORS);
        drop(release);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_connection_ends_at_once_and_waits_for_a_helper_if_a_descriptor_is_in_it() {
        let helpers = Helpers::start().unwrap();
        let release = hold(&helpers, 1);
        let file = File::open("/dev/null").unwrap();
        let (plain, with): (&[BorrowedFd], &[BorrowedFd]) = (&[], &[file.as_fd()]);
        let said = [vec![], vec![("x", plain), ("", plain)], vec![("", with)], vec![("", plain), ("x", with)]];
        for (messages, waiting) in said.into_iter().zip([0, 0, 1, 2]) {
            let (client, connection) = pair();
            messages.into_iter().for_each(|(text, descriptors)| say(&client, text.as_bytes(), descriptors));
            drop(Connection::new(helpers.keep(1, connection)));
            assert_eq!(helpers.waiting(), waiting);
            assert_eq!(recv(&client, &mut [0], RecvFlags::DONTWAIT).map(|(len, _)| len), Ok(0));
            assert_eq!(try_say(&client, b"x", &[]), Err(Errno::PIPE));
        }
        drop(release);
    }
}
