//! Queue pairs; ibv_create_qp(3), ibv_modify_qp(3), ibv_query_qp(3).

use std::sync::Arc;

use dmverbs_proto::{Access, Tick, Timing, rnr_timer};
use parking_lot::Mutex;

use super::{
    AhAttr, Cookie, Cq, Error, Gid, Limits, Mr, Pd, QpAttr, QpCap, QpModify, QpState, QpType, RecvWr, SendWr, Taken,
    transition,
};
use crate::engine::{Conn, Inner, Peer, Phase};

/// How ibv_create_qp(3) wants a QP.
#[derive(Clone, Copy, Debug)]
pub struct QpInit<'a> {
    /// Its kind.
    pub qp_type: QpType,
    /// Where its sends complete.
    pub send_cq: &'a Arc<Cq>,
    /// Where its receives complete.
    pub recv_cq: &'a Arc<Cq>,
    /// Its sizes.
    pub cap: QpCap,
    /// Whether every send request is signaled.
    pub sq_sig_all: bool,
    /// Returned in its events.
    pub cookie: Cookie,
}

/// A queue pair.
#[derive(Debug)]
pub struct Qp {
    conn: Arc<Conn>,
    attr: Mutex<QpAttr>,
}

impl Qp {
    /// Makes a QP in the RESET state.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the size that is beyond the device's limits; `Io` says why no listener could be had.
    pub fn create(pd: &Arc<Pd>, init: QpInit<'_>) -> Result<Arc<Qp>, Error> {
        let cap = granted(&init.cap)?;
        let progress = pd.context().progress();
        let place = progress.reserve_place()?;
        let qpn = progress.registry().allocate(progress.epoll())?;
        let cqs = (init.send_cq, init.recv_cq);
        let conn = Arc::new(Conn::new(qpn, pd, cqs, cap, init.sq_sig_all, init.cookie, place));
        progress.registry().insert(&conn);
        pd.attach();
        init.send_cq.attach();
        init.recv_cq.attach();
        Ok(Arc::new(Qp { conn, attr: Mutex::new(initial(cap)) }))
    }

    /// Its number.
    #[must_use]
    pub fn num(&self) -> u32 {
        self.conn.qpn
    }

