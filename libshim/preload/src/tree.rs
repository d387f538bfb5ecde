//! What is in the shadow: as the kernel's sysfs shows it for a RoCE device, as far as programs read it.

use std::fmt::Write;
use std::fs::{self, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::cards::Card;

/// A folder tree in memory, in the order in which it is written.
#[derive(Debug, Default, Hash)]
pub struct Tree(Vec<(PathBuf, Entry)>);

#[derive(Debug, Eq, Hash, PartialEq)]
enum Entry {
    Folder,
    File(String),
    Link(PathBuf),
}

/// The major number of the kernel's verbs devices.
pub const UVERBS_MAJOR: u32 = 231;

/// The minor number of `/dev/infiniband/uverbs<number>`.
pub const fn uverbs_minor(number: u32) -> u32 {
    192 + number
}

impl Tree {
    /// The shadow for these devices; its paths are relative to the root folder.
    pub fn new(cards: &[Card]) -> Self {
        let mut tree = Self::default();
        tree.folder("sys/class/infiniband");
        tree.folder("sys/class/infiniband_verbs");
        tree.folder("dev/infiniband");
        tree.file("sys/class/infiniband_verbs/abi_version", "6");
        for card in cards {
            tree.device(card);
            tree.port(card);
            tree.uverbs(card);
        }
        tree
    }

    /// A name for this content.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// Writes it all into the empty folder `root`, for everybody to read whatever the umask.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        for (path, entry) in &self.0 {
            let path = root.join(path);
            match entry {
                Entry::Folder => {
                    fs::create_dir_all(&path)?;
                    open_to_all(root, &path)?;
                }
                Entry::File(text) => {
                    fs::write(&path, text)?;
                    fs::set_permissions(&path, Permissions::from_mode(0o444))?;
                }
                Entry::Link(to) => symlink(to, &path)?,
            }
        }
        open_to_all(root, root)
    }

    /// Whether all of it is in the folder `root`.
    pub fn is_whole(&self, root: &Path) -> bool {
        self.0.iter().all(|(path, _)| root.join(path).symlink_metadata().is_ok())
    }

    fn device(&mut self, card: &Card) {
        let at = format!("sys/class/infiniband/{}", card.name);
        self.folder(&at);
        let guid = colons(&card.guid);
        for (name, text) in [
            ("node_type", "1: CA"),
            ("node_guid", &guid),
            ("sys_image_guid", &guid),
            ("node_desc", &format!("dmverbs on {}", card.ifname)),
            ("fw_ver", env!("CARGO_PKG_VERSION")),
        ] {
            self.file(&format!("{at}/{name}"), text);
        }
        self.parent(&at, card);
    }

    fn port(&mut self, card: &Card) {
        let at = format!("sys/class/infiniband/{}/ports/1", card.name);
        for folder in ["gids", "gid_attrs/types", "gid_attrs/ndevs", "pkeys", "counters"] {
            self.folder(&format!("{at}/{folder}"));
        }
        for (name, text) in [
            ("state", if card.active { "4: ACTIVE" } else { "1: DOWN" }),
            ("phys_state", if card.active { "5: LinkUp" } else { "3: Disabled" }),
            ("rate", rate(card.mbps)),
            ("link_layer", "Ethernet"),
            ("lid", "0x0"),
            ("lid_mask_count", "0"),
            ("sm_lid", "0x0"),
            ("sm_sl", "0"),
            ("cap_mask", "0x04000000"),
            ("pkeys/0", "0xffff"),
        ] {
            self.file(&format!("{at}/{name}"), text);
        }
        for (index, gid) in card.gids.iter().enumerate() {
            self.file(&format!("{at}/gids/{index}"), &colons(gid));
            self.file(&format!("{at}/gid_attrs/types/{index}"), "RoCE v2");
            self.file(&format!("{at}/gid_attrs/ndevs/{index}"), &card.ifname);
        }
        // The counters that mean the same for an interface: they are the kernel's own, hence always current.
        for (name, of) in [
            ("port_rcv_errors", "rx_errors"),
            ("port_rcv_packets", "rx_packets"),
            ("port_xmit_discards", "tx_dropped"),
            ("port_xmit_packets", "tx_packets"),
        ] {
            let to = format!("/sys/class/net/{}/statistics/{of}", card.ifname);
            self.link(&format!("{at}/counters/{name}"), &to);
        }
    }

    fn uverbs(&mut self, card: &Card) {
        let name = format!("uverbs{}", card.ifindex);
        let at = format!("sys/class/infiniband_verbs/{name}");
        self.folder(&at);
        self.file(&format!("{at}/ibdev"), &card.name);
        self.file(&format!("{at}/abi_version"), "1");
        self.file(&format!("{at}/dev"), &format!("{UVERBS_MAJOR}:{}", uverbs_minor(card.ifindex)));
        self.parent(&at, card);
        // A character device that everybody may open, wherever the path to it comes from.
        self.link(&format!("dev/infiniband/{name}"), "/dev/null");
    }

    /// Virtual interfaces have no parent: then there is no link either.
    fn parent(&mut self, at: &str, card: &Card) {
        if let Some(parent) = &card.parent {
            self.0.push((format!("{at}/device").into(), Entry::Link(parent.clone())));
        }
    }

    fn folder(&mut self, path: &str) {
        self.0.push((path.into(), Entry::Folder));
    }

    fn file(&mut self, path: &str, line: &str) {
        self.0.push((path.into(), Entry::File(format!("{line}\n"))));
    }

    fn link(&mut self, path: &str, to: &str) {
        self.0.push((path.into(), Entry::Link(to.into())));
    }
}

