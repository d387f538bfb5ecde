//! The broker's clients, and what they are lent.
//!
//! One thread serves them all, so it does nothing that a client could make last: what comes from a client is received,
//! judged and closed by helpers.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dmverbs_netdev::broker::Answer;
use dmverbs_netdev::{Ethtool, Lease, Turns, Vacancy, peer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, accept_with, send};
use rustix::process::getuid;

use super::pool::{Foreign, Helpers};
use super::port::Port;
use super::report::{self, Reporter, Reports};
use super::request::{Connection, Heard, Refusal, Wish};

/// How much clients may have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub leases_per_user: usize,
    /// Descriptors of all users that wait to be closed.
    pub waiting: usize,
}

/// The broker at work.
#[derive(Debug)]
pub struct Server {
    /// What has been sent to those that are not accepted yet is closed with it.
    listener: Foreign,
    stop: UnixStream,
    namespace: u64,
    limits: Limits,
    helpers: Helpers,
    reporter: Reporter,
    reports: Reports,
    turns: Turns,
    clients: Vec<Client>,
    /// How many clients there have been.
    count: u64,
}

#[derive(Debug)]
struct Client {
    /// No other has the same.
    id: u64,
    connection: Arc<Connection>,
    uid: u32,
    pid: i32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It has to ask by then.
    Asking { until: Instant },
    /// A helper listens to what it asks, which has to be known by then.
    Heard { until: Instant },
    /// It has a queue, while its socket listens. Nobody else can have the port before the lease has ended.
    Lent { lease: Lease, listener: Foreign, _port: Port },
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
    reports: PollFlags,
    /// To the connection of each client, and to its listening socket.
    clients: Vec<(PollFlags, PollFlags)>,
}

/// Connections, of all users; with what each holds, five descriptors if it has a queue, they fit half of the usual limit
/// of 1,024.
const MOST: usize = 100;
/// Connections of a user beyond those that have a queue.
const ASKING: usize = 4;
/// A client that has connected asks in this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks while nobody is let in.
const PAUSE: Duration = Duration::from_millis(100);

