//! The broker's clients, and what they are lent.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use dmverbs_netdev::broker::Answer;
use dmverbs_netdev::{Lease, peer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, accept_with, send};

use super::request::{self, Came, Discard, Refusal, Wish};

/// How much clients may have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub leases_per_user: usize,
}

/// The broker at work.
#[derive(Debug)]
pub struct Server {
    listener: OwnedFd,
    stop: UnixStream,
    namespace: u64,
    limits: Limits,
    discard: Discard,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    connection: OwnedFd,
    uid: u32,
    pid: i32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It has to ask by then.
    Asking { until: Instant },
    /// It has a queue. While the socket listens, nobody else can have the port that is steered there.
    Lent { lease: Lease, listener: OwnedFd },
}

/// What becomes of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Goes,
    Stays,
}

/// What has happened.
#[derive(Debug)]
struct Events {
    stop: PollFlags,
    listener: PollFlags,
    /// To the connection of each client, and to its listening socket.
    clients: Vec<(PollFlags, PollFlags)>,
}

/// Connections, of all users; with what each holds they fit the usual limit of 1,024 descriptors.
const MOST: usize = 128;
/// Connections of a user beyond those that have a queue.
const ASKING: usize = 4;
/// A client that has connected asks in this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks while nobody is let in.
const PAUSE: Duration = Duration::from_millis(100);

impl Server {
    pub fn new(listener: OwnedFd, stop: UnixStream, namespace: u64, limits: Limits, discard: Discard) -> Self {
        Self { listener, stop, namespace, limits, discard, clients: Vec::new() }
    }

    /// Serves until it is told to stop. All leases end with it.
    ///
    /// # Errors
    /// The kernel does not let it wait.
    pub fn run(&mut self) -> io::Result<()> {
        loop {
            let events = self.wait()?;
            if !events.stop.is_empty() {
                say(format_args!("told to stop; queues that go back: {}", self.leases(None)));
                return Ok(());
            }
            for (i, (connection, listener)) in events.clients.into_iter().enumerate().rev() {
                if self.turn(i, connection, listener) == Fate::Goes {
                    let client = self.clients.swap_remove(i);
                    if let State::Lent { lease, .. } = &client.state {
                        say(format_args!("{}: queue {} goes back", client.who(), lease.queue()));
                    }
                }
            }
            if !events.listener.is_empty() {
                self.accept();
            }
        }
    }

    /// Waits until something happens, or a client has been silent for too long.
    fn wait(&self) -> io::Result<Events> {
        let lets_in = self.clients.len() < MOST && !self.discard.is_full();
        let mut awaited = vec![PollFd::new(&self.stop, PollFlags::IN)];
        awaited.push(PollFd::new(&self.listener, if lets_in { PollFlags::IN } else { PollFlags::empty() }));
        for client in &self.clients {
            awaited.push(PollFd::new(&client.connection, PollFlags::IN));
            if let State::Lent { listener, .. } = &client.state {
                awaited.push(PollFd::new(listener, PollFlags::empty()));
            }
        }
        let until = self.clients.iter().filter_map(Client::until).min();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = if lets_in { left } else { Some(left.unwrap_or(PAUSE).min(PAUSE)) };
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut awaited, timeout.as_ref()) {
            Err(Errno::INTR) => awaited.iter_mut().for_each(PollFd::clear_revents),
            polled => drop(polled?),
        }
        let mut happened = awaited.iter().map(PollFd::revents);
        let mut next = || happened.next().unwrap_or(PollFlags::empty());
        let (stop, listener) = (next(), next());
        let clients = self.clients.iter().map(|client| match client.state {
            State::Asking { .. } => (next(), PollFlags::empty()),
            State::Lent { .. } => (next(), next()),
        });
        Ok(Events { stop, listener, clients: clients.collect() })
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted = accept_with(&self.listener, flags).map_err(io::Error::from);
        let ((uid, pid), connection) = match accepted.and_then(|connection| Ok((peer(&connection)?, connection))) {
            Ok(accepted) => accepted,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(e) => {
                say(format_args!("cannot accept a connection: {e}"));
                std::thread::sleep(PAUSE);
                return;
            }
        };
        let state = State::Asking { until: Instant::now() + PATIENCE };
        let client = Client { connection, uid, pid, state };
        let others = self.clients.iter().filter(|other| other.uid == uid && other.is_asking()).count();
        if others < ASKING {
            self.clients.push(client);
        } else {
            client.refuse((libc::EAGAIN, format!("user {uid} has {ASKING} connections that ask for nothing")));
        }
    }

    /// Looks at a client to which this has happened.
    fn turn(&mut self, i: usize, connection: PollFlags, listener: PollFlags) -> Fate {
        let client = &self.clients[i];
        if !listener.is_empty() {
            say(format_args!("{}: does not listen any longer", client.who()));
            return Fate::Goes;
        }
        if connection.is_empty() {
            return match client.until() {
                Some(until) if until <= Instant::now() => {
                    client.refuse((libc::ETIMEDOUT, "no request has come".to_owned()));
                    Fate::Goes
                }
                _ => Fate::Stays,
            };
        }
        let (message, descriptors) = match request::receive(client.connection.as_fd()) {
            Came::Nothing => return Fate::Stays,
            Came::End => return Fate::Goes,
            Came::Message(message, descriptors) => (message, descriptors),
        };
        let wish = Wish::judge(&message, descriptors, self.namespace, &self.discard);
        match wish.and_then(|wish| self.lend(i, wish)) {
            Ok(state) => {
                self.clients[i].state = state;
                Fate::Stays
            }
            Err(refusal) => {
                client.refuse(refusal);
                Fate::Goes
            }
        }
    }

    fn lend(&self, i: usize, wish: Wish) -> Result<State, Refusal> {
        let client = &self.clients[i];
        if !client.is_asking() {
            return Err((libc::EBUSY, "a connection is for one queue".to_owned()));
        }
        let most = self.limits.leases_per_user;
        if self.leases(Some(client.uid)) >= most {
            return Err((libc::EDQUOT, format!("user {} has as many queues as one may have: {most}", client.uid)));
        }
        let lease = Lease::take(wish.ifindex, wish.dmabuf.as_fd(), wish.port, wish.protocols);
        let lease = lease.map_err(|error| (error.errno(), error.to_string()))?;
        let (queue, binding) = (lease.queue(), lease.binding());
        say(format_args!("{}: queue {queue} of interface {}, port {}", client.who(), wish.ifindex, wish.port));
        // A client that has gone is seen by its connection.
        client.answer(&Answer::Lent { queue, binding });
        Ok(State::Lent { lease, listener: wish.listener })
    }

    /// How many queues a user has, or all have.
    fn leases(&self, uid: Option<u32>) -> usize {
        let theirs = |client: &&Client| uid.is_none_or(|uid| client.uid == uid) && !client.is_asking();
        self.clients.iter().filter(theirs).count()
    }
}

