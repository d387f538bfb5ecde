//! What has no netlink: `ioctl(SIOCETHTOOL)` for steering rules and older kernels' RSS tables; and interfaces' names in
//! the socket's own network namespace.
#![expect(unsafe_code, reason = "ioctl(2) takes pointers")]

use std::ffi::{CStr, c_char};
use std::fmt::{self, Display, Formatter};
use std::io;
use std::mem::{self, offset_of};
use std::os::fd::AsRawFd;

use netlink_sys::Socket;

/// An interface's name, ended with NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name([u8; libc::IFNAMSIZ]);

impl Name {
    /// None if no interface can be called so.
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; libc::IFNAMSIZ];
        let fits = !name.is_empty() && name.len() < bytes.len() && !name.contains('\0');
        fits.then(|| bytes[..name.len()].copy_from_slice(name.as_bytes()))?;
        Some(Self(bytes))
    }
}

impl Display for Name {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let name = CStr::from_bytes_until_nul(&self.0).unwrap_or_default();
        f.write_str(&name.to_string_lossy())
    }
}

/// The name of an interface.
pub(crate) fn name(socket: &Socket, index: u32) -> io::Result<Name> {
    let mut request = request(Name([0; libc::IFNAMSIZ]));
    request.ifr_ifru.ifru_ifindex = index.cast_signed();
    // SAFETY: SIOCGIFNAME reads and writes one `ifreq`.
    unsafe { control(socket, libc::SIOCGIFNAME, &mut request) }?;
    Ok(Name(request.ifr_name.map(|char| char.to_ne_bytes()[0])))
}

/// The index of an interface.
pub(crate) fn index(socket: &Socket, name: Name) -> io::Result<u32> {
    let mut request = request(name);
    // SAFETY: SIOCGIFINDEX reads and writes one `ifreq`.
    unsafe { control(socket, libc::SIOCGIFINDEX, &mut request) }?;
    // SAFETY: SIOCGIFINDEX has set this member.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex }.cast_unsigned())
}

/// The name of an interface's driver.
pub(crate) fn driver(socket: &Socket, name: Name) -> io::Result<String> {
    let mut command = DriverInfo { cmd: ETHTOOL_GDRVINFO, driver: [0; 32], more: [0; 160] };
    // SAFETY: for this command the kernel writes one `ethtool_drvinfo`.
    unsafe { ethtool(socket, name, &mut command) }?;
    let driver = CStr::from_bytes_until_nul(&command.driver).unwrap_or_default();
    Ok(driver.to_string_lossy().into_owned())
}

/// How many rules there are.
pub(crate) fn rule_count(socket: &Socket, name: Name) -> io::Result<RuleCount> {
    let mut command = Rxnfc::<1>::new(ETHTOOL_GRXCLSRLCNT);
    // SAFETY: for this command the kernel reads and writes one `ethtool_rxnfc`.
    unsafe { ethtool(socket, name, &mut command) }?;
    let chosen_by_driver = command.data & u64::from(RX_CLS_LOC_SPECIAL) != 0;
    Ok(RuleCount { used: command.rule_cnt, chosen_by_driver })
}

/// Where rules are, and where there can be some. It fails with EMSGSIZE if there are more than 4,095.
pub(crate) fn rule_table(socket: &Socket, name: Name) -> io::Result<RuleTable> {
    settled(|| try_rule_table(socket, name, rule_count(socket, name)?.used))
}

/// Drivers want to be asked for exactly as many as there are: some look for those that are lacking until they fail.
fn try_rule_table(socket: &Socket, name: Name, count: u32) -> io::Result<RuleTable> {
    const MOST: usize = 4095;
    let count = usize::try_from(count).ok().filter(|count| *count <= MOST);
    let count = count.ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
    let mut command = Box::new(Rxnfc::<MOST>::new(ETHTOOL_GRXCLSRLALL));
    command.rule_cnt = count as u32;
    // SAFETY: for this command the kernel reads and writes one `ethtool_rxnfc` with at most `rule_cnt` locations after
    // it, for which there is room.
    unsafe { ethtool(socket, name, command.as_mut()) }?;
    let found = count.min(command.rule_cnt as usize);
    Ok(RuleTable { taken: command.rule_locs[..found].to_vec(), size: command.data as u32 })
}

