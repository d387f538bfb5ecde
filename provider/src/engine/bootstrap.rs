//! How two QPs find each other (WIRE §2): listeners, dialling, the exchange of hellos, and what comes too early.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use dmverbs_proto::{HELLO_LEN, Hello, HelloError, Tick, Verdict};

use super::conn::Conn;
use super::link::WINDOW;
use super::registry::port;
use super::{BOOTSTRAP, LISTENER, Progress, REPORT, Turn};
use crate::object::{Gid, devices};
use crate::sys::epoll::Interest;
use crate::sys::socket::{self, Socket};
use crate::sys::{devmem, random, time};
use crate::transport::Stream;

/// Connections that have not said who they are, or whom nobody expects yet: so many, and so long.
const HALF_OPEN: usize = 1024;
const HALF_OPEN_TIME: Tick = 5_000_000_000;
/// So many are accepted before others have their turn.
const ACCEPTED_AT_ONCE: usize = 64;
/// A dialler waits so long for an answer: longer than an acceptor keeps it, or it would hang up on one under way.
const ANSWER_TIME: Tick = 2 * HALF_OPEN_TIME;
/// A dialler tries again after this time at first, and after at most that.
const RETRY_FIRST: Tick = 1_000_000;
const RETRY_LAST: Tick = 100_000_000;
/// A listener that could not accept for want of file descriptors tries again after this time.
pub(super) const DEAF_TIME: Tick = 100_000_000;
/// A destroyed QP waits so long for its peer to hear its last words.
const LINGER: Tick = 2_000_000_000;

/// Whom a QP was told to connect to, by ibv_modify_qp(3) to RTR.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) local_gid: Gid,
    pub(crate) remote_gid: Gid,
    pub(crate) remote_qpn: u32,
    pub(crate) sq_psn: u32,
    pub(crate) rq_psn: u32,
    pub(crate) rnr_timer: Tick,
    pub(crate) max_dest_rd_atomic: u8,
    pub(crate) traffic_class: u8,
    /// Interface index, which a link-local address needs.
    pub(crate) ifindex: u32,
}

impl Peer {
    fn hello(&self, qpn: u32, credit: u32) -> Hello {
        let mut nonce = [0; 8];
        // Without randomness the nonce is 0: it guards nothing unless there is a key.
        let _ = random::fill(&mut nonce);
        Hello {
            verdict: Verdict::Accept,
            src_qpn: qpn,
            dst_qpn: self.remote_qpn,
            src_gid: self.local_gid.0,
            dst_gid: self.remote_gid.0,
            sq_psn: self.sq_psn,
            rq_psn: self.rq_psn,
            nonce: u64::from_le_bytes(nonce),
            credit,
            rnr_timer: u32::try_from(self.rnr_timer).unwrap_or(u32::MAX),
            max_dest_rd_atomic: self.max_dest_rd_atomic,
        }
    }

    /// Whether the peer of QP `qpn` is that QP.
    pub(super) fn is_oneself(&self, qpn: u32) -> bool {
        (self.local_gid, qpn) == (self.remote_gid, self.remote_qpn)
    }

    /// The lower (GID, QP number) dials.
    fn dials(&self, qpn: u32) -> bool {
        (self.local_gid, qpn) < (self.remote_gid, self.remote_qpn)
    }

    /// Where its QPs' port is.
    fn listener(&self) -> SocketAddr {
        self.address(port(self.remote_qpn))
    }

    /// Its address, with a port.
    pub(super) fn address(&self, port: u16) -> SocketAddr {
        let mut address = SocketAddr::new(self.remote_gid.ip(), port);
        if let SocketAddr::V6(v6) = &mut address
            && v6.ip().is_unicast_link_local()
        {
            v6.set_scope_id(self.ifindex);
        }
        address
    }
}

/// Handshakes under way.
#[derive(Debug, Default)]
pub(super) struct Bootstrap {
    next_id: u64,
    pending: HashMap<u64, Pending>,
    parked: Vec<Parked>,
    dials: Vec<Dial>,
    lingering: Vec<(Tick, Arc<Conn>)>,
    /// Listeners that could not accept, by their tokens, and when they try again.
    deaf: Vec<(Tick, u64)>,
}

