//! perftest: every size, every way to post and to complete, and the bytes themselves.

use std::time::Duration;

use anyhow::{Result, ensure};
use dmverbs_tests::Pair;
use dmverbs_tests::net::{Kind, Net};
use dmverbs_tests::perftest::all_sizes;
use dmverbs_tests::verify::Buffers;
use libtest_mimic::Trial;

use crate::{BOTH, ipv6_row, row};

pub fn rows() -> Vec<Trial> {
    let mut rows = Vec::new();
    for kind in BOTH {
        for program in PLAIN {
            let options = "-a -n 50";
            rows.push(row(format!("{program} {options}"), kind, move |net| {
                measure(net, program, options, &all_sizes())
            }));
        }
        for (program, options) in VARIANTS {
            let (size, sizes) = match kind {
                Kind::Loopback => ("-a", all_sizes()),
                Kind::Veth => ("-s 65536", vec![65536]),
            };
            let options = format!("{size} {options}");
            rows.push(row(format!("{program} {options}"), kind, move |net| measure(net, program, &options, &sizes)));
        }
        for (program, options) in ATOMIC {
            rows.push(row(format!("{program} {options}"), kind, move |net| measure(net, program, options, &[8])));
        }
        for (program, options, size) in ONE_SIZE {
            rows.push(row(format!("{program} {options}"), kind, move |net| measure(net, program, options, &[size])));
        }
        for program in CARRIERS {
            for size in [4096, 65537, 1 << 20, 8 << 20] {
                let name = format!("{program} -s {size} brings every byte");
                rows.push(row(name, kind, move |net| carry(net, program, "", size)));
            }
        }
        for program in ["ib_write_bw", "ib_send_bw"] {
            let name = format!("{program} -b -s 1000000 brings every byte both ways");
            rows.push(row(name, kind, move |net| carry_both_ways(net, program, 1_000_000)));
        }
        for program in ["ib_write_bw", "ib_send_bw", "ib_read_lat"] {
            rows.push(row(format!("{program}, two pairs at once"), kind, move |net| two_pairs(net, program)));
        }
    }
    for program in PLAIN.into_iter().chain(["ib_atomic_bw", "ib_atomic_lat"]) {
        let name = format!("{program} -x 1 (an IPv6 GID)");
        let (options, size) =
            if program.starts_with("ib_atomic") { ("-x 1 -n 500", 8) } else { ("-x 1 -s 65536 -n 500", 65536) };
        rows.push(ipv6_row(name.clone(), move |net| measure(net, program, options, &[size])));
        rows.push(row(name, Kind::Loopback, move |net| measure(net, program, options, &[size])));
    }
    for program in CARRIERS {
        let name = format!("{program} -x 1 brings every byte (an IPv6 GID)");
        rows.push(ipv6_row(name, move |net| carry(net, program, "-x 1", 1 << 20)));
        // Lists are for the bandwidth tests only.
        let lists = program.ends_with("_bw").then_some("-l 10");
        for options in ["--use_old_post_send"].into_iter().chain(lists) {
            let name = format!("{program} {options} brings every byte");
            rows.push(row(name, Kind::Veth, move |net| carry(net, program, options, 65537)));
        }
    }
    rows.push(row("ib_write_bw that is told no device", Kind::Veth, |net| {
        pair(net, "ib_write_bw").any_device().options("-s 4096 -n 5000").measure(&[4096]).map(drop)
    }));
    rows.push(row("ib_write_bw to a server that sleeps outside verbs", Kind::Veth, |net| {
        // The server of ib_write_bw sleeps in a TCP read from its first byte to its last.
        measure(net, "ib_write_bw", "-s 4096 -n 5000", &[4096])
    }));
    rows
}

fn measure(net: &Net, program: &str, options: &str, sizes: &[u64]) -> Result<()> {
    pair(net, program).options(options).measure(sizes).map(drop)
}

fn carry(net: &Net, program: &str, options: &str, size: usize) -> Result<()> {
    let buffers = Buffers::new(program, size)?;
    let outcome = buffers.attach(pair(net, program).options(options).options("-n 50")).run()?;
    buffers.check(&outcome)
}

fn carry_both_ways(net: &Net, program: &str, size: usize) -> Result<()> {
    let buffers = Buffers::new(program, size)?;
    let outcome = buffers.attach(pair(net, program).options("-b -n 50")).run()?;
    buffers.check_both_ways(&outcome)
}