impl Client {
    fn is_asking(&self) -> bool {
        matches!(self.state, State::Asking { .. })
    }

    fn until(&self) -> Option<Instant> {
        match self.state {
            State::Asking { until } => Some(until),
            State::Lent { .. } => None,
        }
    }

    fn refuse(&self, (errno, why): Refusal) {
        say(format_args!("{}: refused: {why}", self.who()));
        self.answer(&Answer::Refused { errno, why });
    }

    /// One that does not take its answer has had it.
    fn answer(&self, answer: &Answer) {
        let _ = send(&self.connection, &answer.encode(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    fn who(&self) -> String {
        format!("user {}, process {}", self.uid, self.pid)
    }
}

/// A line on standard error. That it cannot be written is nothing to end for.
pub fn say(what: Arguments) {
    let _ = io::stderr().write_all(format!("dmverbs broker: {what}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};

    use dmverbs_netdev::Ethtool;
    use dmverbs_netdev::broker::{Loan, NoLoan, Request};
    use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketType, bind, connect, listen, recv, socket_with};

    use super::*;

    #[test]
    fn a_client_is_told_why_it_gets_no_queue() {
        let broker = Running::start();
        let (file, tcp) = (File::open("/dev/null").unwrap(), TcpListener::bind("0.0.0.0:0").unwrap());
        let refused = |descriptor: &dyn AsFd| match Loan::ask_at(&broker.path(), 1, file.as_fd(), descriptor.as_fd()) {
            Err(NoLoan::Refused { errno: libc::EINVAL, why }) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&file), "the second descriptor is no socket that could be listened to");
        assert_eq!(refused(&tcp), "the second descriptor is not bound to the interface");
        dmverbs_netdev::bind_to_interface(&tcp, 1).unwrap();
        assert_eq!(refused(&tcp), "the first descriptor is no dma-buf");
    }

    #[test]
    fn nonsense_and_too_many_connections_are_refused_by_name() {
        let broker = Running::start();
        let connections: Vec<OwnedFd> = (0..=ASKING).map(|_| broker.connect()).collect();
        assert!(answer(&connections[ASKING]).contains("connections that ask for nothing"));
        send(&connections[0], b"nonsense", SendFlags::empty()).unwrap();
        assert_eq!(answer(&connections[0]), "that is no request that this broker understands");
        send(&connections[1], &Request { ifindex: 1 }.encode(), SendFlags::empty()).unwrap();
        assert_eq!(answer(&connections[1]), "a request comes with two descriptors");
        drop(connections);
        assert!(matches!(
            Loan::ask_at(&broker.path(), 1, File::open("/dev/null").unwrap().as_fd(), broker.connect().as_fd()),
            Err(NoLoan::Refused { .. })
        ));
    }

    struct Running {
        folder: tempfile::TempDir,
        tell: UnixStream,
        thread: Option<JoinHandle<io::Result<()>>>,
    }

    impl Running {
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (stop, tell) = UnixStream::pair().unwrap();
            let listener = seqpacket();
            bind(&listener, &SocketAddrUnix::new(folder.path().join("socket")).unwrap()).unwrap();
            listen(&listener, 16).unwrap();
            let namespace = Ethtool::open().unwrap().namespace().unwrap();
            let limits = Limits { leases_per_user: 1 };
            let mut server = Server::new(listener, stop, namespace, limits, Discard::start().unwrap());
            Self { folder, tell, thread: Some(thread::spawn(move || server.run())) }
        }

        fn path(&self) -> std::path::PathBuf {
            self.folder.path().join("socket")
        }

        fn connect(&self) -> OwnedFd {
            let connection = seqpacket();
            connect(&connection, &SocketAddrUnix::new(self.path()).unwrap()).unwrap();
            connection
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.tell.write_all(b"x").unwrap();
            self.thread.take().unwrap().join().unwrap().unwrap();
        }
    }

    fn seqpacket() -> OwnedFd {
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn answer(connection: &OwnedFd) -> String {
        let mut bytes = [0; Answer::LEN_MAX];
        let (len, _) = recv(connection, &mut bytes, RecvFlags::empty()).unwrap();
        match Answer::decode(&bytes[..len]) {
            Some(Answer::Refused { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }
}