    /// Its sizes, as granted.
    #[must_use]
    pub fn cap(&self) -> QpCap {
        self.conn.cap()
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> QpState {
        self.query().state
    }

    /// Its attributes.
    #[must_use]
    pub fn query(&self) -> QpAttr {
        let mut attr = self.attr.lock();
        let inner = self.conn.lock();
        if inner.has_failed() {
            attr.state = QpState::Err;
        }
        QpAttr { draining: attr.state == QpState::Sqd && !inner.is_drained(), ..*attr }
    }

    /// Changes attributes, and the state with them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a transition, or an attribute in it, that the table of ibv_modify_qp(3) does not allow,
    /// and for values beyond the device's limits. Nothing has changed then.
    pub fn modify(&self, m: &QpModify) -> Result<(), Error> {
        let mut attr = self.attr.lock();
        let failed = self.conn.lock().has_failed();
        let from = if failed { QpState::Err } else { attr.state };
        if m.cur_state.is_some_and(|state| state != from) {
            return Err(Error::Invalid("the QP is not in the state that the caller believes"));
        }
        let to = m.state.unwrap_or(from);
        transition::check(from, to, m)?;
        check_values(m)?;
        let mut new = QpAttr { state: to, ..*attr };
        merge(&mut new, m);
        let peer = match (from, to) {
            (QpState::Init, QpState::Rtr) => Some(self.peer(&new)?),
            (QpState::Sqd, QpState::Sqd) if m.ah.is_some() => {
                self.check_path(&new)?;
                None
            }
            _ => None,
        };
        // The hello tells of it otherwise.
        let rnr_news = peer.is_none() && to != QpState::Reset && new.min_rnr_timer != attr.min_rnr_timer;
        self.apply(from, &new, peer, m.sqd_async_notify);
        if rnr_news {
            self.conn.set_rnr_timer(rnr_timer(new.min_rnr_timer));
        }
        *attr = if to == QpState::Reset { initial(self.conn.cap()) } else { new };
        Ok(())
    }

    fn peer(&self, attr: &QpAttr) -> Result<Peer, Error> {
        let device = self.conn.pd.context().device();
        let gids = device.gids()?;
        let local_gid = gids.get(usize::from(attr.ah.sgid_index)).copied().filter(|gid| *gid != Gid::ZERO);
        let local_gid = local_gid.ok_or(Error::Invalid("no such GID index"))?;
        if attr.ah.dgid.ip().is_unspecified() {
            return Err(Error::Invalid("the destination GID is zero: RoCE addresses need a global route"));
        }
        if attr.ah.dgid.ip().is_ipv4() != local_gid.ip().is_ipv4() {
            return Err(Error::Invalid("source and destination GIDs are of different IP families"));
        }
        Ok(Peer {
            local_gid,
            remote_gid: attr.ah.dgid,
            remote_qpn: attr.dest_qpn,
            sq_psn: attr.sq_psn,
            rq_psn: attr.rq_psn,
            rnr_timer: rnr_timer(attr.min_rnr_timer),
            max_dest_rd_atomic: attr.max_dest_rd_atomic,
            traffic_class: attr.ah.traffic_class,
            ifindex: device.ifindex(),
        })
    }

    /// SQD takes another address vector, for another path; a connection keeps the one that it was made by.
    fn check_path(&self, new: &QpAttr) -> Result<(), Error> {
        let path = |peer: &Peer| (peer.local_gid, peer.remote_gid, peer.traffic_class);
        let asked = path(&self.peer(new)?);
        if self.conn.lock().peer().map(path) == Some(asked) { Ok(()) } else { Err(Error::NotSupported) }
    }

    fn apply(&self, from: QpState, new: &QpAttr, peer: Option<Peer>, notify_drained: bool) {
        let progress = self.conn.progress;
        if new.state == QpState::Reset {
            let mut turn = progress.lock();
            turn.forget(&self.conn);
            let mut inner = self.conn.lock();
            self.conn.hang_up(&mut inner);
            self.conn.reset(&mut inner);
            self.conn.discard_completions();
            return;
        }
        let mut inner = self.conn.lock();
        inner.set_access(new.access);
        self.conn.set_timing(&mut inner, timing(new));
        inner.set_phase(match new.state {
            QpState::Reset => Phase::Reset,
            QpState::Init | QpState::Rtr => Phase::Receive,
            _ => Phase::Send,
        });
        if let Some(mut peer) = peer {
            // PSNs of the send side come with RTS: WIRE §2.2 sends 0 for what is not known.
            peer.sq_psn = 0;
            peer.rq_psn = 0;
            inner.set_peer(Some(peer));
        }
        match new.state {
            QpState::Err => self.conn.fail(&mut inner, None),
            QpState::Sqd => {
                inner.set_paused(true);
                if notify_drained {
                    self.conn.want_drained(&mut inner);
                }
            }
            QpState::Rts if from == QpState::Sqd => {
                inner.set_paused(false);
                self.conn.forget_drained(&mut inner);
                self.conn.flush(&mut inner);
            }
            QpState::Rtr if from == QpState::Init => {
                drop(inner);
                progress.lock().meet(progress, &self.conn);
            }
            _ => {}
        }
    }

    /// Posts send requests in order.
    ///
    /// # Errors
    /// The index of the first request that was not posted, and why; those before it are.
    #[inline]
    pub fn post_send<'a>(&self, wrs: impl IntoIterator<Item = SendWr<'a>>) -> Result<(), (usize, Error)> {
        let mut inner = self.conn.lock();
        if !inner.takes_sends() {
            return Err((0, Error::State("the QP is not ready to send")));
        }
        let mut result = Ok(());
        for (i, wr) in wrs.into_iter().enumerate() {
            if let Err(e) = self.post_one(&mut inner, &wr) {
                result = Err((i, e));
                break;
            }
        }
        self.conn.after_post(&mut inner);
        result
    }

    /// Posts all of the requests, or none.
    ///
    /// # Errors
    /// As [`Qp::post_send`].
    pub fn post_send_all<'a, I>(&self, wrs: I) -> Result<(), Error>
    where
        I: IntoIterator<Item = SendWr<'a>>,
        I::IntoIter: Clone,
    {
        let wrs = wrs.into_iter();
        let mut inner = self.conn.lock();
        if !inner.takes_sends() {
            return Err(Error::State("the QP is not ready to send"));
        }
        let mut count = 0;
        for wr in wrs.clone() {
            self.check_send(&wr)?;
            count += 1;
        }
        if count > self.conn.send_room(&mut inner, count) {
            return Err(Error::NoMemory);
        }
        for wr in wrs {
            self.conn.post_send(&mut inner, &wr);
        }
        self.conn.after_post(&mut inner);
        Ok(())
    }

