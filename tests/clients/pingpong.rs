//! ibv_rc_pingpong. With `-c` its server checks a byte of every page it received.

use anyhow::{Result, ensure};
use dmverbs_tests::Pair;
use dmverbs_tests::net::Net;
use libtest_mimic::Trial;

use crate::{BOTH, ipv6_row, row};

pub fn rows() -> Vec<Trial> {
    let mut rows = Vec::new();
    for kind in BOTH {
        for size in SIZES {
            let options = format!("-c -g 0 -s {size} -n 200");
            rows.push(row(format!("ibv_rc_pingpong {options}"), kind, move |net| exchange(net, &options, size, 200)));
        }
        for flags in ["-e", "-N", "-e -N", "-o", "-O"] {
            for size in [1, 4096, 4 << 20] {
                let options = format!("{flags} -c -g 0 -s {size} -n 200");
                rows.push(row(format!("ibv_rc_pingpong {options}"), kind, move |net| {
                    exchange(net, &options, size, 200)
                }));
            }
        }
    }
    for flags in ["", "-e", "-N", "-e -N"] {
        for size in [1, 4096, 4 << 20] {
            let options = format!("{flags} -c -g 1 -s {size} -n 200").trim().to_owned();
            let name = format!("ibv_rc_pingpong {options} (an IPv6 GID)");
            rows.push(ipv6_row(name, move |net| exchange(net, &options, size, 200)));
        }
    }
    rows
}

fn exchange(net: &Net, options: &str, size: u64, iterations: u64) -> Result<()> {
    let outcome = Pair::new(net, "ibv_rc_pingpong").options(options).run()?;
    for end in [&outcome.server, &outcome.client] {
        // Both directions count.
        end.says(&format!("{} bytes in ", 2 * size * iterations))?.says(&format!("{iterations} iters in "))?;
        ensure!(!end.stdout.contains("invalid data"), "{end}");
    }
    Ok(())
}

const SIZES: [u64; 8] = [1, 2, 255, 4095, 4097, 65536, 1 << 20, 4 << 20];