/// A socket on which a hello is awaited.
#[derive(Debug)]
struct Pending {
    socket: Socket,
    role: Role,
    buffer: [u8; HELLO_LEN],
    have: usize,
    deadline: Tick,
}

#[derive(Debug)]
enum Role {
    Accepting { from: SocketAddr },
    Dialling { conn: Arc<Conn>, told: Option<u32> },
}

/// A hello that came before its QP was ready for it.
#[derive(Debug)]
struct Parked {
    socket: Socket,
    hello: Hello,
    deadline: Tick,
}

/// A QP that dials until it gets through.
#[derive(Debug)]
struct Dial {
    conn: Arc<Conn>,
    at: Tick,
    pause: Tick,
    /// What has been said about the peer, once.
    complaint: Option<String>,
}

impl Bootstrap {
    fn next_deadline(&self) -> Option<Tick> {
        let dials = self.dials.iter().map(|dial| dial.at);
        let pending = self.pending.values().map(|pending| pending.deadline);
        let parked = self.parked.iter().map(|parked| parked.deadline);
        let lingering = self.lingering.iter().map(|l| l.0);
        dials.chain(pending).chain(parked).chain(lingering).chain(self.deaf.iter().map(|d| d.0)).min()
    }

    /// Whether no more connections are taken. Those that we have dialled are not in the way of others.
    fn is_full(&self) -> bool {
        let accepting = || self.pending.values().filter(|p| matches!(p.role, Role::Accepting { .. })).count();
        self.pending.len() + self.parked.len() >= HALF_OPEN && accepting() + self.parked.len() >= HALF_OPEN
    }
}

impl Turn {
    /// A QP has become ready to receive: finds its peer.
    pub(crate) fn meet(&mut self, progress: &Progress, conn: &Arc<Conn>) {
        let Some(peer) = conn.lock().peer else { return };
        if progress.registry.is_ours(peer.remote_qpn) && is_own_address(peer.remote_gid) {
            self.meet_within(progress, conn, &peer);
        } else if peer.dials(conn.qpn) {
            self.bootstrap.dials.push(Dial { conn: conn.clone(), at: 0, pause: RETRY_FIRST, complaint: None });
            self.bootstrap_tick(progress, time::now());
        } else {
            let (early, rest) = std::mem::take(&mut self.bootstrap.parked)
                .into_iter()
                .partition(|parked| parked.hello.dst_qpn == conn.qpn);
            self.bootstrap.parked = rest;
            for parked in early {
                self.answer(progress, parked.socket, &parked.hello);
            }
        }
    }

    /// The peer is in this process, or is the QP itself: a socket pair connects them.
    fn meet_within(&mut self, progress: &Progress, conn: &Arc<Conn>, peer: &Peer) {
        if peer.is_oneself(conn.qpn) {
            let credit = conn.lock().engine.credit();
            let hello = peer.hello(conn.qpn, credit);
            match Stream::to_self() {
                Ok(stream) => self.attach(conn, stream, &hello, credit),
                Err(e) => tracing::error!(error = %e, "no socket pair for a QP connected to itself"),
            }
            return;
        }
        let Some(other) = progress.registry.find(peer.remote_qpn) else { return };
        let (theirs, told) = {
            let inner = other.lock();
            let (Some(peer), true) = (inner.peer, inner.engine.is_unconnected()) else { return };
            (peer.hello(other.qpn, inner.engine.credit()), inner.engine.credit())
        };
        let credit = conn.lock().engine.credit();
        let ours = peer.hello(conn.qpn, credit);
        if !theirs.answers(&ours) {
            tracing::warn!(qpn = conn.qpn, peer = peer.remote_qpn, "the peer QP expects somebody else");
            return;
        }
        match Stream::pair() {
            Ok([a, b]) => {
                self.attach(conn, a, &theirs, credit);
                self.attach(&other, b, &ours, told);
            }
            Err(e) => tracing::error!(error = %e, "no socket pair between two QPs of this process"),
        }
    }

    /// `theirs` came over `stream`. Where that cannot be waited for, it is lost, as it is to the peer.
    pub(super) fn attach(&mut self, conn: &Arc<Conn>, stream: Stream, theirs: &Hello, told: u32) {
        let mut inner = conn.lock();
        if let Err(e) = conn.attach(&mut inner, stream, theirs, told) {
            tracing::error!(qpn = conn.qpn, error = %e, "cannot wait for the connection");
            return conn.lose(&mut inner);
        }
        drop(inner);
        self.insert(conn);
    }

