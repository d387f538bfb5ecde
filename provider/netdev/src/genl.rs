//! A generic netlink family: requests, and attributes.

use std::io;

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use parking_lot::Mutex;

use crate::error::{Error, Refusal};
use crate::ioctl;

/// A socket, and the family that is spoken on it.
#[derive(Debug)]
pub(crate) struct Family {
    socket: Socket,
    id: u16,
    /// The last request's number. Whoever holds it owns the socket's answers.
    sequence: Mutex<u32>,
}

impl Family {
    /// Opens a socket in this thread's network namespace.
    pub fn open(name: &str) -> Result<Self, Error> {
        let mut this = Self::socket_alone()?;
        this.reach(name)?;
        Ok(this)
    }

    /// A socket that speaks with nobody yet: it is opened, and nothing else is done.
    pub fn socket_alone() -> io::Result<Self> {
        Ok(Self { socket: Socket::new(NETLINK_GENERIC)?, id: GENL_ID_CTRL, sequence: Mutex::new(0) })
    }

    /// Connects it.
    pub fn reach(&mut self, name: &str) -> Result<(), Error> {
        self.connect(name).map_err(|refusal| refusal.of(format!("reach the kernel's netlink family {name}")))
    }

    fn connect(&mut self, name: &str) -> Result<(), Refusal> {
        let socket = &mut self.socket;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Refusals come with the kernel's words, and without a copy of the request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        let answer = self.ask(CTRL_CMD_GETFAMILY, Attributes::new().string(CTRL_ATTR_FAMILY_NAME, name))?;
        let id = find(&answer, CTRL_ATTR_FAMILY_ID).and_then(|value| value.try_into().ok());
        self.id = u16::from_ne_bytes(id.ok_or_else(Refusal::malformed)?);
        Ok(())
    }

    /// A request with an answer: its attributes.
    pub fn ask(&self, command: u8, attributes: Attributes) -> Result<Vec<u8>, Refusal> {
        self.request(command, NLM_F_ACK, attributes)?.pop().ok_or_else(Refusal::malformed)
    }

    /// A request whose answer, if it has any, does not matter.
    pub fn tell(&self, command: u8, attributes: Attributes) -> Result<(), Refusal> {
        self.request(command, NLM_F_ACK, attributes).map(drop)
    }

    /// A request for a list.
    pub fn list(&self, command: u8, attributes: Attributes) -> Result<Vec<Vec<u8>>, Refusal> {
        self.request(command, NLM_F_DUMP, attributes)
    }

    /// The socket, for what has no netlink.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// How errors call the interface.
    pub fn interface(&self, index: u32) -> String {
        ioctl::name(&self.socket, index).map_or_else(|_| format!("interface {index}"), |name| name.to_string())
    }

    fn request(&self, command: u8, flags: u16, attributes: Attributes) -> Result<Vec<Vec<u8>>, Refusal> {
        let mut last = self.sequence.lock();
        *last = last.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = *last;
        let message = Generic { family: self.id, command, attributes: attributes.0 };
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        uninterrupted(|| self.socket.send(&bytes, 0))?;
        self.answers(*last)
    }

    fn answers(&self, sequence: u32) -> Result<Vec<Vec<u8>>, Refusal> {
        let mut answers = Vec::new();
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM);
            let received = uninterrupted(|| self.socket.recv(&mut datagram, libc::MSG_TRUNC))?;
            if received > datagram.len() {
                return Err(Refusal { errno: libc::EMSGSIZE, message: None });
            }
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<Generic>::deserialize(rest).map_err(|_| Refusal::malformed())?;
                let taken = (message.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(taken..).unwrap_or_default();
                if message.header.sequence_number != sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer.attributes),
                    NetlinkPayload::Error(error) => {
                        let words = words(message.header.flags, error.header.get(NETLINK_HEADER..));
                        return outcome(error.raw_code(), words, answers);
                    }
                    NetlinkPayload::Done(done) => {
                        let words = words(message.header.flags, Some(&done.extended_ack));
                        return outcome(done.code, words, answers);
                    }
                    NetlinkPayload::Noop => {}
                    _ => return Err(Refusal { errno: libc::ENOBUFS, message: None }),
                }
            }
        }
    }
}

