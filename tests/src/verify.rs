//! Checking the bytes that perftest moves, by perftest itself: with `--mmap` its buffers are files, which both ends
//! fill with their own random bytes, and which can be compared when both have ended.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, process};

use anyhow::{Context, Result, ensure};

use crate::interrupt::{self, Made};
use crate::pair::{Outcome, Pair};

/// The buffers of a server and a client of one QP, with one message size.
pub struct Buffers {
    size: usize,
    /// Where the half begins that messages are received into.
    far: usize,
    server: PathBuf,
    client: PathBuf,
}

impl Buffers {
    /// Buffers for the program's messages of this size. perftest spreads messages of less than half a page over a
    /// page, so only larger ones have one known place.
    pub fn new(program: &str, size: usize) -> Result<Buffers> {
        ensure!(size >= CYCLE, "messages of {size} bytes do not stay in one place");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = |end| env::temp_dir().join(format!("dmverbs-{}-{number}-{end}", process::id()));
        let far = if program.starts_with("ib_send") { size.next_multiple_of(CACHE_LINE) } else { size };
        let buffers = Buffers { size, far, server: path("server"), client: path("client") };
        buffers.files().iter().for_each(interrupt::track);
        for path in [&buffers.server, &buffers.client] {
            let file = File::create_new(path).with_context(|| path.display().to_string())?;
            // One buffer to send from and one to receive into; perftest rounds each up to cache lines.
            file.set_len(2 * size.next_multiple_of(CYCLE) as u64)?;
        }
        Ok(buffers)
    }

    /// The pair, using these buffers.
    pub fn attach<'a>(&self, pair: Pair<'a>) -> Pair<'a> {
        pair.options(&format!("-s {}", self.size))
            .server_options(&format!("--mmap={}", self.server.display()))
            .client_options(&format!("--mmap={}", self.client.display()))
    }

    /// Fails unless the server's far half holds what is in the client's near half: where a WRITE or a SEND has gone
    /// to, or a READ has come from.
    pub fn check(&self, outcome: &Outcome) -> Result<()> {
        outcome.succeeded()?;
        compare(&self.near(&self.client)?, &self.far(&self.server)?)
    }

    /// [`Buffers::check`] in both directions, for `-b`.
    pub fn check_both_ways(&self, outcome: &Outcome) -> Result<()> {
        self.check(outcome)?;
        compare(&self.near(&self.server)?, &self.far(&self.client)?)
    }

    fn files(&self) -> [Made; 2] {
        [&self.server, &self.client].map(|path| Made::File(path.clone()))
    }

    fn near(&self, path: &PathBuf) -> Result<Vec<u8>> {
        Ok(fs::read(path)?[..self.size].to_vec())
    }

    fn far(&self, path: &PathBuf) -> Result<Vec<u8>> {
        Ok(fs::read(path)?[self.far..self.far + self.size].to_vec())
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.files().iter().for_each(interrupt::remove);
    }
}

fn compare(near: &[u8], far: &[u8]) -> Result<()> {
    ensure!(near.iter().any(|byte| *byte != near[0]), "the sender's buffer was never filled");
    let wrong = near.iter().zip(far).position(|(near, far)| near != far);
    ensure!(wrong.is_none(), "the data differ from byte {} on, of {}", wrong.unwrap_or(0), near.len());
    Ok(())
}

/// perftest's unit of the places that it receives into.
const CACHE_LINE: usize = 64;
/// The page that perftest spreads small messages over.
const CYCLE: usize = 4096;

static NEXT: AtomicU32 = AtomicU32::new(0);