fn two_pairs(net: &Net, program: &str) -> Result<()> {
    let pairs = [18515, 18516].map(|port| pair(net, program).options("-s 65536 -n 1000").port(port));
    let mut started = Vec::new();
    for pair in &pairs {
        started.push((pair, pair.start_server()?));
    }
    let mut running = Vec::new();
    for (pair, server) in started {
        running.push((pair, server, pair.start_client()?));
    }
    ensure!(running.iter_mut().all(|(_, server, _)| server.is_alive().unwrap_or(false)), "a server ended early");
    for (pair, server, client) in running {
        let outcome = pair.finish(server, client)?;
        outcome.succeeded()?.table()?.covers(&[65536])?;
    }
    Ok(())
}

fn pair<'a>(net: &'a Net, program: &'a str) -> Pair<'a> {
    // -F: the processor's frequency is nothing to warn about here.
    Pair::new(net, program).options("-F").limit(Duration::from_secs(120))
}

/// These run with sizes 2 … 2^23 in both places.
const PLAIN: [&str; 6] = ["ib_write_bw", "ib_write_lat", "ib_read_bw", "ib_read_lat", "ib_send_bw", "ib_send_lat"];

/// perftest measures the processor's clock for a quarter of a second for every size, so these run with all sizes in
/// one place only. ib_write_* knows no `-e`, and ib_read_* nothing to put inline.
const VARIANTS: [(&str, &str); 19] = [
    ("ib_write_bw", "-b -n 20"),
    ("ib_read_bw", "-b -n 20"),
    ("ib_send_bw", "-b -n 20"),
    ("ib_write_bw", "-q 8 -n 20"),
    ("ib_read_bw", "-q 8 -n 20"),
    ("ib_send_bw", "-q 8 -n 20"),
    ("ib_read_bw", "-e -n 20"),
    ("ib_send_bw", "-e -n 20"),
    ("ib_read_lat", "-e -n 20"),
    ("ib_send_lat", "-e -n 20"),
    ("ib_write_bw", "-l 16 -n 32"),
    ("ib_read_bw", "-l 16 -n 32"),
    ("ib_send_bw", "-l 16 -n 32"),
    ("ib_write_bw", "--use_old_post_send -n 20"),
    ("ib_read_bw", "--use_old_post_send -n 20"),
    ("ib_send_bw", "--use_old_post_send -n 20"),
    ("ib_write_lat", "--use_old_post_send -n 20"),
    ("ib_send_lat", "--use_old_post_send -n 20"),
    ("ib_write_bw", "-I 64 -n 20"),
];

const ATOMIC: [(&str, &str); 10] = [
    ("ib_atomic_bw", "-n 1000"),
    ("ib_atomic_bw", "-A CMP_AND_SWAP -n 1000"),
    ("ib_atomic_lat", "-n 1000"),
    ("ib_atomic_lat", "-A CMP_AND_SWAP -n 1000"),
    ("ib_atomic_bw", "-b -n 1000"),
    ("ib_atomic_bw", "-q 8 -n 1000"),
    ("ib_atomic_bw", "-e -n 1000"),
    ("ib_atomic_bw", "-l 16 -n 1024"),
    ("ib_atomic_bw", "--use_old_post_send -n 1000"),
    ("ib_atomic_lat", "-e -n 1000"),
];

const ONE_SIZE: [(&str, &str, u64); 11] = [
    ("ib_write_bw", "-s 256 -I 256 -n 5000", 256),
    ("ib_send_bw", "-s 256 -I 256 -n 5000", 256),
    ("ib_write_lat", "-s 256 -I 256 -n 1000", 256),
    ("ib_send_lat", "-s 256 -I 256 -n 1000", 256),
    ("ib_write_bw", "-s 256 -I 256 -l 16 -n 4096 --use_old_post_send", 256),
    ("ib_write_bw", "-s 2 -n 20000", 2),
    ("ib_write_bw", "-s 65536 -q 64 -n 50", 65536),
    // More than the kernel lets all sockets hold, if nothing held it back.
    ("ib_write_bw", "-N -s 65536 -q 1024 -n 128", 65536),
    // It takes longer than the retry time until each has had its turn.
    ("ib_write_bw", "-N -b -s 65536 -q 1024 -t 16 -n 40", 65536),
    ("ib_send_bw", "-s 1024 -r 16 -n 5000", 1024),
    ("ib_write_bw", "-s 65536 --odp -n 500", 65536),
];

/// The programs whose buffers can be compared afterwards.
const CARRIERS: [&str; 5] = ["ib_write_bw", "ib_read_bw", "ib_send_bw", "ib_read_lat", "ib_send_lat"];