/// Attributes to be sent.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let attribute = DefaultNla::new(kind, value.to_vec());
        let start = self.0.len();
        self.0.resize(start + attribute.buffer_len(), 0);
        attribute.emit(&mut self.0[start..]);
        self
    }

    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub fn flag(self, kind: u16) -> Self {
        self.bytes(kind, &[])
    }

    pub fn string(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub fn nested(self, kind: u16, value: Attributes) -> Self {
        self.bytes(kind | NLA_F_NESTED, &value.0)
    }

    /// One attribute more, if there is a value for it.
    pub fn maybe<T>(self, value: Option<T>, add: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => add(self, value),
            None => self,
        }
    }
}

/// The attributes among these bytes, up to the first that is malformed.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(4..length)?))
    })
}

/// The first attribute of this kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// The first attribute of this kind, a number.
pub(crate) fn find_u32(bytes: &[u8], kind: u16) -> Option<u32> {
    find(bytes, kind)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A string without the NUL that ends it.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A message of any family: a `genlmsghdr` and attributes.
#[derive(Debug)]
struct Generic {
    family: u16,
    command: u8,
    attributes: Vec<u8>,
}

impl NetlinkSerializable for Generic {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        GENL_HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..GENL_HEADER].copy_from_slice(&[self.command, VERSION, 0, 0]);
        buffer[GENL_HEADER..].copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Generic {
    type Error = std::io::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        let Some((&[command, ..], attributes)) = payload.split_first_chunk::<GENL_HEADER>() else {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        Ok(Self { family: header.message_type, command, attributes: attributes.to_vec() })
    }
}

/// The kernel's words on a refusal, if it sent any.
fn words(flags: u16, attributes: Option<&[u8]>) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    find(attributes?, NLMSGERR_ATTR_MSG).map(text)
}

fn outcome<T>(code: i32, message: Option<String>, answers: T) -> Result<T, Refusal> {
    if code < 0 { Err(Refusal { errno: code.saturating_neg(), message }) } else { Ok(answers) }
}

fn uninterrupted<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

const VERSION: u8 = 1;
const GENL_HEADER: usize = 4;
const NETLINK_HEADER: usize = 16;
/// More than the kernel puts into one datagram: 32 KiB for a list, and a table of 16 Ki queues.
const DATAGRAM: usize = 1 << 17;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NLMSGERR_ATTR_MSG: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let inner = Attributes::new().string(1, "rx").flag(3);
        let sent = Attributes::new().u8(5, 7).nested(2, inner).u32(9, 0x0102_0304);
        let read: Vec<_> = attributes(&sent.0).collect();
        assert_eq!(read.len(), 3);
        assert_eq!(read[0], (5, &[7][..]));
        let inner: Vec<_> = attributes(read[1].1).map(|(kind, value)| (kind, text(value))).collect();
        assert_eq!(inner, [(1, "rx".to_owned()), (3, String::new())]);
        assert_eq!(find_u32(&sent.0, 9), Some(0x0102_0304));
        assert_eq!(find_u32(&sent.0, 5), None, "a number of another size");
    }

    #[test]
    fn a_cut_off_attribute_ends_the_list() {
        let sent = Attributes::new().u32(1, 1).u32(2, 2);
        for length in 0..sent.0.len() {
            assert!(attributes(&sent.0[..length]).count() <= length / 8);
        }
    }

    #[test]
    fn a_family_that_does_not_exist_is_refused_with_its_name() {
        let error = Family::open("dmverbs-none").unwrap_err();
        assert_eq!(error.errno(), libc::ENOENT);
        assert!(error.to_string().contains("dmverbs-none"), "{error}");
    }
}