    /// A QP that was destroyed: its number stays taken until the peer has heard its last words.
    pub(crate) fn linger(&mut self, conn: &Arc<Conn>) {
        self.forget(conn);
        self.bootstrap.lingering.push((time::now() + LINGER, conn.clone()));
        conn.progress.set_bootstrap_deadline(self.bootstrap.next_deadline());
    }

    /// The stream of a QP that may have lingered is gone.
    pub(super) fn linger_no_more(&mut self, conn: &Arc<Conn>) {
        self.bootstrap.lingering.retain(|(_, other)| !Arc::ptr_eq(other, conn));
    }

    /// A QP no longer wants its peer.
    pub(crate) fn forget(&mut self, conn: &Arc<Conn>) {
        self.bootstrap.dials.retain(|dial| !Arc::ptr_eq(&dial.conn, conn));
        self.bootstrap
            .pending
            .retain(|_, p| !matches!(&p.role, Role::Dialling { conn: dialler, .. } if Arc::ptr_eq(dialler, conn)));
    }

    /// Something happened on a socket of ours.
    pub(super) fn bootstrap_event(&mut self, progress: &Progress, token: u64) {
        self.handle(progress, token);
        progress.set_bootstrap_deadline(self.bootstrap.next_deadline());
    }

    fn handle(&mut self, progress: &Progress, token: u64) {
        if token & LISTENER != 0 {
            self.accept(progress, token & !LISTENER);
            return;
        }
        let Some(mut pending) = self.bootstrap.pending.remove(&token) else { return };
        match self.advance(progress, token, &mut pending) {
            Ok(Step::Wait) => {
                self.bootstrap.pending.insert(token, pending);
            }
            Ok(Step::Done) => self.finish(progress, pending),
            Err(e) => {
                let _ = progress.epoll.delete(pending.socket.as_fd());
                if let Role::Accepting { from } = pending.role {
                    tracing::warn!(%from, error = %e, "refused a connection");
                } else {
                    tracing::debug!(error = %e, "a dialled connection broke");
                }
            }
        }
    }

