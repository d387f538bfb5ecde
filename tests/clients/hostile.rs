//! Wrong settings, strangers on the wire, and a peer that dies.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dmverbs_tests::net::{Kind, Net};
use dmverbs_tests::pair::DEFAULT_PORT;
use dmverbs_tests::process::run;
use dmverbs_tests::{Pair, Running, Side, programs, wait};
use libtest_mimic::Trial;

use crate::row;

pub fn rows() -> Vec<Trial> {
    vec![
        row("an unknown interface in DMVERBS_IFNAMES is named", Kind::Loopback, |net| {
            let shown = run(command(net.server(), "DMVERBS_IFNAMES", "nosuch0", &["ibv_devinfo"])?, LIMIT)?;
            shown.refused()?.says("nosuch0")?.says("DMVERBS_IFNAMES")?;
            Ok(())
        }),
        row("a bad DMVERBS_PORT_RANGE is refused by its name", Kind::Loopback, |net| {
            for bad in ["9-x", "300-200", "0-70000", ""] {
                let shown = run(command(net.server(), "DMVERBS_PORT_RANGE", bad, &["ibv_devinfo"])?, LIMIT)?;
                shown.refused()?.says("DMVERBS_PORT_RANGE")?;
            }
            Ok(())
        }),
        row("a bad DMVERBS_LOG is refused by its name", Kind::Loopback, |net| {
            let shown = run(command(net.server(), "DMVERBS_LOG", "very=loud=please", &["ibv_devinfo"])?, LIMIT)?;
            shown.refused()?.says("DMVERBS_LOG")?;
            Ok(())
        }),
        row("a variable that there is none of is warned of", Kind::Loopback, |net| {
            let shown = run(command(net.server(), "DMVERBS_SPEED", "high", &["ibv_devinfo"])?, LIMIT)?;
            shown.succeeded()?.says("DMVERBS_SPEED is set, but there is no such variable")?;
            Ok(())
        }),
        row("a port range that is all in use is named, and its user not disturbed", Kind::Loopback, ports_in_use),
        row("strangers on a listener do not disturb its traffic", Kind::Veth, strangers),
        row("a dialled HTTP server is named, and not taken for a peer", Kind::Loopback, |net| {
            dialled(net, "the peer does not speak dmverbs", |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())
        }),
        row("a dialled peer of another version is named, and not taken for a peer", Kind::Loopback, |net| {
            dialled(net, "the peer speaks wire version 9", |hello| {
                let mut answer = hello.to_vec();
                answer[4] = 9;
                answer
            })
        }),
        // So does a socket that is connected to itself.
        row("a dialled peer that is somebody else is named, and not taken for the peer", Kind::Loopback, |net| {
            dialled(net, "somebody else answers there", <[u8]>::to_vec)
        }),
        row("a server killed -9 ends its client with RETRY_EXC", Kind::Veth, |net| killed(net, Victim::Server)),
        row("a server killed -9 ends its client with RETRY_EXC", Kind::Loopback, |net| killed(net, Victim::Server)),
        row("a client killed -9 lets its server end", Kind::Veth, |net| killed(net, Victim::Client)),
    ]
}

/// A pingpong server makes its QP before it waits for a client, so it holds the only port of the range.
fn ports_in_use(net: &Net) -> Result<()> {
    let range = "21000-21000";
    let first = Pair::new(net, "ibv_rc_pingpong").options("-c -g 0").env("DMVERBS_PORT_RANGE", range);
    let server = first.start_server()?;

    let words = ["ibv_rc_pingpong", "-d", "dmv_lo", "-g", "0", "-p", "18600"];
    let shown = run(command(net.server(), "DMVERBS_PORT_RANGE", range, &words)?, LIMIT)?;
    shown.refused()?.says("21000")?.says("DMVERBS_PORT_RANGE")?;

    let client = Pair::new(net, "ibv_rc_pingpong").options("-c -g 0").start_client()?;
    first.finish(server, client)?.succeeded()?;
    Ok(())
}

