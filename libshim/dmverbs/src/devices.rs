//! `dmverbs devices`: the table of devices.

use std::io::{self, Write};

use dmverbs_provider::object;

use crate::failure::Failure;

/// Prints a line for each device.
pub fn print() -> Result<(), Failure> {
    dmverbs_ffi::log::start().map_err(Failure::ours)?;
    let devices = object::devices().map_err(Failure::ours)?;
    let mut rows = vec![["DEVICE", "INTERFACE", "STATE", "SPEED", "MTU", "ADDRESSES"].map(str::to_owned)];
    for device in devices {
        let port = device.port();
        let addresses: Vec<String> =
            device.gids().map_err(Failure::ours)?.iter().map(|gid| gid.ip().to_string()).collect();
        rows.push([
            device.name().to_owned(),
            device.ifname().to_owned(),
            if port.is_active() { "active" } else { "down" }.to_owned(),
            speed(port.speed_mbps),
            port.mtu.to_string(),
            addresses.join(" "),
        ]);
    }
    let widths: Vec<usize> = (0..6).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    io::stdout().write_all(text.as_bytes()).map_err(Failure::ours)
}

fn speed(mbps: u32) -> String {
    format!("{} Gb/s", f64::from(mbps) / 1000.0)
}