/// Asks again if the number of rules has changed between two calls: EMSGSIZE if there are more now, EINVAL of drivers
/// that look for more than there are.
fn settled<T>(mut ask: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    const TRIES: usize = 4;
    for _ in 1..TRIES {
        match ask() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL)) => {}
            asked => return asked,
        }
    }
    ask()
}

/// The rule at a location.
pub(crate) fn rule(socket: &Socket, name: Name, location: u32) -> io::Result<FlowSpec> {
    let mut command = Rxnfc::<1>::new(ETHTOOL_GRXCLSRULE);
    command.fs.location = location;
    // SAFETY: for this command the kernel reads and writes one `ethtool_rxnfc`.
    unsafe { ethtool(socket, name, &mut command) }?;
    Ok(command.fs)
}

/// Makes a rule; returns its location.
pub(crate) fn insert_rule(socket: &Socket, name: Name, rule: FlowSpec) -> io::Result<u32> {
    let mut command = Rxnfc::<1>::new(ETHTOOL_SRXCLSRLINS);
    command.fs = rule;
    // SAFETY: for this command the kernel reads and writes one `ethtool_rxnfc`.
    unsafe { ethtool(socket, name, &mut command) }?;
    Ok(command.fs.location)
}

/// Deletes the rule at a location.
pub(crate) fn delete_rule(socket: &Socket, name: Name, location: u32) -> io::Result<()> {
    let mut command = Rxnfc::<1>::new(ETHTOOL_SRXCLSRLDEL);
    command.fs.location = location;
    // SAFETY: for this command the kernel reads one `ethtool_rxnfc`.
    unsafe { ethtool(socket, name, &mut command) }
}

/// Sets the RSS table; an empty one means the driver's own.
pub(crate) fn set_indirection(socket: &Socket, name: Name, table: &[u32]) -> io::Result<()> {
    let size = u32::try_from(table.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut command = [&[ETHTOOL_SRXFHINDIR, size], table].concat();
    // SAFETY: for this command the kernel reads an `ethtool_rxfh_indir`, which is two numbers, and `size` more.
    unsafe { ethtool(socket, name, command.as_mut_slice()) }
}

/// How many rules there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuleCount {
    pub used: u32,
    /// The driver takes RX_CLS_LOC_ANY for a location, and chooses one.
    pub chosen_by_driver: bool,
}

/// The rules of a driver, by location.
#[derive(Clone, Debug)]
pub(crate) struct RuleTable {
    pub taken: Vec<u32>,
    /// Locations are below this.
    pub size: u32,
}

impl RuleTable {
    /// The last location that is free.
    pub fn free(&self) -> Option<u32> {
        (0..self.size).rev().find(|location| !self.taken.contains(location))
    }
}

/// `struct ethtool_rx_flow_spec`: `fields` and `mask` are `union ethtool_flow_union`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowSpec {
    pub flow_type: u32,
    pub fields: [u8; 52],
    pub more: [u8; 20],
    pub mask: [u8; 52],
    pub more_mask: [u8; 20],
    pub ring_cookie: u64,
    pub location: u32,
}

impl FlowSpec {
    /// One that matches everything of its type.
    pub const fn new(flow_type: u32) -> Self {
        Self {
            flow_type,
            fields: [0; 52],
            more: [0; 20],
            mask: [0; 52],
            more_mask: [0; 20],
            ring_cookie: 0,
            location: RX_CLS_LOC_ANY,
        }
    }
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    more: [u8; 160],
}

/// `struct ethtool_rxnfc` with room for N locations.
#[repr(C)]
struct Rxnfc<const N: usize> {
    cmd: u32,
    flow_type: u32,
    data: u64,
    fs: FlowSpec,
    rule_cnt: u32,
    rule_locs: [u32; N],
}

