//! Tells who asks (`dmverbs top`) what has passed through this process's QPs.

use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use super::{Progress, REPORT, Turn};
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

    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(UnixListener::as_fd)
    }

    /// Somebody asks.
    pub(super) fn answer(&self, progress: &Progress, turn: &mut Turn) {
        while let Some(listener) = &self.0 {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => {
                    tracing::debug!(error = %e, "nobody can ask this process for a moment");
                    return turn.deafen(progress, listener.as_fd(), REPORT);
                }
            };
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::iter;
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::engine::testing::end;
    use crate::sys::epoll::Event;
    use crate::testing::alone_by;

    /// In a process of its own, which has few to begin with.
    #[test]
    fn who_asks_a_process_without_file_descriptors_is_answered_when_it_has_some() {
        let name = "engine::report::tests::who_asks_a_process_without_file_descriptors_is_answered_when_it_has_some";
        let mut again = Command::new("sh");
        again.args(["-c", "ulimit -n 100 && exec \"$0\" \"$@\""]);
        if !alone_by(again, name) {
            return;
        }
        let progress = end().conn.progress;
        let mut turn = progress.turn.lock();
        let mut all: Vec<File> = iter::repeat_with(|| File::open("/dev/null")).map_while(Result::ok).collect();
        all.pop();
        let mut asking = report::connect(&report::name(std::process::id())).unwrap();
        progress.turn_epoll(&mut turn);
        let mut events = [Event::default(); 16];
        let n = progress.epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events[..n].iter().all(|event| event.token() != REPORT), "epoll asks again and again");
        drop((all, turn));
        asking.set_nonblocking(false).unwrap();
        asking.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut text = String::new();
        asking.read_to_string(&mut text).unwrap();
        assert!(text.starts_with('{'), "{text}");
    }
}
