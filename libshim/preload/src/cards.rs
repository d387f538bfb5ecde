//! The devices of this process, as far as the shadow shows them.

use std::fs;
use std::path::PathBuf;

use dmverbs_provider::object;

/// A device and its port.
#[derive(Clone, Debug)]
pub struct Card {
    /// `dmv_eth0`
    pub name: String,
    /// `eth0`
    pub ifname: String,
    /// The interface's index, and the number of the `uverbs` device.
    pub ifindex: u32,
    /// In network order.
    pub guid: [u8; 8],
    /// By index.
    pub gids: Vec<[u8; 16]>,
    /// Whether the link is up.
    pub active: bool,
    /// The speed in Mbit/s.
    pub mbps: u32,
    /// What the interface is attached to: a PCI device, say.
    pub parent: Option<PathBuf>,
}

/// The devices as they are now.
pub fn cards() -> Result<Vec<Card>, String> {
    let devices = object::devices().map_err(|e| e.to_string())?;
    devices.iter().map(|device| card(device)).collect()
}

fn card(device: &object::Device) -> Result<Card, String> {
    let port = device.port();
    Ok(Card {
        name: device.name().to_owned(),
        ifname: device.ifname().to_owned(),
        ifindex: device.ifindex(),
        guid: device.guid(),
        gids: device.gids().map_err(|e| e.to_string())?.iter().map(|gid| gid.0).collect(),
        active: port.is_active(),
        mbps: port.speed_mbps,
        parent: fs::canonicalize(format!("/sys/class/net/{}/device", device.ifname())).ok(),
    })
}
