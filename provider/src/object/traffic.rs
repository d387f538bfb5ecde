//! What has passed through a process's QPs, and who touched it: for `dmverbs top`.

use std::panic::resume_unwind;
use std::{io, thread};

use serde::{Deserialize, Serialize};

use crate::sys::report;

/// Payload of a QP in bytes, since its connection began. What is for, or from, memory of devices is counted once more:
/// by its way.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Traffic {
    /// Payload received, into whatever memory.
    pub received: u64,
    /// Payload sent.
    pub sent: u64,
    /// Received by a lane: the NIC put it into memory of a device.
    pub device_received: u64,
    /// Of that, left where the NIC put it (dmv_take_message(), include/dmverbs.h).
    pub in_place_received: u64,
    /// Of that, copied from there to its place by the engine of its device.
    pub engine_copied: u64,
    /// Of that, copied by the CPU: its place is the host's, or can be mapped, or is of another kind than the queue's
    /// memory.
    pub host_copied: u64,
    /// Received by a lane, yet into host memory: beside the split, or of packets that were not split.
    pub linear_received: u64,
    /// Received in-band for memory of a device, or copied out of the memory of a queue that could not be spared: it
    /// passed through the host.
    pub staged_received: u64,
    /// Sent from memory of a device by the NIC.
    pub device_sent: u64,
    /// Sent from memory of a device: it passed through the host.
    pub staged_sent: u64,
    /// System calls that read from a lane, that gave memory back to its queue, and that sent from memory of a device.
    pub lane_receives: u64,
    /// See above.
    pub token_returns: u64,
    /// See above.
    pub device_sends: u64,
}

impl Traffic {
    /// Bytes on their way from and to memory of devices that the host had its hands on.
    #[must_use]
    pub fn host_touched(&self) -> u64 {
        let received = self.linear_received.saturating_add(self.staged_received).saturating_add(self.host_copied);
        received.saturating_add(self.staged_sent)
    }

    /// What was counted of payload sent: in all, by the NIC, and through the host.
    pub(crate) fn sending(&self) -> [u64; 3] {
        [self.sent, self.device_sent, self.staged_sent]
    }

    /// Some of it is not sent after all.
    pub(crate) fn set_sending(&mut self, before: [u64; 3]) {
        [self.sent, self.device_sent, self.staged_sent] = before;
    }
}

/// A QP.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct QpReport {
    /// Its number.
    pub qpn: u32,
    /// Its device.
    pub device: String,
    /// Address and QP number of its peer, once it has been told of one.
    pub peer: Option<(String, u32)>,
    /// Whether it is connected.
    pub connected: bool,
    /// Its payload.
    pub traffic: Traffic,
}

/// A process that uses dmverbs.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct ProcessReport {
    /// Its number.
    pub pid: u32,
    /// Its QPs, by number.
    pub qps: Vec<QpReport>,
}

/// The processes of this network namespace, and this PID namespace, that use dmverbs, as far as this user may ask them.
///
/// # Errors
/// /proc cannot be read.
pub fn processes() -> io::Result<Vec<ProcessReport>> {
    Ok(ask_each(&report::pids()?, ask))
}

/// Processes that are asked at a time: one that does not answer takes its time.
const AT_A_TIME: usize = 64;

fn ask_each(pids: &[u32], ask: impl Fn(u32) -> io::Result<ProcessReport> + Sync) -> Vec<ProcessReport> {
    let (ask, mut found) = (&ask, Vec::new());
    for pids in pids.chunks(AT_A_TIME) {
        thread::scope(|scope| {
            let start = |&pid: &u32| (pid, thread::Builder::new().spawn_scoped(scope, move || ask(pid)));
            for (pid, asked) in pids.iter().map(start).collect::<Vec<_>>() {
                // Where there can be no thread it has to wait.
                let asked = asked.map(|asked| asked.join().unwrap_or_else(|panic| resume_unwind(panic)));
                match asked.unwrap_or_else(|_| ask(pid)) {
                    Ok(process) => found.push(process),
                    Err(e) => tracing::debug!(pid, error = %e, "a process does not tell of its QPs"),
                }
            }
        });
    }
    found
}

fn ask(pid: u32) -> io::Result<ProcessReport> {
    report_of(pid, &report::ask(pid)?)
}

fn report_of(pid: u32, text: &[u8]) -> io::Result<ProcessReport> {
    let process: ProcessReport = serde_json::from_slice(text)?;
    if process.pid == pid { Ok(process) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn one_that_does_not_answer_holds_up_no_other() {
        let all = Barrier::new(3);
        let asked = ask_each(&[7, 8, 9], |pid| {
            all.wait();
            if pid == 8 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(ProcessReport { pid, qps: Vec::new() }) }
        });
        assert_eq!(asked.iter().map(|process| process.pid).collect::<Vec<_>>(), [7, 9]);
    }

    #[test]
    fn a_process_tells_of_itself_only() {
        let told = br#"{"pid":42,"qps":[]}"#;
        assert_eq!(report_of(42, told).unwrap(), ProcessReport { pid: 42, qps: Vec::new() });
        assert_eq!(report_of(43, told).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(report_of(42, b"{}").is_err());
    }

    #[test]
    fn a_sum_of_whatever_was_told_does_not_overflow() {
        let traffic = Traffic { linear_received: u64::MAX, staged_sent: 1, host_copied: 1, ..Traffic::default() };
        assert_eq!(traffic.host_touched(), u64::MAX);
    }
}
