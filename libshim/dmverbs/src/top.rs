//! `dmverbs top`: the QPs of the processes that use dmverbs, and what passes through them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use dmverbs_provider::object::{self, ProcessReport, Traffic};

use crate::failure::Failure;

/// Show the queue pairs of running programs, and who touches what they send and receive
///
/// Programs of this network namespace and this PID namespace, of this user (of all for root). Bytes of payload, since each
/// connection began: IN and OUT are all of it; DEVICE is what NICs put into, and sent from, memory of devices, HOST what
/// passed through the host on its way from or to such memory, or was copied from where a NIC had put it by the CPU.
#[derive(Debug, clap::Args)]
pub struct Top {
    /// Print once, and end
    #[arg(long)]
    once: bool,
    /// As JSON: a list of processes, a line each time
    #[arg(long)]
    json: bool,
    /// Seconds between two looks
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = seconds)]
    interval: f64,
}

impl Top {
    /// Prints until it is ended, or once.
    pub fn run(&self) -> Result<(), Failure> {
        dmverbs_ffi::log::start().map_err(Failure::ours)?;
        let mut last = Sample::default();
        loop {
            let now = Sample { at: Instant::now(), processes: object::processes().map_err(Failure::ours)? };
            let text = if self.json {
                serde_json::to_string(&now.processes).map_err(Failure::ours)? + "\n"
            } else if self.once {
                table(&now, None)
            } else {
                // Home, and clear to the end.
                format!("\x1b[H\x1b[2J{}", table(&now, Some(&last)))
            };
            io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()).map_err(Failure::ours)?;
            if self.once {
                return Ok(());
            }
            last = now;
            std::thread::sleep(Duration::from_secs_f64(self.interval));
        }
    }
}

/// What was seen at a time.
struct Sample {
    at: Instant,
    processes: Vec<ProcessReport>,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample { at: Instant::now(), processes: Vec::new() }
    }
}

impl Sample {
    fn traffic(&self) -> HashMap<(u32, u32), Traffic> {
        let qps = self.processes.iter().flat_map(|process| process.qps.iter().map(move |qp| (process.pid, qp)));
        qps.map(|(pid, qp)| ((pid, qp.qpn), qp.traffic)).collect()
    }
}

fn table(now: &Sample, last: Option<&Sample>) -> String {
    let mut text = String::new();
    let heads = ["PID", "DEVICE", "QP", "PEER", "IN", "OUT", "DEVICE IN", "DEVICE OUT", "HOST", "IN/s", "OUT/s"];
    let mut rows = vec![heads.map(str::to_owned)];
    let before = last.map(Sample::traffic).unwrap_or_default();
    let passed = last.map_or(0.0, |last| (now.at - last.at).as_secs_f64());
    for process in &now.processes {
        for qp in &process.qps {
            let traffic = &qp.traffic;
            let rate = |get: fn(&Traffic) -> u64| match before.get(&(process.pid, qp.qpn)) {
                Some(before) => bytes((get(traffic).saturating_sub(get(before)) as f64 / passed) as u64),
                None => "-".to_owned(),
            };
            rows.push([
                process.pid.to_string(),
                shown(&qp.device),
                format!("{:#08x}", qp.qpn),
                qp.peer.as_ref().map_or("-".to_owned(), |(address, qpn)| format!("{} {qpn:#08x}", shown(address))),
                bytes(traffic.received),
                bytes(traffic.sent),
                bytes(traffic.device_received),
                bytes(traffic.device_sent),
                bytes(traffic.host_touched()),
                rate(|traffic| traffic.received),
                rate(|traffic| traffic.sent),
            ]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

/// What another user's process has said, with nothing in it that a terminal obeys, and no longer than a cell is wide.
fn shown(text: &str) -> String {
    const WIDEST: usize = 64;
    text.escape_debug().take(WIDEST).collect()
}

/// With three or four figures.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 9999.5 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{value:.0} {}", UNITS[unit])
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds from 0.05 to 3600 are wanted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use dmverbs_provider::object::QpReport;

    use super::*;

    #[test]
    fn a_row_says_what_passed_and_what_the_host_touched() {
        let traffic = |received| Traffic { received, staged_received: 5, host_copied: 7, ..Traffic::default() };
        let peer = Some(("192.0.2.1".to_owned(), 0x12_3456));
        let qp = |received| QpReport {
            qpn: 0xabc,
            device: "dmv_eth0".into(),
            peer: peer.clone(),
            connected: true,
            traffic: traffic(received),
        };
        let at = Instant::now();
        let seen = |received, seconds| Sample {
            at: at + Duration::from_secs(seconds),
            processes: vec![ProcessReport { pid: 42, qps: vec![qp(received)] }],
        };
        let text = table(&seen(30_000, 2), Some(&seen(10_000, 0)));
        let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[..5], ["42", "dmv_eth0", "0x000abc", "192.0.2.1", "0x123456"]);
        assert_eq!(row[5..].join(" "), "29 KiB 0 B 0 B 0 B 12 B 10 KiB 0 B");
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown_escaped() {
        assert_eq!(shown("dmv_eth0"), "dmv_eth0");
        assert_eq!(shown("fe80::1%eth0"), "fe80::1%eth0");
        assert_eq!(shown("\x1b[2J\n\x7f\u{9b}1m"), "\\u{1b}[2J\\n\\u{7f}\\u{9b}1m");
        assert_eq!(shown(&"x".repeat(1 << 20)).len(), 64);
    }

    #[test]
    fn sizes_have_no_more_figures_than_one_reads() {
        assert_eq!(
            [0, 9999, 10_000, 10 << 20, u64::MAX].map(bytes),
            ["0 B", "9999 B", "10 KiB", "10 MiB", "16384 PiB"]
        );
    }
}
