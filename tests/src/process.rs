//! One program under test: started, watched against a time limit, and ended with everything it started.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, mem};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::wait;

/// A program that has been started; it is killed when this is dropped.
pub struct Running {
    line: String,
    child: Child,
    ended: Option<ExitStatus>,
    start: Instant,
    stdout: Pipe,
    stderr: Pipe,
}

/// What a program left behind.
#[derive(Clone)]
pub struct Finished {
    /// The command line.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Running {
    /// Starts the command, without input and in a process group of its own.
    pub fn spawn(mut command: Command) -> Result<Running> {
        let line = line(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("cannot start {line}"))?;
        let stdout = Pipe::drain(child.stdout.take().expect("stdout was asked for"));
        let stderr = Pipe::drain(child.stderr.take().expect("stderr was asked for"));
        Ok(Running { line, child, ended: None, start: Instant::now(), stdout, stderr })
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// True while the program has not ended.
    pub fn is_alive(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended.is_none())
    }

    /// What it has printed so far.
    pub fn stdout_so_far(&self) -> String {
        self.stdout.text()
    }

    /// Waits for the program to end by itself. At the limit it is killed, and that is an error with all it printed.
    pub fn wait(mut self, limit: Duration) -> Result<Finished> {
        let what = format!("`{}` to end", self.line);
        let in_time = wait::until(&what, limit, || Ok((!self.is_alive()?).then_some(())));
        if in_time.is_err() {
            self.kill();
        }
        let finished = self.finish()?;
        in_time.map_err(|error| anyhow!("{error}\n{finished}"))?;
        Ok(finished)
    }

    /// Kills the program and all it started in its process group, as `kill -9` does.
    pub fn kill(&mut self) {
        // The group is the child's own, and the child is not reaped before `ended` is set: the number cannot
        // belong to anybody else. After that only processes that the program has left can be in the group.
        let group = i32::try_from(self.child.id()).map(Pid::from_raw).expect("a process number fits pid_t");
        let _ = killpg(group, Signal::SIGKILL);
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
    }

    fn finish(&mut self) -> Result<Finished> {
        let status = self.ended.context("the program has not ended")?;
        let elapsed = self.start.elapsed();
        Ok(Finished {
            line: mem::take(&mut self.line),
            status,
            stdout: self.stdout.rest(),
            stderr: self.stderr.rest(),
            elapsed,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
        }
    }
}

impl Finished {
    /// The program, if it ended with status 0; otherwise an error that shows everything.
    pub fn succeeded(&self) -> Result<&Finished> {
        if !self.status.success() {
            bail!("{self}");
        }
        Ok(self)
    }

    /// The program, if it said no by a status other than 0. A program that a signal ended has not said anything.
    pub fn refused(&self) -> Result<&Finished> {
        if self.status.success() || self.status.signal().is_some() {
            bail!("this should have ended with an error status:\n{self}");
        }
        Ok(self)
    }

    /// Fails unless `text` stands in the output or the error output.
    pub fn says(&self, text: &str) -> Result<&Finished> {
        if !self.stdout.contains(text) && !self.stderr.contains(text) {
            bail!("this should have said \"{text}\":\n{self}");
        }
        Ok(self)
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "`{}` ended with {} after {:.1?}", self.line, self.status, self.elapsed)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                writeln!(f, "--- {name}\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// Runs the command to its end.
pub fn run(command: Command, limit: Duration) -> Result<Finished> {
    Running::spawn(command)?.wait(limit)
}

/// One output stream, read by a thread so that a full pipe never stops the program.
struct Pipe {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Pipe {
    fn drain(mut from: impl Read + Send + 'static) -> Pipe {
        let text = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut piece) {
                into.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        Pipe { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    /// The whole text, once the program has ended. A process that has left the program's group may keep the pipe
    /// open; what it would still print is not waited for.
    fn rest(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let ended = wait::until("the pipe's end", DRAIN_LIMIT, || Ok(reader.is_finished().then_some(())));
            if ended.is_ok() {
                let _ = reader.join();
            }
        }
        self.text()
    }
}

fn line(command: &Command) -> String {
    let settings = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let settings = settings.map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy().into_owned());
    settings.chain(words).collect::<Vec<_>>().join(" ")
}

const DRAIN_LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn keeps_both_streams_and_the_status() {
        let finished = run(sh("echo out; echo err >&2; exit 3"), Duration::from_secs(10)).unwrap();

        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(finished.status.code(), Some(3));
        assert!(finished.refused().is_ok());
    }

    #[test]
    fn a_program_past_its_limit_is_killed_and_shown() {
        let running = Running::spawn(sh("echo begun; exec tail -f /dev/null")).unwrap();
        wait::until("its word", Duration::from_secs(10), || {
            Ok(running.stdout_so_far().contains("begun").then_some(()))
        })
        .unwrap();
        let error = running.wait(Duration::ZERO).err().unwrap();

        assert!(error.to_string().contains("begun"), "{error}");
        assert!(error.to_string().contains("signal: 9"), "{error}");
    }

    #[test]
    fn what_a_program_started_is_killed_with_it() {
        let script = "tail -f /dev/null & echo $!; wait";
        let mut running = Running::spawn(sh(script)).unwrap();
        let child = wait::until("the child's number", Duration::from_secs(10), || {
            Ok(running.stdout_so_far().trim().parse::<u32>().ok())
        });
        let child = child.unwrap();

        running.kill();

        // A killed process may stay as a zombie until its new parent reaps it.
        let state = move || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let gone = || Ok((state().is_empty() || state().contains(") Z ")).then_some(()));
        wait::until("the child to die", Duration::from_secs(10), gone).unwrap();
    }

    #[test]
    fn a_program_ended_by_a_signal_has_not_refused() {
        let finished = run(sh("kill -ABRT $$"), Duration::from_secs(10)).unwrap();

        assert!(finished.refused().is_err());
    }
}
