//! The environment: every `DMVERBS_*` variable, read once.

use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Once, OnceLock};

/// What the environment says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Config {
    /// `DMVERBS_LOG`: a filter for messages, such as `info` or `dmverbs_provider=debug`.
    pub log: Option<String>,
    /// `DMVERBS_PORT_RANGE`: TCP ports to listen on, `LOW-HIGH`.
    pub port_range: Option<RangeInclusive<u16>>,
    /// `DMVERBS_IFNAMES`: the interfaces to offer.
    pub ifnames: IfNames,
    /// `DMVERBS_DEVMEM`: whether memory of devices is sent and received without the host where that is possible.
    pub devmem: Devmem,
    /// `DMVERBS_LANE_PORT`: the TCP port that whoever leased us a queue of a NIC has steered there.
    pub lane_port: Option<u16>,
    /// Variables called `DMVERBS_…` that mean nothing: mistyped, or of another version.
    unknown: Vec<String>,
}

impl Config {
    /// Tells of variables that mean nothing, once; not while parsing, when nobody listens to the log yet.
    pub(crate) fn warn_of_unknown(&self) {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            for name in &self.unknown {
                tracing::warn!("{name} is set, but there is no such variable");
            }
        });
    }
}

/// What happens to memory of devices.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Devmem {
    /// NICs send from it and receive into it where they can; it is received by recvmsg(2): `on`, `recvmsg`.
    #[default]
    RecvMsg,
    /// The same, but it is received by io_uring(7): `io_uring`.
    IoUring,
    /// The same, but queues are io_uring's, which hands over what they bring: `zcrx`.
    Zcrx,
    /// It passes through the host: `off`.
    Off,
}

/// Which interfaces are offered as devices.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum IfNames {
    /// Every one that has an address.
    #[default]
    All,
    /// Only these: `eth0,eth1`.
    Only(Vec<String>),
    /// All but these: `^lo,docker0`.
    Except(Vec<String>),
}

impl IfNames {
    /// Whether the interface `name` is offered.
    #[must_use]
    pub fn allow(&self, name: &str) -> bool {
        match self {
            IfNames::All => true,
            IfNames::Only(names) => names.iter().any(|n| n == name),
            IfNames::Except(names) => names.iter().all(|n| n != name),
        }
    }
}

/// A variable whose value makes no sense.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    name: String,
    value: String,
    why: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}: {}", self.name, self.value, self.why)
    }
}

impl std::error::Error for ConfigError {}

/// The process's configuration. Programs with more rights than their user read no environment (AT_SECURE).
///
/// # Errors
/// The first variable that makes no sense.
pub fn config() -> Result<&'static Config, &'static ConfigError> {
    static CONFIG: OnceLock<Result<Config, ConfigError>> = OnceLock::new();
    CONFIG
        .get_or_init(|| if crate::sys::is_secure() { Ok(Config::default()) } else { parse(std::env::vars_os()) })
        .as_ref()
}

/// Whether [`config`] would take this value of the variable `name`.
///
/// # Errors
/// What is wrong with it.
pub fn check(name: &str, value: &str) -> Result<(), ConfigError> {
    parse([(name.into(), value.into())].into_iter()).map(drop)
}

fn parse(vars: impl Iterator<Item = (OsString, OsString)>) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    for (name, value) in vars {
        let Some(name) = name.to_str().filter(|name| name.starts_with("DMVERBS_")) else { continue };
        let refuse = |why: &str| ConfigError {
            name: name.to_owned(),
            value: value.to_string_lossy().into_owned(),
            why: why.to_owned(),
        };
        let text = || value.to_str().ok_or_else(|| refuse("is not UTF-8"));
        match name {
            "DMVERBS_LOG" => config.log = Some(text()?.to_owned()),
            "DMVERBS_PORT_RANGE" => config.port_range = Some(ports(text()?).map_err(|why| refuse(&why))?),
            "DMVERBS_IFNAMES" => config.ifnames = names(text()?).map_err(|why| refuse(&why))?,
            "DMVERBS_DEVMEM" => config.devmem = devmem(text()?).map_err(refuse)?,
            "DMVERBS_LANE_PORT" => config.lane_port = Some(port(text()?).map_err(|why| refuse(&why))?),
            _ => config.unknown.push(name.to_owned()),
        }
    }
    Ok(config)
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (low, high) = text.split_once('-').ok_or("must be LOW-HIGH, two TCP ports")?;
    let (low, high) = (port(low)?, port(high)?);
    if low > high {
        return Err("must be LOW-HIGH with LOW <= HIGH".into());
    }
    Ok(low..=high)
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.trim().parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("{text:?} is no TCP port"))
}

fn devmem(text: &str) -> Result<Devmem, &'static str> {
    match text {
        "on" | "recvmsg" => Ok(Devmem::RecvMsg),
        "io_uring" => Ok(Devmem::IoUring),
        "zcrx" => Ok(Devmem::Zcrx),
        "off" => Ok(Devmem::Off),
        _ => Err("must be on, off, recvmsg, io_uring or zcrx"),
    }
}

fn names(text: &str) -> Result<IfNames, String> {
    let (except, list) = match text.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err("must be interface names with commas between them, with ^ in front to exclude them".into());
    }
    Ok(if except { IfNames::Except(names) } else { IfNames::Only(names) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(vars: &[(&str, &str)]) -> Result<Config, String> {
        parse(vars.iter().map(|(n, v)| ((*n).into(), (*v).into()))).map_err(|e| e.to_string())
    }

    #[test]
    fn good_values_are_understood() {
        let config =
            parsed(&[("DMVERBS_PORT_RANGE", "7000-7010"), ("DMVERBS_IFNAMES", "^lo,eth0"), ("HOME", "/")]).unwrap();
        assert_eq!(config.port_range, Some(7000..=7010));
        assert_eq!(parsed(&[("DMVERBS_LANE_PORT", "18700")]).unwrap().lane_port, Some(18700));
        assert!(!config.ifnames.allow("lo") && config.ifnames.allow("eth1"));
    }

    #[test]
    fn a_variable_that_does_not_exist_is_remembered_to_be_warned_of() {
        let config = parsed(&[("DMVERBS_IFNAME", "lo"), ("DMVERBS_LOG", "info"), ("_DMVERBS_X", "")]).unwrap();
        assert_eq!(config.unknown, ["DMVERBS_IFNAME"]);
    }

    #[test]
    fn a_bad_value_is_refused_with_its_name() {
        for bad in ["7000", "x-y", "0-5", "9-3", "1-70000"] {
            let error = parsed(&[("DMVERBS_PORT_RANGE", bad)]).unwrap_err();
            assert!(error.starts_with(&format!("DMVERBS_PORT_RANGE={bad:?}: ")), "{error}");
        }
        assert_eq!(
            parsed(&[("DMVERBS_DEVMEM", "no")]).unwrap_err(),
            "DMVERBS_DEVMEM=\"no\": must be on, off, recvmsg, io_uring or zcrx"
        );
        let error = parsed(&[("DMVERBS_LANE_PORT", "0")]).unwrap_err();
        assert_eq!(error, "DMVERBS_LANE_PORT=\"0\": \"0\" is no TCP port");
        assert!(parsed(&[("DMVERBS_IFNAMES", "a,,b")]).unwrap_err().starts_with("DMVERBS_IFNAMES=\"a,,b\": "));
    }
}
