//! A message there and back.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::link::Link;
use crate::{Measure, WARM_UP};

/// The end that measures.
pub fn ask(mut link: Link, measure: &Measure) -> Result<()> {
    let mut message = vec![1; measure.size];
    let mut halves = Vec::new();
    let start = Instant::now();
    loop {
        let sent = Instant::now();
        link.send(&message)?;
        ensure!(link.receive_all(&mut message)?, "the far end is gone");
        let half = sent.elapsed().as_secs_f64() * 1e6 / 2.0;
        let since = start.elapsed();
        if since > WARM_UP {
            halves.push(half);
        }
        if since > WARM_UP + measure.window() {
            break;
        }
    }
    link.finish()?;
    halves.sort_by(f64::total_cmp);
    println!("{{\"latency_us\":{:.3}}}", halves[halves.len() / 2]);
    Ok(())
}

/// The end that sends everything back.
pub fn answer(link: &mut Link, measure: &Measure) -> Result<()> {
    let mut message = vec![0; measure.size];
    while link.receive_all(&mut message)? {
        if !link.send(&message)? {
            break;
        }
    }
    Ok(())
}
