//! How a connection ends, or what it refuses, and what of the program's memory it lets go of.

use std::io;
use std::iter;
use std::sync::Arc;

use dmverbs_proto::Refusal;

use super::conn::{Conn, Inner, Phase};
use super::send::Nowhere;
use crate::mem::Region;
use crate::object::{AsyncEvent, Status};
use crate::sys::cancel::Uncancelled;
use crate::transport::Batch;

impl Conn {
    /// Both directions of the stream have ended, and it is not being read because a lane is waited for.
    pub(super) fn on_dead(self: &Arc<Self>, inner: &mut Inner) {
        if inner.link.as_ref().is_some_and(|link| link.stream.is_deaf()) {
            self.lose(inner);
        }
    }

    /// The stream has ended, or is given up without waiting for the peer.
    pub(super) fn lose(self: &Arc<Self>, inner: &mut Inner) {
        let _uncancelled = Uncancelled::begin();
        if let Some(mut link) = inner.link.take() {
            link.stream.deregister(self.progress.epoll());
            self.lose_lanes(&mut link);
            if let Some(batch) = link.batch.take() {
                self.progress.batches().give(batch);
            }
            self.progress.unlink(self);
        }
        inner.messages.abandon();
        inner.engine.on_lost();
        inner.engine.transmit(&mut Nowhere);
        self.settle(inner);
    }

    /// Moves completions to their queues, and tells the owner of a failure once.
    pub(super) fn settle(self: &Arc<Self>, inner: &mut Inner) {
        if inner.engine.is_over() && inner.keep_unsent(None).is_err() {
            // Half a frame is out, and the rest is not there any more.
            self.lose(inner);
        } else if inner.engine.is_only_unflushed() && inner.keep_host().is_ok() {
            inner.engine.on_flushed();
        }
        if inner.phase == Phase::Gone {
            return;
        }
        let (mut sent, mut received) = (false, false);
        let sends = iter::from_fn(|| inner.engine.poll_send()).inspect(|_| sent = true);
        inner.unpolled.0.add(self.send_cq.push(sends));
        let receives = iter::from_fn(|| inner.engine.poll_recv()).inspect(|_| received = true);
        inner.unpolled.1.add(self.recv_cq.push(receives));
        if (sent && self.send_cq.is_dead()) || (received && self.recv_cq.is_dead()) {
            self.on_dead_queue(inner);
        }
        if inner.drained_wanted && inner.engine.is_drained() && !inner.has_failed() {
            inner.drained_wanted = false;
            self.report(AsyncEvent::SqDrained(self.cookie));
        }
    }

    /// A completion queue has overflowed: nothing that the QP does would be heard of any more.
    #[cold]
    fn on_dead_queue(self: &Arc<Self>, inner: &mut Inner) {
        if !inner.has_failed() {
            self.fail(inner, None);
            self.report_failure(inner, AsyncEvent::QpFatal(self.cookie));
        }
    }

    /// The peer broke the protocol.
    pub(super) fn break_off(&self, inner: &mut Inner, why: &str) {
        tracing::error!(qpn = self.qpn, why, "closing the connection");
        inner.engine.on_fatal();
        self.report_failure(inner, AsyncEvent::QpReqErr(self.cookie));
    }

    /// A request of the peer was refused.
    pub(super) fn refuse(&self, inner: &mut Inner, refusal: Refusal) {
        inner.engine.refuse(refusal);
        self.report_refusal(inner, refusal);
    }

    /// The log hears of a refusal, and the program, unless a receive tells it.
    pub(super) fn report_refusal(&self, inner: &mut Inner, refusal: Refusal) {
        tracing::warn!(qpn = self.qpn, ?refusal, "refused a request of the peer");
        match refusal {
            Refusal::Access => self.report_failure(inner, AsyncEvent::QpAccessErr(self.cookie)),
            Refusal::Invalid => self.report_failure(inner, AsyncEvent::QpReqErr(self.cookie)),
            Refusal::Local | Refusal::TooLong => {}
        }
    }

    fn report_failure(&self, inner: &mut Inner, event: AsyncEvent) {
        if !std::mem::replace(&mut inner.reported, true) && inner.phase != Phase::Gone {
            self.report(event);
        }
    }

    /// Goes to the error state: everything outstanding is flushed, the peer hears goodbye.
    pub(crate) fn fail(self: &Arc<Self>, inner: &mut Inner, status: Option<Status>) {
        inner.engine.fail(status);
        self.flush(inner);
    }

    /// RESET: the peer hears goodbye, if the socket takes it at once; completions of what was outstanding are dropped.
    pub(crate) fn hang_up(self: &Arc<Self>, inner: &mut Inner) {
        inner.phase = Phase::Gone;
        self.fail(inner, None);
        self.lose(inner);
    }

    /// Of a QP that was destroyed nothing is kept once its last words are said; false before.
    pub(super) fn let_go(&self) -> bool {
        let mut inner = self.lock();
        let gone = inner.phase == Phase::Gone && inner.link.is_none();
        if gone {
            inner.forget_memory();
        }
        gone
    }

    /// `region` is no longer registered: when this returns, nothing touches its memory.
    pub(super) fn quiesce(self: &Arc<Self>, region: &Region) {
        let mut inner = self.lock();
        if inner.keep_unsent(Some(region)).is_err() {
            inner.engine.fail(Some(Status::LocProt));
            self.lose(&mut inner);
        }
        if region.device().is_some() {
            if inner.is_stale() {
                // The peer may never read what its request announced, and the device wants its memory back.
                self.flush(&mut inner);
            }
            inner.forget_revoked();
        }
    }
}

impl Inner {
    /// Lets go of all regions that requests, past and present, have named.
    pub(super) fn forget_memory(&mut self) {
        self.named = None;
        self.reads.clear();
        self.sends.clear();
        self.receives.clear();
    }

    /// What is to be sent from memory that is the program's again, that of `region` or all, is copied. What will not be
    /// sent, because the peer named what is no longer registered, is left to the next flush.
    fn keep_unsent(&mut self, region: Option<&Region>) -> io::Result<()> {
        match (self.waiting_batch(), region) {
            (Some(batch), Some(region)) => batch.keep_of(region),
            (Some(batch), None) => batch.keep(),
            (None, _) => Ok(()),
        }
    }

    /// What is to be sent from memory of the program is copied.
    fn keep_host(&mut self) -> io::Result<()> {
        self.waiting_batch().map_or(Ok(()), Batch::keep_host)
    }

    /// Whether what was to be sent is no longer registered.
    fn is_stale(&self) -> bool {
        let batch = self.link.as_ref().and_then(|link| link.batch.as_deref());
        batch.is_some_and(|batch| !batch.is_live())
    }

    /// What will still be sent.
    fn waiting_batch(&mut self) -> Option<&mut Batch> {
        let link = self.link.as_mut().filter(|link| !link.broken)?;
        link.batch.as_deref_mut().filter(|batch| batch.is_live())
    }
}
