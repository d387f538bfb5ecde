//! The connection of the two processes.

use std::io::{BufRead, BufReader, ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::{env, hint};

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;

use crate::Measure;

/// One end of a connection.
pub struct Link {
    stream: TcpStream,
    peer: Option<(Child, BufReader<ChildStdout>)>,
}

impl Link {
    /// Starts the far end, and connects to it.
    pub fn near(what: &str, measure: &Measure) -> Result<Link> {
        pin(0)?;
        let mut command = Command::new(env::current_exe()?);
        command.args(["peer", what]).args(measure.words()).stdout(Stdio::piped());
        let mut peer = command.spawn().context("the far end")?;
        let mut says = BufReader::new(peer.stdout.take().expect("stdout was asked for"));
        let mut port = String::new();
        says.read_line(&mut port)?;
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port.trim().parse()?))?;
        Link::of(stream, Some((peer, says)), measure)
    }

    /// Waits for the near end.
    pub fn far(measure: &Measure) -> Result<Link> {
        pin(1)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        println!("{}", listener.local_addr()?.port());
        let (stream, _) = listener.accept()?;
        Link::of(stream, None, measure)
    }

    fn of(stream: TcpStream, peer: Option<(Child, BufReader<ChildStdout>)>, measure: &Measure) -> Result<Link> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(!measure.blocking)?;
        Ok(Link { stream, peer })
    }

    /// Sends everything. False when the other end has closed.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<bool> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) => {
                    if !retry(error)? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Sends `batch` times the message, with as few calls as it takes.
    pub fn send_batch(&mut self, message: &[u8], batch: usize) -> Result<bool> {
        let all = vec![IoSlice::new(message); batch];
        let total = message.len() * batch;
        let mut done = 0;
        while done < total {
            let (whole, part) = (done / message.len(), done % message.len());
            let sent = if part == 0 {
                self.stream.write_vectored(&all[whole..])
            } else {
                let mut rest = all[whole..].to_vec();
                rest[0] = IoSlice::new(&message[part..]);
                self.stream.write_vectored(&rest)
            };
            match sent {
                Ok(count) => done += count,
                Err(error) => {
                    if !retry(error)? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Receives something, or 0 at the end.
    pub fn receive(&mut self, into: &mut [u8]) -> Result<usize> {
        loop {
            match self.stream.read(into) {
                Ok(count) => return Ok(count),
                Err(error) => {
                    if !retry(error)? {
                        return Ok(0);
                    }
                }
            }
        }
    }

    /// Fills the buffer. False at the end.
    pub fn receive_all(&mut self, mut into: &mut [u8]) -> Result<bool> {
        while !into.is_empty() {
            match self.receive(into)? {
                0 => return Ok(false),
                count => into = &mut into[count..],
            }
        }
        Ok(true)
    }

    /// Closes this end, and takes the far end's last line.
    pub fn finish(self) -> Result<String> {
        drop(self.stream);
        let (mut peer, mut says) = self.peer.context("only the near end has a peer")?;
        let mut line = String::new();
        says.read_to_string(&mut line)?;
        let status = peer.wait()?;
        ensure!(status.success(), "the far end ended with {status}");
        Ok(line.trim().to_owned())
    }
}

/// Stays on one processor: on a machine with two, the scheduler puts sender and receiver on the same one at times.
fn pin(processor: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &one).with_context(|| format!("processor {processor}"))
}

/// True when the call is to be made again, false when the other end is gone.
fn retry(error: std::io::Error) -> Result<bool> {
    match error.kind() {
        ErrorKind::WouldBlock => hint::spin_loop(),
        ErrorKind::Interrupted => {}
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => return Ok(false),
        _ => return Err(error.into()),
    }
    Ok(true)
}

/// The processor time that this process has used, in seconds.
pub fn processor_time() -> Result<f64> {
    let used = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((used.user_time() + used.system_time()).num_microseconds() as f64 / 1e6)
}