    #[inline]
    fn post_one(&self, inner: &mut Inner, wr: &SendWr<'_>) -> Result<(), Error> {
        self.check_send(wr)?;
        if self.conn.post_send(inner, wr) { Ok(()) } else { Err(Error::NoMemory) }
    }

    #[inline]
    fn check_send(&self, wr: &SendWr<'_>) -> Result<(), Error> {
        let cap = self.conn.cap();
        match wr.payload {
            super::Payload::Sges(sges) if sges.len() > cap.send_sge as usize => {
                Err(Error::Invalid("more scatter/gather elements than max_send_sge"))
            }
            super::Payload::Inline(bytes) if bytes.len() > cap.inline as usize => {
                Err(Error::Invalid("more inline data than max_inline_data"))
            }
            super::Payload::Inline(_) if wr.op.has_response() => {
                Err(Error::Invalid("a READ or atomic cannot be inline"))
            }
            _ => Ok(()),
        }
    }

    /// Posts receives in order.
    ///
    /// # Errors
    /// The index of the first request that was not posted, and why; those before it are.
    #[inline]
    pub fn post_recv<'a>(&self, wrs: impl IntoIterator<Item = RecvWr<'a>>) -> Result<(), (usize, Error)> {
        let mut inner = self.conn.lock();
        if inner.phase() == Phase::Reset {
            return Err((0, Error::State("receives cannot be posted in RESET")));
        }
        let most = self.conn.cap().recv_sge as usize;
        let mut result = Ok(());
        for (i, wr) in wrs.into_iter().enumerate() {
            if wr.sges.len() > most {
                result = Err((i, Error::Invalid("more scatter/gather elements than max_recv_sge")));
                break;
            }
            if !self.conn.post_recv(&mut inner, &wr) {
                result = Err((i, Error::NoMemory));
                break;
            }
        }
        self.conn.after_post_recv(&mut inner);
        result
    }

    /// Posts a receive of at most `len` bytes whose message stays where it comes, for [`Qp::take_message`]; `like` is
    /// memory of the device that it is for.
    ///
    /// # Errors
    /// [`Error::Invalid`] for memory of another protection domain, or that may not be written.
    pub fn post_recv_in_place(&self, id: u64, len: u32, like: &Mr) -> Result<(), Error> {
        let region = like.region();
        if region.pd() != self.conn.pd.id() || !region.access().contains(Access::LOCAL_WRITE) {
            return Err(Error::Invalid("the region is of another protection domain, or not for local writes"));
        }
        let mut inner = self.conn.lock();
        if inner.phase() == Phase::Reset {
            return Err(Error::State("receives cannot be posted in RESET"));
        }
        if !self.conn.post_recv_in_place(&mut inner, id, len, &region) {
            return Err(Error::NoMemory);
        }
        self.conn.after_post_recv(&mut inner);
        Ok(())
    }

    /// The oldest complete message that has not been taken, if there is one.
    #[must_use]
    pub fn take_message(&self) -> Option<Taken> {
        self.conn.lock().take_message()
    }

    /// Gives the memory of a message back.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no such message has been taken, or it has been returned.
    pub fn return_message(&self, handle: u64) -> Result<(), Error> {
        let returned = self.conn.lock().return_message(handle);
        if returned { Ok(()) } else { Err(Error::Invalid("no message that is taken has this handle")) }
    }

    /// Ends it. Requests that are still outstanding never complete, and completions that have not been polled are dropped,
    /// as by the providers of adapters: a program may have freed what they point to.
    ///
    /// # Errors
    /// None today; the signature is that of all verbs that destroy.
    pub fn destroy(qp: Arc<Qp>) -> Result<(), (Arc<Qp>, Error)> {
        let conn = &qp.conn;
        let mut turn = conn.progress.lock();
        {
            let mut inner = conn.lock();
            inner.set_phase(Phase::Gone);
            inner.set_peer(None);
            conn.fail(&mut inner, None);
            inner.return_messages();
            if inner.is_linked() {
                turn.linger(conn);
            } else {
                turn.forget(conn);
            }
        }
        drop(turn);
        conn.discard_completions();
        conn.progress.release(conn);
        conn.pd.context().events().forget(conn.cookie);
        conn.send_cq.detach();
        conn.recv_cq.detach();
        conn.pd.detach();
        Ok(())
    }
}