    fn accept(&mut self, progress: &Progress, index: u64) {
        let Some(listener) = progress.registry.listener(index) else { return };
        // Whoever connects without end is not to keep the turn; epoll tells again.
        for _ in 0..ACCEPTED_AT_ONCE {
            match socket::accept(listener.fd()) {
                Ok(Some((socket, from))) => {
                    if self.bootstrap.is_full() {
                        tracing::warn!(%from, "too many half-open connections: closing the newest");
                        continue;
                    }
                    socket::prefer_ipv4(socket.as_fd());
                    self.expect_hello(progress, socket, Role::Accepting { from }, Interest::READ);
                }
                Ok(None) => return,
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept connections for a moment");
                    self.deafen(progress, listener.fd(), BOOTSTRAP | LISTENER | index);
                    return;
                }
            }
        }
    }

    /// A listener cannot accept. Level-triggered epoll would ask again at once, and for ever.
    pub(super) fn deafen(&mut self, progress: &Progress, listener: BorrowedFd<'_>, token: u64) {
        let _ = progress.epoll.modify(listener, token, Interest::NONE);
        self.bootstrap.deaf.push((time::now() + DEAF_TIME, token));
        progress.set_bootstrap_deadline(self.bootstrap.next_deadline());
    }

    fn expect_hello(&mut self, progress: &Progress, socket: Socket, role: Role, interest: Interest) {
        self.bootstrap.next_id += 1;
        let id = self.bootstrap.next_id;
        if let Err(e) = progress.epoll.add(socket.as_fd(), BOOTSTRAP | id, interest) {
            tracing::warn!(error = %e, "cannot wait for a handshake");
            return;
        }
        let deadline = time::now() + HALF_OPEN_TIME;
        let pending = Pending { socket, role, buffer: [0; HELLO_LEN], have: 0, deadline };
        self.bootstrap.pending.insert(id, pending);
    }

    fn advance(&mut self, progress: &Progress, id: u64, pending: &mut Pending) -> io::Result<Step> {
        if let Role::Dialling { conn, told: told @ None } = &mut pending.role {
            if !socket::finish_connect(pending.socket.as_fd())? {
                return Ok(Step::Wait);
            }
            let inner = conn.lock();
            let peer = inner.peer.ok_or(io::ErrorKind::NotConnected)?;
            let credit = inner.engine.credit();
            drop(inner);
            socket::traffic_class(pending.socket.as_fd(), peer.traffic_class);
            send_hello(&pending.socket, &peer.hello(conn.qpn, credit))?;
            *told = Some(credit);
            pending.deadline = time::now() + ANSWER_TIME;
            progress.epoll.modify(pending.socket.as_fd(), BOOTSTRAP | id, Interest::READ)?;
            return Ok(Step::Wait);
        }
        while pending.have < HELLO_LEN {
            match socket::recv(pending.socket.as_fd(), &mut pending.buffer[pending.have..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => pending.have += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Wait),
                Err(e) => return Err(e),
            }
            // Whoever does not begin as we do is not kept waiting for the rest.
            if pending.have >= 8 && Hello::decode(&pending.buffer) == Err(HelloError::NotDmverbs) {
                break;
            }
        }
        Ok(Step::Done)
    }

    /// A hello has come, or what is none.
    fn finish(&mut self, progress: &Progress, pending: Pending) {
        let _ = progress.epoll.delete(pending.socket.as_fd());
        let hello = Hello::decode(&pending.buffer);
        match pending.role {
            Role::Accepting { from } => match hello {
                Ok(hello) => self.answer(progress, pending.socket, &hello),
                Err(e) => {
                    tracing::warn!(%from, error = %e, "refused a connection");
                    if let HelloError::Version(_) = e {
                        explain(&pending.socket);
                    }
                }
            },
            Role::Dialling { conn, told } => self.dialled(pending.socket, &conn, hello, told.unwrap_or(0)),
        }
    }

    /// Accepts, parks or rejects a dialler.
    fn answer(&mut self, progress: &Progress, socket: Socket, hello: &Hello) {
        let Some(conn) = progress.registry.find(hello.dst_qpn) else {
            return reject(&socket, hello, Verdict::NotThere);
        };
        let inner = conn.lock();
        let Some(peer) = inner.peer else {
            drop(inner);
            let deadline = time::now() + HALF_OPEN_TIME;
            self.bootstrap.parked.push(Parked { socket, hello: *hello, deadline });
            return;
        };
        let credit = inner.engine.credit();
        let ours = peer.hello(conn.qpn, credit);
        let met = !inner.engine.is_unconnected();
        drop(inner);
        // A dialler says no more before it is answered, but may have hung up.
        if !socket::recv(socket.as_fd(), &mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
            return;
        }
        if !hello.answers(&ours) {
            return reject(&socket, hello, Verdict::Mismatch);
        }
        if met {
            // It knows the dialler from before, and has to be reset first: until then it is as good as not there.
            return reject(&socket, hello, Verdict::NotThere);
        }
        socket::traffic_class(socket.as_fd(), peer.traffic_class);
        match send_hello(&socket, &ours) {
            Ok(()) => self.attach(&conn, Stream::duplex(socket), hello, credit),
            Err(e) => tracing::debug!(error = %e, "a dialler went away"),
        }
    }

    /// The acceptor has answered.
    fn dialled(&mut self, socket: Socket, conn: &Arc<Conn>, hello: Result<Hello, HelloError>, told: u32) {
        let Some(index) = self.bootstrap.dials.iter().position(|dial| Arc::ptr_eq(&dial.conn, conn)) else { return };
        let Some(peer) = conn.lock().peer else { return };
        let why = match &hello {
            Ok(Hello { verdict: Verdict::NotThere, .. }) => return,
            // Whoever listens there now: another process, or the socket itself (a self-connect).
            Ok(Hello { verdict: Verdict::Accept, .. })
                if !hello.is_ok_and(|h| h.answers(&peer.hello(conn.qpn, told))) =>
            {
                Some("somebody else answers there".to_string())
            }
            Ok(Hello { verdict: Verdict::Accept, .. }) => None,
            Ok(_) => Some("the peer QP expects somebody else".to_string()),
            Err(e) => Some(e.to_string()),
        };
        let dial = &mut self.bootstrap.dials[index];
        if let Some(why) = why {
            if dial.complaint.as_ref() != Some(&why) {
                tracing::warn!(qpn = conn.qpn, peer = %peer.listener(), why, "cannot connect");
                dial.complaint = Some(why);
            }
            return;
        }
        self.bootstrap.dials.swap_remove(index);
        // One that has failed meanwhile would only say goodbye, to a peer that had then met somebody.
        let fresh = conn.lock().engine.is_unconnected();
        if let (Ok(hello), true) = (hello, fresh) {
            self.attach(conn, Stream::duplex(socket), &hello, told);
        }
    }

    /// Dials what is due, and gives up what took too long.
    pub(super) fn bootstrap_tick(&mut self, progress: &Progress, now: Tick) {
        self.bootstrap.parked.retain(|parked| parked.deadline > now);
        self.bootstrap.pending.retain(|_, pending| pending.deadline > now);
        for (_, conn) in self.bootstrap.lingering.extract_if(.., |(deadline, _)| *deadline <= now) {
            conn.lose(&mut conn.lock());
            progress.release(&conn);
        }
        for (_, token) in self.bootstrap.deaf.extract_if(.., |(until, _)| *until <= now) {
            let hear = |fd: BorrowedFd<'_>| progress.epoll.modify(fd, token, Interest::READ);
            let _ = if token == REPORT {
                progress.reporter.listener().map(hear)
            } else {
                progress.registry.listener(token & !(BOOTSTRAP | LISTENER)).map(|listener| hear(listener.fd()))
            };
        }
        let dials = self.bootstrap.dials.iter().map(|dial| dial.conn.clone());
        for failed in dials.filter(|conn| !conn.lock().engine.is_unconnected()).collect::<Vec<_>>() {
            self.forget(&failed);
        }
        let mut due = Vec::new();
        for dial in &mut self.bootstrap.dials {
            if dial.at <= now {
                dial.at = now + dial.pause;
                dial.pause = (dial.pause * 2).min(RETRY_LAST);
                due.push(dial.conn.clone());
            }
        }
        for conn in due {
            let under_way = self
                .bootstrap
                .pending
                .values()
                .any(|p| matches!(&p.role, Role::Dialling { conn: dialler, .. } if Arc::ptr_eq(dialler, &conn)));
            let peer = conn.lock().peer;
            let (Some(peer), false) = (peer, under_way) else { continue };
            match socket::connect(peer.listener(), Some(peer.local_gid.ip()), None) {
                Ok(socket) => self.expect_hello(progress, socket, Role::Dialling { conn, told: None }, Interest::WRITE),
                Err(e) => tracing::debug!(to = %peer.listener(), error = %e, "cannot dial"),
            }
        }
        progress.set_bootstrap_deadline(self.bootstrap.next_deadline());
    }
}

