//! A server and a client of one verbs program, each started by `dmverbs run`.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::net::{Net, Side};
use crate::perftest::Table;
use crate::process::{Finished, Running};
use crate::{programs, wait};

/// What to run, and where.
#[derive(Clone)]
pub struct Pair<'a> {
    net: &'a Net,
    program: &'a str,
    options: Vec<String>,
    server_options: Vec<String>,
    client_options: Vec<String>,
    environment: Vec<(String, String)>,
    names_device: bool,
    port: u16,
    limit: Duration,
}

/// Both ends, after the end.
pub struct Outcome {
    /// The end that listened.
    pub server: Finished,
    /// The end that connected.
    pub client: Finished,
}

impl<'a> Pair<'a> {
    /// The program at both ends of the network.
    pub fn new(net: &'a Net, program: &'a str) -> Pair<'a> {
        Pair {
            net,
            program,
            options: Vec::new(),
            server_options: Vec::new(),
            client_options: Vec::new(),
            environment: Vec::new(),
            names_device: true,
            port: DEFAULT_PORT,
            limit: DEFAULT_LIMIT,
        }
    }

    /// Options of both ends, separated by blanks.
    pub fn options(mut self, options: &str) -> Self {
        self.options.extend(options.split_whitespace().map(str::to_owned));
        self
    }

    /// Options of the server only.
    pub fn server_options(mut self, options: &str) -> Self {
        self.server_options.extend(options.split_whitespace().map(str::to_owned));
        self
    }

    /// Options of the client only.
    pub fn client_options(mut self, options: &str) -> Self {
        self.client_options.extend(options.split_whitespace().map(str::to_owned));
        self
    }

    /// A variable of both ends' environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without `-d`: the program takes what it finds first.
    pub fn any_device(mut self) -> Self {
        self.names_device = false;
        self
    }

    /// The port over which the program itself meets its peer.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// How long either end may take.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts the server, and waits until it listens.
    pub fn start_server(&self) -> Result<Running> {
        let side = self.net.server();
        let mut server = Running::spawn(self.command(side, &self.server_options, None)?)?;
        let listens = wait::until(&format!("{} to listen on {}", self.program, self.port), self.limit, || {
            if side.listening(server.id()).contains(&self.port) {
                return Ok(Some(()));
            }
            if !server.is_alive()? {
                bail!("the server ended before it listened");
            }
            Ok(None)
        });
        match listens {
            Ok(()) => Ok(server),
            Err(error) => {
                server.kill();
                let server = server.wait(self.limit)?;
                Err(anyhow!("{error}\n{server}"))
            }
        }
    }

    /// Starts the client.
    pub fn start_client(&self) -> Result<Running> {
        Running::spawn(self.command(self.net.client(), &self.client_options, Some(self.net.server().ipv4))?)
    }

    /// Waits for both ends, neither of which need have succeeded. When one fails, the other, which may wait for it
    /// for ever, has a little time left and is then killed.
    pub fn finish(&self, server: Running, client: Running) -> Result<Outcome> {
        let start = Instant::now();
        let client = client.wait(self.limit);
        let failed = client.as_ref().map_or(true, |client| !client.status.success());
        let left = if failed { AFTERMATH } else { self.limit.saturating_sub(start.elapsed()).max(AFTERMATH) };
        match (server.wait(left), client) {
            (Ok(server), Ok(client)) => Ok(Outcome { server, client }),
            (Err(server), Ok(client)) => Err(anyhow!("server: {server}\nclient: {client}")),
            (Ok(server), Err(client)) => Err(anyhow!("client: {client}\nserver: {server}")),
            (Err(server), Err(client)) => Err(anyhow!("client: {client}\nserver: {server}")),
        }
    }

    /// Runs both ends; both have to end with status 0.
    pub fn run(&self) -> Result<Outcome> {
        let server = self.start_server()?;
        let client = self.start_client()?;
        let outcome = self.finish(server, client)?;
        outcome.succeeded()?;
        Ok(outcome)
    }

    /// Runs a perftest program, whose table has to have these sizes.
    ///
    /// perftest derives its figures from a short measurement of the processor's clock. When that is disturbed, it prints
    /// "inf" or 0 whatever the messages did; it is then run again.
    pub fn measure(&self, sizes: &[u64]) -> Result<(Outcome, Table)> {
        let ((), outcome, table) = self.measure_since(sizes, || Ok(()))?;
        Ok((outcome, table))
    }

    /// As [`measure`](Self::measure); also what `begin` gave before the run that counts.
    pub fn measure_since<T>(&self, sizes: &[u64], begin: impl Fn() -> Result<T>) -> Result<(T, Outcome, Table)> {
        let mut attempt = 1;
        loop {
            let begun = begin()?;
            let outcome = self.run()?;
            let table = outcome.table()?;
            if table.has_figures() || attempt == ATTEMPTS {
                table.covers(sizes).with_context(|| outcome.client.to_string())?;
                return Ok((begun, outcome, table));
            }
            attempt += 1;
        }
    }

    fn command(&self, side: &Side, own: &[String], peer: Option<&str>) -> Result<Command> {
        let mut command = side.command(programs::dmverbs()?);
        command.args(["run", "--", self.program, "-p", &self.port.to_string()]);
        if self.names_device {
            command.args(["-d", &side.device()]);
        }
        command.args(&self.options).args(own).args(peer);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }
}

impl Outcome {
    /// Fails, showing both ends, unless both ended with status 0.
    pub fn succeeded(&self) -> Result<&Outcome> {
        if !self.server.status.success() || !self.client.status.success() {
            bail!("client: {}\nserver: {}", self.client, self.server);
        }
        Ok(self)
    }

    /// The table that a perftest client has printed.
    pub fn table(&self) -> Result<Table> {
        Table::parse(&self.client.stdout).with_context(|| self.client.to_string())
    }
}

/// perftest's and the pingpongs' own.
pub const DEFAULT_PORT: u16 = 18515;

const DEFAULT_LIMIT: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 3;
const AFTERMATH: Duration = Duration::from_secs(3);