impl<const N: usize> Rxnfc<N> {
    fn new(cmd: u32) -> Self {
        Self { cmd, flow_type: 0, data: 0, fs: FlowSpec::new(0), rule_cnt: 0, rule_locs: [0; N] }
    }
}

// As `cc` lays them out on 64-bit machines.
const _: () = {
    assert!(size_of::<DriverInfo>() == 196);
    assert!(size_of::<FlowSpec>() == 168);
    assert!(offset_of!(FlowSpec, ring_cookie) == 152);
    assert!(offset_of!(FlowSpec, location) == 160);
    assert!(offset_of!(Rxnfc<1>, fs) == 16);
    assert!(offset_of!(Rxnfc<1>, rule_locs) == 188);
    assert!(size_of::<Rxnfc<1>>() == 192);
};

fn request(name: Name) -> libc::ifreq {
    // SAFETY: `ifreq` is made of numbers and pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name = name.0.map(|byte| c_char::from_ne_bytes([byte]));
    request
}

/// # Safety
///
/// For the command that `data` begins with, the kernel must write to no more than `data`, nothing that is not a value of
/// its type.
unsafe fn ethtool<T: ?Sized>(socket: &Socket, name: Name, data: &mut T) -> io::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_data = (&raw mut *data).cast();
    // SAFETY: SIOCETHTOOL reads one `ifreq`; what it does with `ifru_data` is the caller's promise.
    unsafe { control(socket, SIOCETHTOOL, &mut request) }
}

/// # Safety
///
/// The operation must read and write one `ifreq` and what it points to.
unsafe fn control(socket: &Socket, operation: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the operation is the caller's promise, and `request` is an `ifreq`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), operation as libc::Ioctl, &raw mut *request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;

// linux/ethtool.h
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GRXCLSRLCNT: u32 = 0x2e;
const ETHTOOL_GRXCLSRULE: u32 = 0x2f;
const ETHTOOL_GRXCLSRLALL: u32 = 0x30;
const ETHTOOL_SRXCLSRLDEL: u32 = 0x31;
const ETHTOOL_SRXCLSRLINS: u32 = 0x32;
const ETHTOOL_SRXFHINDIR: u32 = 0x39;
const RX_CLS_LOC_SPECIAL: u32 = 0x8000_0000;
const RX_CLS_LOC_ANY: u32 = 0xffff_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        assert_eq!(Name::new("eth0").unwrap().to_string(), "eth0");
        assert_eq!(Name::new("123456789abcdef").unwrap().to_string(), "123456789abcdef");
        for bad in ["", "123456789abcdefg", "a\0b"] {
            assert_eq!(Name::new(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_last_free_location_is_for_a_new_rule() {
        let table = |taken: &[u32], size| RuleTable { taken: taken.to_vec(), size };
        assert_eq!(table(&[], 1024).free(), Some(1023));
        assert_eq!(table(&[0, 2, 3], 4).free(), Some(1));
        assert_eq!(table(&[1, 0], 2).free(), None);
        assert_eq!(table(&[], 0).free(), None);
    }

    #[test]
    fn rules_that_change_meanwhile_are_listed_again_but_not_for_ever() {
        let asked = |errors: &[i32]| {
            let (mut errors, mut times) = (errors.iter(), 0);
            let answer = settled(|| {
                times += 1;
                errors.next().map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(*errno)))
            });
            (answer.map_err(|error| error.raw_os_error().unwrap()), times)
        };
        assert_eq!(asked(&[]), (Ok(()), 1));
        assert_eq!(asked(&[libc::EMSGSIZE, libc::EINVAL]), (Ok(()), 3));
        assert_eq!(asked(&[libc::EOPNOTSUPP]), (Err(libc::EOPNOTSUPP), 1));
        assert_eq!(asked(&[libc::EMSGSIZE; 9]), (Err(libc::EMSGSIZE), 4));
    }
}