/// Lets everybody into `folder` and those above it, down from `root`.
fn open_to_all(root: &Path, folder: &Path) -> io::Result<()> {
    for folder in folder.ancestors().take_while(|folder| folder.starts_with(root)) {
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Bytes as sysfs writes GUIDs and GIDs: groups of four digits.
fn colons(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (i, byte) in bytes.iter().enumerate() {
        if i > 0 && i % 2 == 0 {
            text.push(':');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The InfiniBand rate nearest to an Ethernet speed; the same as ibv_query_port tells.
fn rate(mbps: u32) -> &'static str {
    match mbps {
        0..=1_000 => "2.5 Gb/sec (1X SDR)",
        1_001..=10_000 => "10 Gb/sec (1X FDR10)",
        10_001..=20_000 => "20 Gb/sec (4X DDR)",
        20_001..=25_000 => "25 Gb/sec (1X EDR)",
        25_001..=40_000 => "40 Gb/sec (4X FDR10)",
        40_001..=50_000 => "50 Gb/sec (2X EDR)",
        50_001..=100_000 => "100 Gb/sec (4X EDR)",
        100_001..=200_000 => "200 Gb/sec (4X HDR)",
        _ => "400 Gb/sec (4X NDR)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Card {
        let mut gid = [0; 16];
        gid[10..].copy_from_slice(&[0xff, 0xff, 10, 77, 0, 1]);
        Card {
            name: "dmv_eth0".into(),
            ifname: "eth0".into(),
            ifindex: 2,
            guid: [2, 0, 0, 0xff, 0xfe, 0, 0, 1],
            gids: vec![gid],
            active: true,
            mbps: 25_000,
            parent: None,
        }
    }

    fn text(tree: &Tree, path: &str) -> Option<String> {
        tree.0.iter().find_map(|(at, entry)| match entry {
            Entry::File(text) if at == Path::new(path) => Some(text.clone()),
            _ => None,
        })
    }

    #[test]
    fn guids_and_gids_are_written_as_sysfs_does() {
        let tree = Tree::new(&[card()]);
        let at = "sys/class/infiniband/dmv_eth0";
        assert_eq!(text(&tree, &format!("{at}/node_guid")).unwrap(), "0200:00ff:fe00:0001\n");
        assert_eq!(text(&tree, &format!("{at}/ports/1/gids/0")).unwrap(), "0000:0000:0000:0000:0000:ffff:0a4d:0001\n");
    }

    #[test]
    fn any_change_gives_another_digest() {
        let (before, mut later) = (card(), card());
        later.active = false;
        let digest = |card: &Card| Tree::new(std::slice::from_ref(card)).digest();
        assert_eq!(digest(&before), digest(&card()));
        assert_ne!(digest(&before), digest(&later));
    }
}