fn granted(asked: &QpCap) -> Result<QpCap, Error> {
    let within = |asked: u32, most: u32, what: &'static str| {
        if asked <= most { Ok(asked) } else { Err(Error::Invalid(what)) }
    };
    Ok(QpCap {
        send_wr: within(asked.send_wr, Limits::MAX_QP_WR, "max_send_wr is beyond the device's max_qp_wr")?,
        recv_wr: within(asked.recv_wr, Limits::MAX_QP_WR, "max_recv_wr is beyond the device's max_qp_wr")?,
        send_sge: within(asked.send_sge.max(1), Limits::MAX_SGE, "max_send_sge is beyond the device's max_sge")?,
        recv_sge: within(asked.recv_sge.max(1), Limits::MAX_SGE, "max_recv_sge is beyond the device's max_sge")?,
        inline: if asked.inline <= Limits::MAX_INLINE {
            asked.inline
        } else {
            return Err(Error::Invalid("max_inline_data is beyond what dmverbs offers"));
        },
    })
}

fn initial(cap: QpCap) -> QpAttr {
    QpAttr {
        state: QpState::Reset,
        draining: false,
        access: Access::empty(),
        pkey_index: 0,
        port: 0,
        ah: AhAttr::default(),
        path_mtu: 0,
        timeout: 0,
        retry_cnt: 0,
        rnr_retry: 0,
        rq_psn: 0,
        max_rd_atomic: 0,
        min_rnr_timer: 0,
        sq_psn: 0,
        max_dest_rd_atomic: 0,
        dest_qpn: 0,
        cap,
    }
}

fn merge(attr: &mut QpAttr, m: &QpModify) {
    fn set<T>(to: &mut T, from: Option<T>) {
        if let Some(from) = from {
            *to = from;
        }
    }
    set(&mut attr.access, m.access);
    set(&mut attr.pkey_index, m.pkey_index);
    set(&mut attr.port, m.port);
    set(&mut attr.ah, m.ah);
    set(&mut attr.path_mtu, m.path_mtu);
    set(&mut attr.timeout, m.timeout);
    set(&mut attr.retry_cnt, m.retry_cnt);
    set(&mut attr.rnr_retry, m.rnr_retry);
    set(&mut attr.rq_psn, m.rq_psn);
    set(&mut attr.max_rd_atomic, m.max_rd_atomic);
    set(&mut attr.min_rnr_timer, m.min_rnr_timer);
    set(&mut attr.sq_psn, m.sq_psn);
    set(&mut attr.max_dest_rd_atomic, m.max_dest_rd_atomic);
    set(&mut attr.dest_qpn, m.dest_qpn);
}

fn check_values(m: &QpModify) -> Result<(), Error> {
    let most = |value: Option<u8>, most: u8, what: &'static str| match value {
        Some(value) if value > most => Err(Error::Invalid(what)),
        _ => Ok(()),
    };
    most(m.timeout, 31, "timeout is beyond 31")?;
    most(m.retry_cnt, 7, "retry_cnt is beyond 7")?;
    most(m.rnr_retry, 7, "rnr_retry is beyond 7")?;
    most(m.min_rnr_timer, 31, "min_rnr_timer is beyond 31")?;
    most(m.max_rd_atomic, Limits::MAX_RD_ATOMIC, "max_rd_atomic is beyond the device's max_qp_init_rd_atom")?;
    most(m.max_dest_rd_atomic, Limits::MAX_RD_ATOMIC, "max_dest_rd_atomic is beyond the device's max_qp_rd_atom")?;
    if m.pkey_index.is_some_and(|index| index != 0) {
        return Err(Error::Invalid("no such P_Key index"));
    }
    if m.port.is_some_and(|port| port != 1) || m.ah.is_some_and(|ah| ah.port != 1) {
        return Err(Error::Invalid("no such port"));
    }
    if m.path_mtu.is_some_and(|mtu| !(1..=5).contains(&mtu)) {
        return Err(Error::Invalid("no such path MTU"));
    }
    Ok(())
}

/// Times of the QP: 4.096 µs · 2^timeout · (retry_cnt + 1), and as much again for a peer in software, which shares its processors.
fn timing(attr: &QpAttr) -> Timing {
    let retry = (attr.timeout != 0).then(|| (4096 << attr.timeout) * (Tick::from(attr.retry_cnt) + 1) * 2);
    Timing {
        retry,
        rnr_retry: attr.rnr_retry,
        max_rd_atomic: attr.max_rd_atomic,
        max_dest_rd_atomic: attr.max_dest_rd_atomic,
    }
}
