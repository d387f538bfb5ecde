//! What is compared with what, and which ratio is wanted.

use serde::Serialize;

use super::peers::{Figure, Peer};

/// One comparison.
pub struct Row {
    /// Bytes a message.
    pub size: u64,
    /// What is compared.
    pub figure: Which,
    /// Our side of it.
    pub ours: Peer,
    /// The others.
    pub against: Vec<Wanted>,
    label: &'static str,
}

/// A peer, and how we should stand to it.
pub struct Wanted {
    /// A short name.
    pub name: &'static str,
    /// How to run it.
    pub peer: Peer,
    /// What ours divided by theirs should be.
    pub bound: Bound,
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
    /// Only shown.
    Shown,
}

/// One of a run's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// Bytes a second.
    Bandwidth,
    /// Processor seconds for 10^9 bytes, both ends.
    Processor,
    /// Microseconds.
    Latency,
    /// Messages a second.
    Messages,
}

impl Row {
    /// Label and size.
    pub fn name(&self) -> String {
        format!("{} {}", self.label, size(self.size))
    }
}

impl Which {
    /// The figure of a run; NaN when the program did not measure it.
    pub fn of(self, figure: &Figure) -> f64 {
        let value = match self {
            Which::Bandwidth => figure.bytes_per_second,
            Which::Processor => figure.cpu_seconds_per_gb,
            Which::Latency => figure.latency_us,
            Which::Messages => figure.messages_per_second,
        };
        value.unwrap_or(f64::NAN)
    }

    /// The value with its unit.
    pub fn show(self, value: f64) -> String {
        match self {
            Which::Bandwidth => format!("{:.3} GB/s", value / 1e9),
            Which::Processor => format!("{value:.3} s/GB"),
            Which::Latency => format!("{value:.2} µs"),
            Which::Messages => format!("{:.3} M/s", value / 1e6),
        }
    }
}

impl Bound {
    /// Whether the ratio is as wanted; nothing when nothing is wanted.
    pub fn met(self, ratio: f64) -> Option<bool> {
        match self {
            Bound::AtLeast(least) => Some(ratio >= least),
            Bound::AtMost(most) => Some(ratio <= most),
            Bound::Shown => None,
        }
    }
}

/// All comparisons.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for size in [2, 64] {
        let raw = |bound| Wanted { name: "raw", peer: raw("latency"), bound };
        rows.push(row(
            "ib_send_lat",
            size,
            Which::Latency,
            ours("ib_send_lat"),
            vec![raw(Bound::AtMost(1.25)), ucx("tag_lat", Bound::AtMost(1.1))],
        ));
        rows.push(row(
            "ib_write_lat",
            size,
            Which::Latency,
            ours("ib_write_lat"),
            vec![raw(Bound::AtMost(3.2)), ucx("ucp_put_lat", Bound::AtMost(1.2))],
        ));
    }
    for size in [8 << 20, 1 << 20] {
        rows.push(row(
            "ib_write_bw",
            size,
            Which::Bandwidth,
            ours("ib_write_bw"),
            vec![
                Wanted { name: "raw", peer: raw("bandwidth"), bound: Bound::AtLeast(0.9) },
                Wanted { name: "raw, 16 a call", peer: raw(SIXTEEN_LARGE), bound: Bound::Shown },
                ucx("ucp_put_bw", Bound::AtLeast(1.0)),
                Wanted {
                    name: "UCX, buffer written",
                    peer: Peer::Ucx { test: "ucp_put_bw", written: true },
                    bound: Bound::AtLeast(1.0),
                },
            ],
        ));
    }
    rows.push(row(
        "ib_write_bw",
        65536,
        Which::Bandwidth,
        ours("ib_write_bw"),
        vec![
            Wanted { name: "raw", peer: raw("bandwidth"), bound: Bound::AtLeast(1.4) },
            Wanted { name: "raw, 16 a call", peer: raw(SIXTEEN_LARGE), bound: Bound::Shown },
            ucx("ucp_put_bw", Bound::AtLeast(1.4)),
        ],
    ));
    rows.push(row(
        "ib_write_bw",
        4096,
        Which::Bandwidth,
        ours("ib_write_bw"),
        vec![
            Wanted { name: "raw", peer: raw("bandwidth"), bound: Bound::Shown },
            Wanted { name: "raw, 16 a call", peer: raw(SIXTEEN), bound: Bound::AtLeast(0.6) },
            ucx("ucp_put_bw", Bound::AtLeast(4.0)),
        ],
    ));
    let one_by_one = || Peer::Ours { program: "ib_write_bw", options: "-t 128 -l 1", queue_pairs: 1 };
    rows.push(row(
        "writes/s",
        64,
        Which::Messages,
        one_by_one(),
        vec![
            Wanted { name: "raw", peer: raw("bandwidth"), bound: Bound::Shown },
            Wanted { name: "raw, 64 a call", peer: raw(SIXTY_FOUR), bound: Bound::AtLeast(0.3) },
            ucx("ucp_put_bw", Bound::AtLeast(14.0)),
        ],
    ));
    for program in ["ib_send_bw", "ib_read_bw"] {
        rows.push(row(
            program,
            64,
            Which::Messages,
            ours(program),
            vec![Wanted { name: "our write", peer: one_by_one(), bound: Bound::AtLeast(0.85) }],
        ));
        for size in [4096, 65536, 1 << 20, 8 << 20] {
            rows.push(row(
                program,
                size,
                Which::Bandwidth,
                ours(program),
                vec![Wanted { name: "our write", peer: ours("ib_write_bw"), bound: Bound::AtLeast(0.85) }],
            ));
        }
    }
    for size in [1 << 20, 65536] {
        let ours = Peer::OursProcessor { program: "ib_write_bw" };
        let blocking = |name, words, bound| Wanted { name, peer: raw(words), bound };
        let against = vec![
            blocking("blocking raw", "bandwidth --blocking", Bound::AtMost(1.25)),
            blocking("blocking raw, 16 a call", "bandwidth --blocking --batch=16", Bound::Shown),
        ];
        rows.push(row("processor time of writes", size, Which::Processor, ours, against));
    }
    // Without a peak: to find it, perftest compares each message with each.
    let many = |queue_pairs| Peer::Ours { program: "ib_write_bw", options: "-t 16 -N", queue_pairs };
    rows.push(row(
        "1,024 QPs, writes",
        65536,
        Which::Bandwidth,
        many(1024),
        vec![Wanted { name: "8 QPs", peer: many(8), bound: Bound::AtLeast(0.8) }],
    ));
    rows
}

fn row(label: &'static str, size: u64, figure: Which, ours: Peer, against: Vec<Wanted>) -> Row {
    Row { size, figure, ours, against, label }
}

fn ours(program: &'static str) -> Peer {
    Peer::Ours { program, options: "", queue_pairs: 1 }
}

fn raw(words: &'static str) -> Peer {
    Peer::Raw { words }
}

fn ucx(test: &'static str, bound: Bound) -> Wanted {
    Wanted { name: "UCX", peer: Peer::Ucx { test, written: false }, bound }
}

fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        _ if bytes >= 1 << 10 => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

const SIXTEEN: &str = "bandwidth --batch=16 --receive=65536";
const SIXTEEN_LARGE: &str = "bandwidth --batch=16";
const SIXTY_FOUR: &str = "bandwidth --batch=64 --receive=65536";