enum Step {
    Wait,
    Done,
}

fn send_hello(socket: &Socket, hello: &Hello) -> io::Result<()> {
    socket::nodelay(socket.as_fd())?;
    socket::keep_alive(socket.as_fd())?;
    socket::make_room(socket.as_fd(), WINDOW.bytes)?;
    // For the memory of devices; nothing else is sent so.
    devmem::enable_zerocopy(socket.as_fd())?;
    // The socket is fresh: a hello fits its buffer, or the socket is of no use.
    if socket::send(socket.as_fd(), &hello.encode())? == HELLO_LEN {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Tells a dialler of another version which one we speak.
fn explain(socket: &Socket) {
    let _ = send_hello(socket, &Hello { verdict: Verdict::Version, ..Hello::default() });
}

/// Tells a dialler why not; it may be gone already.
fn reject(socket: &Socket, theirs: &Hello, verdict: Verdict) {
    let ours = Hello {
        verdict,
        src_qpn: theirs.dst_qpn,
        dst_qpn: theirs.src_qpn,
        src_gid: theirs.dst_gid,
        dst_gid: theirs.src_gid,
        ..*theirs
    };
    let _ = send_hello(socket, &ours);
}

fn is_own_address(gid: Gid) -> bool {
    devices().is_ok_and(|devices| devices.iter().any(|device| device.gids().is_ok_and(|gids| gids.contains(&gid))))
}
