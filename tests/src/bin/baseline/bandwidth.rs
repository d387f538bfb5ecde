//! Messages in one direction, as fast as they go.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::link::{Link, processor_time};
use crate::{Measure, WARM_UP};

/// The end that sends, and reports what the other end has counted.
pub fn send(mut link: Link, measure: &Measure) -> Result<()> {
    let mut memory = Vec::new();
    let message = &*aligned(&mut memory, measure.size);
    let start = Instant::now();
    let mut window = Window::default();
    loop {
        let alive = if measure.batch == 1 { link.send(message)? } else { link.send_batch(message, measure.batch)? };
        window.count(measure.size * measure.batch)?;
        if !alive || start.elapsed() > WARM_UP + measure.window() {
            break;
        }
    }
    let near = window.close()?;
    let far = link.finish()?;
    let mut far = far.split_whitespace().map(str::parse::<f64>);
    let mut next = || far.next().context("the far end said too little")?.context("the far end said no number");
    let (bytes_per_second, far_share) = (next()?, next()?);
    // Both ends' shares of a processor, over what one second carries.
    let cpu = (near.share + far_share) / (bytes_per_second / 1e9);
    let messages = bytes_per_second / measure.size as f64;
    println!(
        "{{\"bytes_per_second\":{bytes_per_second:.0},\"messages_per_second\":{messages:.0},\
         \"cpu_seconds_per_gb\":{cpu:.4}}}"
    );
    Ok(())
}

/// The end that receives.
pub fn receive(link: &mut Link, measure: &Measure) -> Result<()> {
    let mut memory = Vec::new();
    let buffer = aligned(&mut memory, measure.receive.unwrap_or(measure.size));
    let mut window = Window::default();
    let mut filled = 0;
    loop {
        let count = link.receive(&mut buffer[filled..])?;
        if count == 0 {
            break;
        }
        window.count(count)?;
        // Without `--receive` a message comes into one place, piece by piece.
        filled = if measure.receive.is_some() { 0 } else { (filled + count) % buffer.len() };
    }
    let seen = window.close()?;
    println!("{:.0} {:.4}", seen.bytes_per_second, seen.share);
    Ok(())
}

/// Bytes that begin with a page, as perftest's do: the kernel copies to others at half the speed.
fn aligned(memory: &mut Vec<u8>, size: usize) -> &mut [u8] {
    const PAGE: usize = 4096;
    memory.resize(size + PAGE, 1);
    let front = memory.as_ptr().align_offset(PAGE);
    &mut memory[front..front + size]
}

/// Bytes and processor time from the end of the warm-up on.
#[derive(Default)]
struct Window {
    first: Option<Instant>,
    open: Option<(Instant, f64)>,
    last: Option<Instant>,
    bytes: usize,
    calls: u32,
}

struct Seen {
    bytes_per_second: f64,
    /// Of one processor.
    share: f64,
}

impl Window {
    fn count(&mut self, bytes: usize) -> Result<()> {
        if self.open.is_some() {
            self.bytes += bytes;
        }
        self.calls = self.calls.wrapping_add(1);
        // The clock is not asked for every small message.
        if bytes < LARGE && !self.calls.is_multiple_of(16) {
            return Ok(());
        }
        let now = Instant::now();
        self.last = Some(now);
        if self.open.is_none() && now - *self.first.get_or_insert(now) > WARM_UP {
            self.open = Some((now, processor_time()?));
        }
        Ok(())
    }

    fn close(&self) -> Result<Seen> {
        let (open, used) = self.open.context("the window never opened: is a message too large for the warm-up?")?;
        let seconds = self.last.map_or(Duration::ZERO, |last| last - open).as_secs_f64();
        let share = (processor_time()? - used) / open.elapsed().as_secs_f64();
        Ok(Seen { bytes_per_second: self.bytes as f64 / seconds, share })
    }
}

const LARGE: usize = 32768;