/// While ib_write_bw runs, others come to its listener who don't speak the protocol.
fn strangers(net: &Net) -> Result<()> {
    let pair = Pair::new(net, "ib_write_bw").options("-F -s 65536 -D 10 -f 1");
    let server = pair.start_server()?;
    let mut client = pair.start_client()?;
    let port = wait::until("the server's QP to have a listener", LIMIT, || {
        ensure!(client.is_alive()?, "the client ended before anybody could come");
        let ports = net.server().listening(server.id());
        Ok(ports.into_iter().find(|port| *port != DEFAULT_PORT))
    })?;
    let address = SocketAddr::from((net.server().ipv4.parse::<Ipv4Addr>()?, port));

    net.client().inside(|| -> Result<()> {
        let silent = (0..16).map(|_| TcpStream::connect(address)).collect::<Result<Vec<_>, _>>()?;
        sent_away(address, b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n").context("an HTTP client")?;
        for seed in 0..64 {
            sent_away(address, &noise(seed)).with_context(|| format!("random bytes of seed {seed}"))?;
        }
        for seed in 64..128 {
            // These don't wait for an answer.
            TcpStream::connect(address)?.write_all(&noise(seed))?;
        }
        other_version(address).context("a peer of another version")?;
        for stream in silent {
            ended(stream).context("a connection that says nothing")?;
        }
        Ok(())
    })??;

    ensure!(client.is_alive()?, "the traffic was over before the last stranger had gone");
    let outcome = pair.finish(server, client)?;
    outcome.succeeded()?.table()?.covers(&[65536])
}

/// A pingpong client is told that its peer's QP is where somebody else listens, who answers its hello so.
fn dialled(net: &Net, why: &str, answer: fn(&[u8]) -> Vec<u8>) -> Result<()> {
    let (program, stranger) = net.server().inside(|| -> Result<_> {
        let address = net.server().ipv4.parse::<Ipv4Addr>()?;
        let listeners = (TcpListener::bind((address, DEFAULT_PORT))?, TcpListener::bind((address, 0))?);
        listeners.0.set_nonblocking(true)?;
        listeners.1.set_nonblocking(true)?;
        Ok(listeners)
    })??;
    // The lower QP number dials.
    let pair = Pair::new(net, "ibv_rc_pingpong").options("-g 0").env("DMVERBS_PORT_RANGE", "20000-20009");
    let mut client = pair.start_client()?;
    let mut next = |listener: &TcpListener| {
        wait::until("the client", LIMIT, || match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(LIMIT))?;
                Ok(Some(stream))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ensure!(client.is_alive()?, "the client ended before it came");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        })
    };

    // As ibv_rc_pingpong's server: LID, QP number, PSN and GID in hexadecimal, and a NUL.
    let mut met = next(&program)?;
    met.read_exact(&mut [0; 52])?;
    let qpn = u32::from(stranger.local_addr()?.port()) << 8 | 1;
    let address = u32::from(net.server().ipv4.parse::<Ipv4Addr>()?);
    // All at once: it reads once.
    met.write_all(format!("0000:{qpn:06x}:000000:{:020x}ffff{address:08x}\0", 0).as_bytes())?;
    let mut hello = [0; 96];
    let mut dialler = next(&stranger)?;
    dialler.read_exact(&mut hello)?;
    dialler.write_all(&answer(&hello))?;

    client.wait(LIMIT)?.refused()?.says("transport retry counter exceeded")?.says(why)?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Server,
    Client,
}

fn killed(net: &Net, victim: Victim) -> Result<()> {
    let program = match victim {
        Victim::Server => "ib_send_bw",
        // Its server waits for the client's last word by TCP. A responder as such never learns that its peer is gone.
        Victim::Client => "ib_write_bw",
    };
    let pair = Pair::new(net, program).options("-F -s 65536 --run_infinitely -D 1").limit(LIMIT);
    let mut server = pair.start_server()?;
    let mut client = pair.start_client()?;
    wait::until("traffic", LIMIT, || {
        ensure!(client.is_alive()? && server.is_alive()?, "an end is gone before its time");
        // The first figures are printed a second after the traffic has begun.
        Ok(Some(()).filter(|()| client.stdout_so_far().lines().any(|line| line.trim().starts_with("65536 "))))
    })?;
    let (mut dead, left): (Running, Running) = match victim {
        Victim::Server => (server, client),
        Victim::Client => (client, server),
    };

    let start = Instant::now();
    dead.kill();
    let left = left.wait(LIMIT)?;

    ensure!(start.elapsed() < Duration::from_secs(5), "it took {:?}:\n{left}", start.elapsed());
    if victim == Victim::Server {
        left.refused()?.says(RETRY_EXC)?;
    }
    Ok(())
}

/// Sends the bytes; the listener should then close.
fn sent_away(address: SocketAddr, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    match stream.write_all(bytes) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe || error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => ended(stream),
    }
}

/// A hello of version 9 is answered with the version that the listener speaks, and the verdict about it (WIRE §2.3).
fn other_version(address: SocketAddr) -> Result<()> {
    let mut hello = [0; 96];
    hello[..4].copy_from_slice(b"DMVb");
    hello[4] = 9;
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(&hello)?;
    stream.set_read_timeout(Some(Duration::from_secs(7)))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.get(..8) == Some(&[b'D', b'M', b'V', b'b', 3, 0, 3, 0]), "the answer is {answer:?}");
    Ok(())
}

/// Waits until the listener has closed the connection.
fn ended(mut stream: TcpStream) -> Result<()> {
    // Half-open connections live for at most five seconds.
    stream.set_read_timeout(Some(Duration::from_secs(7)))?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => bail!("the listener keeps it: {error}"),
        Ok(_) => Ok(()),
    }
}

/// Bytes of chance from a seed (xorshift), long enough for any greeting.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..64).flat_map(|_| next()).collect()
}

fn command(side: &Side, name: &str, value: &str, words: &[&str]) -> Result<Command> {
    let mut command = side.command(programs::dmverbs()?);
    command.args(["run", "--"]).args(words).env(name, value);
    Ok(command)
}

/// IBV_WC_RETRY_EXC_ERR, as perftest prints it.
const RETRY_EXC: &str = "Failed status 12";
const LIMIT: Duration = Duration::from_secs(20);