impl Server {
    /// To serve at this socket.
    ///
    /// # Errors
    /// There is no descriptor left to hear of helpers by.
    pub fn new(
        listener: OwnedFd,
        stop: UnixStream,
        namespace: u64,
        limits: Limits,
        helpers: Helpers,
        turns: Turns,
    ) -> io::Result<Self> {
        let listener = helpers.keep(getuid().as_raw(), listener);
        let (reporter, reports) = report::channel()?;
        Ok(Self { listener, stop, namespace, limits, helpers, reporter, reports, turns, clients: Vec::new(), count: 0 })
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
                    self.let_go(i);
                }
            }
            if !events.reports.is_empty() {
                for (id, heard) in self.reports.take() {
                    self.on_report(id, heard);
                }
            }
            if !events.listener.is_empty() {
                self.accept();
            }
        }
    }

    /// Waits until something happens, or a client has been silent for too long.
    fn wait(&self) -> io::Result<Events> {
        let lets_in = self.clients.len() < MOST && self.helpers.waiting() < self.limits.waiting;
        let mut awaited = vec![PollFd::new(&self.stop, PollFlags::IN)];
        awaited.push(PollFd::new(&self.listener, if lets_in { PollFlags::IN } else { PollFlags::empty() }));
        awaited.push(PollFd::new(&self.reports, PollFlags::IN));
        for client in &self.clients {
            let connection = PollFd::new(&client.connection, PollFlags::IN | PollFlags::RDHUP);
            match &client.state {
                State::Asking { .. } => awaited.push(connection),
                State::Heard { .. } => {}
                State::Lent { listener, .. } => {
                    awaited.extend([connection, PollFd::new(listener, PollFlags::empty())]);
                }
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
        let (stop, listener, reports) = (next(), next(), next());
        let clients = self.clients.iter().map(|client| match client.state {
            State::Asking { .. } => (next(), PollFlags::empty()),
            State::Heard { .. } => (PollFlags::empty(), PollFlags::empty()),
            State::Lent { .. } => (next(), next()),
        });
        Ok(Events { stop, listener, reports, clients: clients.collect() })
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted = accept_with(&self.listener, flags).map_err(io::Error::from);
        match accepted.and_then(|connection| Ok((peer(&connection)?, connection))) {
            Ok(((uid, pid), connection)) => self.admit(connection, uid, pid),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => {
                say(format_args!("cannot accept a connection: {e}"));
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn admit(&mut self, connection: OwnedFd, uid: u32, pid: i32) {
        self.count += 1;
        let connection = Arc::new(Connection::new(self.helpers.keep(uid, connection)));
        let state = State::Asking { until: Instant::now() + PATIENCE };
        let client = Client { id: self.count, connection, uid, pid, state };
        let others = self.clients.iter().filter(|other| other.uid == uid && !other.has_lease()).count();
        if self.helpers.is_full(uid) {
            client.refuse((libc::EAGAIN, format!("what user {uid} sent before is still being closed")));
        } else if others >= ASKING {
            client.refuse((libc::EAGAIN, format!("user {uid} has {ASKING} connections without a queue")));
        } else {
            self.clients.push(client);
        }
    }

    /// Looks at a client to which this has happened.
    fn turn(&mut self, i: usize, connection: PollFlags, listener: PollFlags) -> Fate {
        let client = &self.clients[i];
        if !listener.is_empty() {
            say(format_args!("{}: does not listen any longer", client.who()));
            return Fate::Goes;
        }
        match client.state {
            State::Asking { until } if !connection.is_empty() => {
                self.hear(i, until);
                Fate::Stays
            }
            State::Asking { until } | State::Heard { until } if until <= Instant::now() => {
                client.refuse((libc::ETIMEDOUT, "no request has come".to_owned()));
                Fate::Goes
            }
            State::Lent { .. } if !connection.is_empty() => {
                // Else it has ended.
                if connection == PollFlags::IN {
                    client.refuse((libc::EBUSY, "a connection is for one queue".to_owned()));
                }
                Fate::Goes
            }
            _ => Fate::Stays,
        }
    }

    /// Has a helper listen to a client.
    fn hear(&mut self, i: usize, until: Instant) {
        let client = &mut self.clients[i];
        client.state = State::Heard { until };
        let (id, connection) = (client.id, client.connection.clone());
        let (namespace, reporter) = (self.namespace, self.reporter.clone());
        self.helpers.run(client.uid, move || reporter.send((id, connection.hear(namespace))));
    }

    /// What follows from what has been heard of a client.
    fn on_report(&mut self, id: u64, heard: Heard) {
        self.let_go_of_interfaces();
        // One that has been let go meanwhile gets nothing.
        let Some(i) = self.clients.iter().position(|client| client.id == id) else { return };
        let state = match heard {
            Heard::Nothing => self.clients[i].until().map(|until| State::Asking { until }),
            Heard::End => None,
            Heard::Request(wish) => match wish.and_then(|wish| self.lend(i, wish)) {
                Ok(state) => Some(state),
                Err(refusal) => {
                    self.clients[i].refuse(refusal);
                    None
                }
            },
        };
        match state {
            Some(state) => self.clients[i].state = state,
            None => self.let_go(i),
        }
    }

    /// Lets go of who has a queue of an interface that is gone.
    fn let_go_of_interfaces(&mut self) {
        for i in (0..self.clients.len()).rev() {
            if matches!(&self.clients[i].state, State::Lent { lease, .. } if !lease.is_there()) {
                self.let_go(i);
            }
        }
    }

    fn let_go(&mut self, i: usize) {
        let client = self.clients.swap_remove(i);
        if let State::Lent { lease, .. } = &client.state {
            say(format_args!("{}: queue {} goes back", client.who(), lease.queue()));
        }
    }

    fn lend(&self, i: usize, wish: Wish) -> Result<State, Refusal> {
        let client = &self.clients[i];
        let most = self.limits.leases_per_user;
        if self.leases(Some(client.uid)) >= most {
            return Err((libc::EDQUOT, format!("user {} has as many queues as one may have: {most}", client.uid)));
        }
        let Wish { ifindex, dmabuf, listener, port } = wish;
        let vacancy = Ethtool::open().and_then(|ethtool| Vacancy::of(&ethtool, ifindex));
        if vacancy.map_err(|error| (error.errno(), error.to_string()))? == Vacancy::Leased {
            let why =
                "a queue that has been leased to the interface is not lent: which port leads there, who leased it says";
            return Err((libc::EOPNOTSUPP, why.to_owned()));
        }
        let lease = Lease::take(&self.turns, ifindex, dmabuf.as_fd(), port.number, port.protocols);
        let lease = lease.map_err(|error| (error.errno(), error.to_string()))?;
        let (queue, binding) = (lease.queue(), lease.binding());
        say(format_args!("{}: queue {queue} of interface {ifindex}, port {}", client.who(), port.number));
        // A client that has gone is seen by its connection.
        client.answer(&Answer::Lent { queue, binding });
        Ok(State::Lent { lease, listener, _port: port })
    }

    /// How many queues a user has, or all have.
    fn leases(&self, uid: Option<u32>) -> usize {
        let theirs = |client: &&Client| uid.is_none_or(|uid| client.uid == uid) && client.has_lease();
        self.clients.iter().filter(theirs).count()
    }
}

impl Client {
    fn has_lease(&self) -> bool {
        matches!(self.state, State::Lent { .. })
    }

    fn until(&self) -> Option<Instant> {
        match self.state {
            State::Asking { until } | State::Heard { until } => Some(until),
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
    use std::io::Read;
    use std::net::TcpStream;
    use std::os::fd::BorrowedFd;
    use std::sync::{Barrier, mpsc};
    use std::thread::{self, JoinHandle};

    use dmverbs_netdev::Ethtool;
    use dmverbs_netdev::broker::{Loan, NoLoan, Request};
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketType, bind, connect, listen, recv, socket_with};

    use super::super::confine;
    use super::super::testing::{hold, lingering, pair, say, unbound};
    use super::*;

    #[test]
    fn a_client_is_told_why_it_gets_no_queue() {
        let broker = Running::start(Resting::new());
        let (file, tcp) = (File::open("/dev/null").unwrap(), unbound(AddressFamily::INET));
        let refused = |descriptor: &dyn AsFd| match broker.ask(&file, descriptor) {
            Err(NoLoan::Refused { errno, why }) => (errno, why),
            other => panic!("{other:?}"),
        };
        let invalid = |why: &str| (libc::EINVAL, why.to_owned());
        assert_eq!(refused(&file), invalid("the second descriptor is no socket that could be listened to"));
        assert_eq!(refused(&tcp), invalid("the second descriptor is not bound to the interface"));
        dmverbs_netdev::bind_to_interface(&tcp, 1).unwrap();
        let (errno, why) = refused(&tcp);
        assert_eq!(errno, libc::EOPNOTSUPP);
        assert!(why.starts_with("cannot read the rings of lo: "), "{why}");
    }

    #[test]
    fn nonsense_and_too_many_connections_are_refused_by_name() {
        let broker = Running::start(Resting::new());
        let connections: Vec<OwnedFd> = (0..=ASKING).map(|_| broker.connect()).collect();
        assert!(answer(&connections[ASKING]).contains("connections without a queue"));
        say(&connections[0], b"nonsense", &[]);
        assert_eq!(answer(&connections[0]), "that is no request that this broker understands");
        say(&connections[1], &request().encode(), &[]);
        assert_eq!(answer(&connections[1]), "a request comes with two descriptors");
        drop(connections);
        assert!(matches!(
            broker.ask(&File::open("/dev/null").unwrap(), &broker.connect()),
            Err(NoLoan::Refused { .. })
        ));
    }

    /// The kernel would say that all connections here are of one user, so those of others are let in without asking it.
    #[test]
    fn a_socket_that_lingers_holds_up_nobody_but_who_sent_it() {
        let mut resting = Resting::new();
        let [third, tenth, behind] = [3, 10, 2].map(|uid| resting.admit(uid));
        let file = File::open("/dev/null").unwrap();
        let (sockets, _peers): (Vec<_>, Vec<_>) = (0..3).map(|_| lingering()).unzip();
        say(&third, &request().encode(), &after_files(&file, 2, &sockets[0]));
        say(&tenth, &request().encode(), &after_files(&file, 9, &sockets[1]));
        say(&behind, b"nonsense", &[]);
        say(&behind, &request().encode(), &after_files(&file, 1, &sockets[2]));
        // Or it would be for this thread to linger.
        drop(sockets);
        let helpers = resting.server.helpers.clone();
        let broker = Running::start(resting);
        for client in [&third, &tenth] {
            assert_eq!(answer(client), "a request comes with two descriptors");
            let ended = recv(client, &mut [0], RecvFlags::empty()).map(|(len, _)| len);
            assert_eq!(ended, Ok(0), "before all that came by it is closed");
        }
        for uid in [3, 10, 2] {
            let until = Instant::now() + PATIENCE;
            while is_served(&helpers, uid) {
                assert!(Instant::now() < until, "what user {uid} has sent does not linger");
            }
        }
        assert!(is_served(&helpers, 4));
        let other = broker.connect();
        say(&other, b"nonsense", &[]);
        assert_eq!(answer(&other), "that is no request that this broker understands");
    }

    #[test]
    fn a_user_who_has_sent_too_much_that_is_not_closed_is_refused_by_name() {
        let mut resting = Resting::new();
        let release = hold(&resting.server.helpers, 1);
        while !resting.server.helpers.is_full(1) {
            resting.server.helpers.run(1, || {});
        }
        let client = resting.admit(1);
        assert_eq!(answer(&client), "what user 1 sent before is still being closed");
        assert!(resting.server.clients.is_empty());
        let _other = resting.admit(2);
        assert_eq!(resting.server.clients.len(), 1);
        drop(release);
    }

    #[test]
    fn a_client_that_is_heard_for_too_long_is_let_go_and_what_it_sent_is_closed() {
        let mut resting = Resting::new();
        let client = resting.admit(1);
        resting.server.clients[0].state = State::Asking { until: Instant::now() + PAUSE };
        let release = hold(&resting.server.helpers, 1);
        let tcp = unbound(AddressFamily::INET);
        dmverbs_netdev::bind_to_interface(&tcp, 1).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        say(&client, &request().encode(), &[writer.as_fd(), tcp.as_fd()]);
        drop(writer);
        let _broker = Running::start(resting);
        assert_eq!(answer(&client), "no request has come");
        drop(release);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    fn request() -> Request {
        Request { ifindex: 1, port: 0 }
    }

    /// A broker that does not serve yet.
    struct Resting {
        folder: tempfile::TempDir,
        tell: UnixStream,
        server: Server,
    }

    impl Resting {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (stop, tell) = UnixStream::pair().unwrap();
            let listener = seqpacket();
            bind(&listener, &SocketAddrUnix::new(folder.path().join("socket")).unwrap()).unwrap();
            listen(&listener, 16).unwrap();
            let namespace = Ethtool::open().unwrap().namespace().unwrap();
            let limits = Limits { leases_per_user: 1, waiting: 256 };
            let server = Server::new(listener, stop, namespace, limits, confined_helpers(), Turns::open()).unwrap();
            Self { folder, tell, server }
        }

        fn admit(&mut self, uid: u32) -> OwnedFd {
            let (client, connection) = pair();
            self.server.admit(connection, uid, 0);
            client
        }
    }

    struct Running {
        folder: tempfile::TempDir,
        tell: UnixStream,
        thread: Option<JoinHandle<io::Result<()>>>,
    }

    impl Running {
        fn start(Resting { folder, tell, mut server }: Resting) -> Self {
            let thread = thread::spawn(move || {
                confine::this_thread();
                server.run()
            });
            Self { folder, tell, thread: Some(thread) }
        }

        fn path(&self) -> std::path::PathBuf {
            self.folder.path().join("socket")
        }

        fn connect(&self) -> OwnedFd {
            let connection = seqpacket();
            connect(&connection, &SocketAddrUnix::new(self.path()).unwrap()).unwrap();
            connection
        }

        /// By a connection of its own, for the loopback interface.
        fn ask(&self, dmabuf: &File, socket: &dyn AsFd) -> Result<Loan, NoLoan> {
            Loan::ask(self.connect().as_fd(), request(), dmabuf.as_fd(), socket.as_fd())
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.tell.write_all(b"x").unwrap();
            self.thread.take().unwrap().join().unwrap().unwrap();
        }
    }

    /// Helpers each of which has been confined.
    fn confined_helpers() -> Helpers {
        let helpers = Helpers::start().unwrap();
        let confined = Arc::new(Barrier::new(Helpers::COUNT + 1));
        for (uid, _) in (0..).zip(0..Helpers::COUNT) {
            let confined = confined.clone();
            helpers.run(uid, move || {
                confine::this_thread();
                confined.wait();
            });
        }
        confined.wait();
        helpers
    }

    /// Whether something for this user is done soon.
    fn is_served(helpers: &Helpers, uid: u32) -> bool {
        let (tell, told) = mpsc::channel();
        helpers.run(uid, move || {
            // Nobody may be listening any more.
            let _ = tell.send(());
        });
        told.recv_timeout(Duration::from_millis(200)).is_ok()
    }

    fn seqpacket() -> OwnedFd {
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    /// So many times the file, and the socket.
    fn after_files<'a>(file: &'a File, count: usize, socket: &'a TcpStream) -> Vec<BorrowedFd<'a>> {
        [vec![file.as_fd(); count], vec![socket.as_fd()]].concat()
    }

    /// Comes within a second.
    fn answer(connection: &OwnedFd) -> String {
        set_socket_timeout(connection, Timeout::Recv, Some(Duration::from_secs(1))).unwrap();
        let mut bytes = [0; Answer::LEN_MAX];
        let (len, _) = recv(connection, &mut bytes, RecvFlags::empty()).unwrap();
        match Answer::decode(&bytes[..len]) {
            Some(Answer::Refused { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }
}
