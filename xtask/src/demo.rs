//! `cargo xtask demo`: Debian's perftest, unmodified, between two network namespaces.

use anyhow::{Context, Result};
use dmverbs_tests::perftest::Figures;
use dmverbs_tests::verify::Buffers;
use dmverbs_tests::{Net, Pair};

use crate::{build, setup};

/// Installs, builds, runs, and prints the table.
pub fn run() -> Result<()> {
    setup::run(&[])?;
    println!("Building dmverbs …");
    build::release()?;
    let net = Net::veth()?;
    let (server, client) = (net.server(), net.client());
    println!("Two network namespaces, joined by a veth pair: {} and {}.", server.ipv4, client.ipv4);
    println!(
        "TCP's congestion control, on which large messages depend, is this machine's: {}.",
        net.congestion_control()?
    );
    println!("Every line below is `dmverbs run -- PROGRAM …` at both ends.\n");

    let mut table = Vec::new();
    for (program, size, iterations, data) in RUNS {
        let line = measure(&net, program, size, iterations, data)?;
        println!("{}", line.progress());
        table.push(line);
    }
    table.push(pingpong(&net, 65536)?);

    println!("\n{:<16} {:>9}  {:>11}  {:>11}  data verified", "program", "size", "bandwidth", "latency");
    for line in table {
        println!("{line}");
    }
    println!(
        "\nVerified: with perftest's --mmap, the receiver's buffer was compared with the sender's after the run.\n\
         Small messages (< 4 KiB) are spread over a page by perftest, and ib_write_lat zeroes its buffer: nothing\n\
         can be compared there. ibv_rc_pingpong -c checks a byte of every page by itself."
    );
    Ok(())
}

struct Line {
    program: &'static str,
    size: usize,
    figures: Figures,
    verified: String,
}

impl Line {
    fn progress(&self) -> String {
        format!("  {} with {} bytes: done", self.program, self.size)
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (bandwidth, latency) = match self.figures {
            Figures::Bandwidth { bytes_per_second, .. } => {
                (format!("{:.3} GB/s", bytes_per_second / 1e9), String::new())
            }
            Figures::Latency { typical, .. } => (String::new(), format!("{typical:.2} µs")),
        };
        let Line { program, size, verified, .. } = self;
        write!(f, "{program:<16} {size:>9}  {bandwidth:>11}  {latency:>11}  {verified}")
    }
}

/// Whether the program leaves data that can be compared.
#[derive(Clone, Copy)]
enum Data {
    Compared,
    Unknown,
}

fn measure(net: &Net, program: &'static str, size: usize, iterations: u32, data: Data) -> Result<Line> {
    let pair = Pair::new(net, program).options(&format!("-F -n {iterations}"));
    let sizes = [size as u64];
    let (table, verified) = match data {
        Data::Compared => {
            let buffers = Buffers::new(program, size)?;
            let (outcome, table) = buffers.attach(pair).measure(&sizes)?;
            buffers.check(&outcome)?;
            (table, format!("yes, {size} of {size} bytes equal"))
        }
        Data::Unknown => (pair.options(&format!("-s {size}")).measure(&sizes)?.1, "–".to_owned()),
    };
    Ok(Line { program, size, figures: table.rows[0].figures, verified })
}

fn pingpong(net: &Net, size: usize) -> Result<Line> {
    let outcome = Pair::new(net, "ibv_rc_pingpong").options(&format!("-c -g 0 -s {size} -n 2000")).run()?;
    anyhow::ensure!(!outcome.server.stdout.contains("invalid data"), "{}", outcome.server);
    // "2000 iters in 0.05 seconds = 25.00 usec/iter": there and back.
    let round_trip = outcome.client.stdout.lines().find_map(|line| line.strip_suffix(" usec/iter"));
    let round_trip: Option<f64> = round_trip.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    let round_trip = round_trip.with_context(|| format!("no time for an iteration: {}", outcome.client))?;
    let half = round_trip / 2.0;
    let figures = Figures::Latency { typical: half, average: half };
    Ok(Line { program: "ibv_rc_pingpong", size, figures, verified: "yes, by itself (-c)".to_owned() })
}

const RUNS: [(&str, usize, u32, Data); 11] = [
    ("ib_write_bw", 4096, 20_000, Data::Compared),
    ("ib_write_bw", 65536, 10_000, Data::Compared),
    ("ib_write_bw", 1 << 20, 2000, Data::Compared),
    ("ib_write_bw", 8 << 20, 200, Data::Compared),
    ("ib_read_bw", 1 << 20, 2000, Data::Compared),
    ("ib_send_bw", 1 << 20, 2000, Data::Compared),
    ("ib_write_lat", 2, 5000, Data::Unknown),
    ("ib_send_lat", 2, 5000, Data::Unknown),
    ("ib_read_lat", 2, 5000, Data::Unknown),
    ("ib_send_lat", 4096, 5000, Data::Compared),
    ("ib_read_lat", 4096, 5000, Data::Compared),
];
