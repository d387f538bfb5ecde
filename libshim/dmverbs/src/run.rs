//! `dmverbs run`: becomes the program, in an environment that leads to the drop-in library.

use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsStr, OsString, c_char};
use std::io;
use std::num::NonZero;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::Args;
use dmverbs_provider::config;

use crate::failure::Failure;
use crate::libdir::Libdir;
use crate::program;

/// Run a program on dmverbs.
///
/// The program, and all that it starts, finds dmverbs' library wherever it looks for libibverbs, and dmverbs'
/// devices in /sys/class/infiniband, /sys/class/infiniband_verbs and /dev/infiniband. It takes over this process:
/// signals, exit status and standard input are its own. Statically linked programs run unaffected.
///
/// If the program cannot be started, the exit status is 127 (not found), 126 (cannot be run) or 125 (dmverbs' own
/// fault).
#[derive(Debug, Args)]
pub struct Run {
    /// What to log to standard error, such as `info` or `dmverbs_provider=debug` (sets DMVERBS_LOG)
    #[arg(long, value_name = "LEVEL", value_parser = log)]
    log: Option<String>,

    /// The TCP ports to listen on, such as `7000-7099` (sets DMVERBS_PORT_RANGE)
    #[arg(long, value_name = "A-B", value_parser = port_range)]
    port_range: Option<String>,

    /// The interfaces to offer as devices, such as `eth0,eth1`, or `^lo` for all but lo (sets DMVERBS_IFNAMES)
    #[arg(long, value_name = "LIST", value_parser = interfaces)]
    ifnames: Option<String>,

    /// Whether, and how, memory of devices is sent and received without the host where that is possible; `on` is
    /// `recvmsg` (sets DMVERBS_DEVMEM)
    #[arg(long, value_name = "HOW", value_parser = ["on", "off", "recvmsg", "io_uring", "zcrx"])]
    devmem: Option<String>,

    /// The TCP port that `dmverbs nic lease` has steered to a queue for us (sets DMVERBS_LANE_PORT)
    #[arg(long, value_name = "PORT")]
    lane_port: Option<NonZero<u16>>,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["PROGRAM", "ARGS"])]
    program: Vec<OsString>,
}

impl Run {
    /// Becomes the program.
    pub fn exec(self) -> Result<Infallible, Failure> {
        let file = program::find(&self.program[0])?;
        program::refuse_privileged(&file)?;
        let libdir = Libdir::make()?;
        let error = execute(&file, &self.program, &self.environment(&libdir))?;
        Err(match error.raw_os_error() {
            Some(libc::ENOENT) => {
                Failure::not_runnable(format!("{}: its interpreter (or loader) is missing", file.display()))
            }
            _ => Failure::not_runnable(format!("{}: {error}", file.display())),
        })
    }

    fn environment(&self, libdir: &Libdir) -> Vec<(OsString, OsString)> {
        let lane_port = self.lane_port.map(|port| port.to_string());
        let options = [
            ("DMVERBS_LOG", &self.log),
            ("DMVERBS_PORT_RANGE", &self.port_range),
            ("DMVERBS_IFNAMES", &self.ifnames),
            ("DMVERBS_DEVMEM", &self.devmem),
            ("DMVERBS_LANE_PORT", &lane_port),
        ];
        let mut ours: Vec<(OsString, OsString)> = vec![(LIBDIR_VARIABLE.into(), libdir.path().into())];
        ours.extend(options.into_iter().filter_map(|(name, value)| Some((name.into(), value.as_ref()?.into()))));
        ours.push(("LD_LIBRARY_PATH".into(), before(&[libdir.path().to_owned()], "LD_LIBRARY_PATH", b":;")));
        // The drop-in library is preloaded too: where a program's own RPATH leads to another libibverbs.so.1, or where
        // a script sets LD_LIBRARY_PATH anew, it is there already.
        ours.push(("LD_PRELOAD".into(), before(&libdir.preloads(), "LD_PRELOAD", b": ")));
        let kept = env::vars_os().filter(|(name, _)| ours.iter().all(|(other, _)| other != name));
        let kept: Vec<_> = kept.collect();
        [kept, ours].concat()
    }
}

/// The variable that tells libshim/preload where the links are; it is internal, hence not called `DMVERBS_…`.
const LIBDIR_VARIABLE: &str = "_DMVERBS_LIBDIR";

/// A list variable's value with ours in front. What a `dmverbs run` around this one put there is not repeated, and an
/// empty element, which would mean the current folder, does not arise.
fn before(ours: &[PathBuf], variable: &str, separators: &[u8]) -> OsString {
    let old = env::var_os(variable).unwrap_or_default();
    let ours = ours.iter().map(|path| path.as_os_str().as_bytes());
    let mut list: Vec<&[u8]> = ours.collect();
    let count = list.len();
    if !old.is_empty() {
        for element in old.as_bytes().split(|byte| separators.contains(byte)) {
            if !list[..count].contains(&element) {
                list.push(element);
            }
        }
    }
    OsString::from_vec(list.join(&b':'))
}

/// execve(2), or, for a script without `#!`, a shell that reads it; returns why neither worked.
fn execute(file: &Path, args: &[OsString], environment: &[(OsString, OsString)]) -> Result<io::Error, Failure> {
    let file = c_string(file.as_os_str())?;
    let args = args.iter().map(|arg| c_string(arg)).collect::<Result<Vec<_>, _>>()?;
    let pair = |(name, value): &(OsString, OsString)| c_string(&[name.as_os_str(), value].join(OsStr::new("=")));
    let environment = environment.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
    let (args, environment) = (pointers(&args), pointers(&environment));
    // SAFETY: a C string and two arrays of C strings that end in NULL, all alive until it returns, if it does.
    unsafe { libc::execvpe(file.as_ptr(), args.as_ptr(), environment.as_ptr()) };
    Ok(io::Error::last_os_error())
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

fn c_string(text: &OsStr) -> Result<CString, Failure> {
    CString::new(text.as_bytes()).map_err(|_| Failure::ours(format!("{text:?} holds a NUL")))
}

fn log(text: &str) -> Result<String, String> {
    dmverbs_ffi::log::check(text)?;
    Ok(text.to_owned())
}

fn port_range(text: &str) -> Result<String, String> {
    understood("DMVERBS_PORT_RANGE", text)
}

fn interfaces(text: &str) -> Result<String, String> {
    understood("DMVERBS_IFNAMES", text)
}

fn understood(variable: &str, text: &str) -> Result<String, String> {
    config::check(variable, text).map_err(|e| e.to_string())?;
    Ok(text.to_owned())
}
