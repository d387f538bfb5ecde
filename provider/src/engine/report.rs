//! Tells who asks (`dmverbs top`) what has passed through this process's QPs.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};

use super::{Progress, REPORT};
use crate::object::{ProcessReport, QpReport};
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::{report, thread};

/// The listener, if there is one: nothing depends on it.
#[derive(Debug)]
pub(super) struct Reporter(Option<UnixListener>);

impl Reporter {
    pub(super) fn new(epoll: &Epoll) -> Reporter {
        let listener = report::listen().and_then(|listener| {
            epoll.add(listener.as_fd(), REPORT, Interest::READ)?;
            Ok(listener)
        });
        Reporter(listener.inspect_err(|e| tracing::debug!(error = %e, "nobody can ask this process")).ok())
    }

    /// Somebody asks.
    pub(super) fn answer(&self, progress: &Progress) {
        while let Some(Ok((stream, _))) = self.0.as_ref().map(UnixListener::accept) {
            if !report::may_ask(&stream).unwrap_or(false) {
                continue;
            }
            let Ok(text) = serde_json::to_vec(&progress.report()) else { return };
            // Whoever asks may be slow to read.
            let tell = move || tell(stream, &text);
            if let Err(e) = thread::spawn("dmverbs report", tell) {
                tracing::debug!(error = %e, "no thread to answer with");
            }
        }
    }
}

fn tell(mut stream: UnixStream, text: &[u8]) {
    let told = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_write_timeout(Some(report::PATIENCE)))
        .and_then(|()| stream.write_all(text));
    if let Err(e) = told {
        tracing::debug!(error = %e, "whoever asked does not listen");
    }
}

impl Progress {
    fn report(&self) -> ProcessReport {
        let mut qps: Vec<QpReport> = self.registry.all().iter().map(|conn| conn.report_traffic()).collect();
        qps.sort_unstable_by_key(|qp| qp.qpn);
        ProcessReport { pid: std::process::id(), qps }
    }
}
