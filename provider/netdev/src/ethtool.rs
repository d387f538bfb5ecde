//! The family `ethtool`: an interface's rings, channels, features and RSS table.

use crate::error::{Error, Refusal};
use crate::genl::{Attributes, Family, attributes, find, find_u32, text};
use crate::{ioctl, socket};

/// A socket of the family `ethtool`.
#[derive(Debug)]
pub struct Ethtool(pub(crate) Family);

/// Whether the NIC puts TCP payload and headers into separate buffers, and whether that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSplit {
    /// The driver decides.
    Unknown,
    /// Not.
    Disabled,
    /// It does.
    Enabled,
}

/// An interface's RX rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rings {
    /// Entries of a ring.
    pub rx: Option<u32>,
    /// The most that it can have.
    pub rx_max: Option<u32>,
    /// Header split. None where the driver has none, or does not tell.
    pub tcp_data_split: Option<DataSplit>,
    /// Packets up to this size are not split. None where driver or kernel (before 6.14) have no such setting.
    pub hds_thresh: Option<u32>,
    /// The most that it can be.
    pub hds_thresh_max: Option<u32>,
}

/// What to change of the rings, all at once; the rest stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingsChange {
    /// Entries of an RX ring.
    pub rx: Option<u32>,
    /// Header split.
    pub tcp_data_split: Option<DataSplit>,
    /// The size of packets that are not split.
    pub hds_thresh: Option<u32>,
}

/// An interface's channels for receiving. Those that both send and receive are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Channels that only receive.
    pub rx: u32,
    /// The most of these.
    pub rx_max: u32,
    /// Channels that send and receive.
    pub combined: u32,
    /// The most of these.
    pub combined_max: u32,
}

impl Channels {
    /// How many RX queues are in use.
    pub fn rx_queues(&self) -> u32 {
        self.rx.saturating_add(self.combined)
    }
}

/// What to change of the channels; the rest stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelsChange {
    /// Channels that only receive.
    pub rx: Option<u32>,
    /// Channels that send and receive.
    pub combined: Option<u32>,
}

/// One of the features that `ethtool -k` shows, by the kernel's own name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Feature {
    /// As in `rx-ntuple-filter`, `rx-gro-hw`.
    pub name: String,
    /// Whether it is on.
    pub active: bool,
    /// Whether it is on or would be, were something else not in its way.
    pub wanted: bool,
    /// Whether it can be switched.
    pub changeable: bool,
}

impl Ethtool {
    /// Opens a socket in this thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Family::open("ethtool").map(Self)
    }

    /// The index of the interface that has this name.
    pub fn ifindex(&self, name: &str) -> Result<u32, Error> {
        let refused = |refusal: Refusal| refusal.of(format!("find an interface {name}"));
        let name = ioctl::Name::new(name).ok_or_else(|| refused(Refusal { errno: libc::ENODEV, message: None }))?;
        ioctl::index(self.0.socket(), name).map_err(|error| refused(error.into()))
    }

    /// The name of the interface that has this index.
    pub fn ifname(&self, ifindex: u32) -> Result<String, Error> {
        let name = ioctl::name(self.0.socket(), ifindex);
        name.map(|name| name.to_string())
            .map_err(|error| Refusal::from(error).of(format!("find an interface with index {ifindex}")))
    }

    /// The number of the network namespace that this socket is of. No other gets it before the next boot, unlike the
    /// number of the namespace's inode.
    pub fn namespace(&self) -> Result<u64, Error> {
        socket::namespace(self.0.socket()).map_err(|error| Refusal::from(error).of("number this network namespace"))
    }

    /// The name of the interface's driver. None where there is no such name, as for `lo`.
    pub fn driver(&self, ifindex: u32) -> Result<Option<String>, Error> {
        let name = ioctl::name(self.0.socket(), ifindex);
        match name.and_then(|name| ioctl::driver(self.0.socket(), name)) {
            Ok(driver) => Ok(Some(driver)),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(self.refused(error.into(), "read the driver's name", ifindex)),
        }
    }

    /// The rings.
    pub fn rings(&self, ifindex: u32) -> Result<Rings, Error> {
        let found = self.ask(MSG_RINGS_GET, ifindex, "read the rings")?;
        let split = find(&found, A_RINGS_TCP_DATA_SPLIT).and_then(|value| value.first()).map(|value| match value {
            1 => DataSplit::Disabled,
            2 => DataSplit::Enabled,
            _ => DataSplit::Unknown,
        });
        Ok(Rings {
            rx: find_u32(&found, A_RINGS_RX),
            rx_max: find_u32(&found, A_RINGS_RX_MAX),
            tcp_data_split: split,
            hds_thresh: find_u32(&found, A_RINGS_HDS_THRESH),
            hds_thresh_max: find_u32(&found, A_RINGS_HDS_THRESH_MAX),
        })
    }

    /// Changes the rings. It needs CAP_NET_ADMIN, as everything here does that changes something.
    pub fn set_rings(&self, ifindex: u32, change: &RingsChange) -> Result<(), Error> {
        let split = change.tcp_data_split.map(|split| match split {
            DataSplit::Unknown => 0,
            DataSplit::Disabled => 1,
            DataSplit::Enabled => 2,
        });
        let request = about(ifindex)
            .maybe(change.rx, |request, rx| request.u32(A_RINGS_RX, rx))
            .maybe(split, |request, split| request.u8(A_RINGS_TCP_DATA_SPLIT, split))
            .maybe(change.hds_thresh, |request, size| request.u32(A_RINGS_HDS_THRESH, size));
        self.0.tell(MSG_RINGS_SET, request).map_err(|refusal| self.refused(refusal, "change the rings", ifindex))
    }

    /// The channels.
    pub fn channels(&self, ifindex: u32) -> Result<Channels, Error> {
        let found = self.ask(MSG_CHANNELS_GET, ifindex, "read the channels")?;
        let number = |kind| find_u32(&found, kind).unwrap_or(0);
        Ok(Channels {
            rx: number(A_CHANNELS_RX_COUNT),
            rx_max: number(A_CHANNELS_RX_MAX),
            combined: number(A_CHANNELS_COMBINED_COUNT),
            combined_max: number(A_CHANNELS_COMBINED_MAX),
        })
    }

    /// Changes the channels.
    pub fn set_channels(&self, ifindex: u32, change: &ChannelsChange) -> Result<(), Error> {
        let request = about(ifindex)
            .maybe(change.rx, |request, count| request.u32(A_CHANNELS_RX_COUNT, count))
            .maybe(change.combined, |request, count| request.u32(A_CHANNELS_COMBINED_COUNT, count));
        self.0.tell(MSG_CHANNELS_SET, request).map_err(|refusal| self.refused(refusal, "change the channels", ifindex))
    }

    /// All features that the kernel knows.
    pub fn features(&self, ifindex: u32) -> Result<Vec<Feature>, Error> {
        let found = self.ask(MSG_FEATURES_GET, ifindex, "read the features")?;
        let bits = |kind| find(&found, kind).map(set_bits).unwrap_or_default();
        let (active, wanted) = (bits(A_FEATURES_ACTIVE), bits(A_FEATURES_WANTED));
        let (changeable, fixed) = (bits(A_FEATURES_HW), bits(A_FEATURES_NOCHANGE));
        let all = find(&found, A_FEATURES_HW).map(all_bits).unwrap_or_default();
        let feature = |name: String| Feature {
            active: active.contains(&name),
            wanted: wanted.contains(&name),
            changeable: changeable.contains(&name) && !fixed.contains(&name),
            name,
        };
        Ok(all.into_iter().map(feature).collect())
    }

    /// One feature, as in `rx-ntuple-filter`. None where the kernel has no feature of this name.
    pub fn feature(&self, ifindex: u32, name: &str) -> Result<Option<Feature>, Error> {
        Ok(self.features(ifindex)?.into_iter().find(|feature| feature.name == name))
    }

    /// Switches a feature on or off. It is an error if it stays as it was.
    pub fn set_feature(&self, ifindex: u32, name: &str, on: bool) -> Result<(), Error> {
        let attempt = format!("switch {} {name}", if on { "on" } else { "off" });
        let want = |on| {
            let bit = Attributes::new().string(A_BITSET_BIT_NAME, name);
            let bit = if on { bit.flag(A_BITSET_BIT_VALUE) } else { bit };
            let bits = Attributes::new().nested(A_BITSET_BITS, Attributes::new().nested(A_BITSET_BITS_BIT, bit));
            let request = about(ifindex).nested(A_FEATURES_WANTED, bits);
            self.0.tell(MSG_FEATURES_SET, request).map_err(|refusal| self.refused(refusal, &attempt, ifindex))
        };
        let before = self.feature(ifindex, name)?;
        want(on)?;
        // The kernel does not refuse what the driver then does not do, and asks it for that again later.
        if self.feature(ifindex, name)?.is_some_and(|feature| feature.active == on) {
            return Ok(());
        }
        if let Some(before) = before {
            want(before.wanted)?;
        }
        let refusal = Refusal { errno: libc::EOPNOTSUPP, message: Some("it stays as it was".to_owned()) };
        Err(self.refused(refusal, &attempt, ifindex))
    }

    /// The RSS table of context 0: the queue for each hash value.
    pub fn rss_table(&self, ifindex: u32) -> Result<Vec<u32>, Error> {
        Ok(table(&self.ask(MSG_RSS_GET, ifindex, "read the RSS table")?))
    }

    /// The queues that RSS spreads to by whichever context, in no order; kernels before 6.12 tell of context 0 only.
    pub fn rss_queues(&self, ifindex: u32) -> Result<Vec<u32>, Error> {
        let first = self.rss_table(ifindex)?;
        let all = match self.0.list(MSG_RSS_GET, about(ifindex)) {
            Err(refusal) if refusal.errno == libc::EOPNOTSUPP => Vec::new(),
            listed => listed.map_err(|refusal| self.refused(refusal, "list the RSS contexts", ifindex))?,
        };
        Ok(all.iter().flat_map(|context| table(context)).chain(first).collect())
    }

    /// Sets the RSS table of context 0.
    ///
    /// An empty one gives it back to the driver, which spreads over all queues, and does so anew when their number
    /// changes. One that was set otherwise stays, and forbids fewer queues than it names.
    pub fn set_rss_table(&self, ifindex: u32, table: &[u32]) -> Result<(), Error> {
        self.try_set_rss_table(ifindex, table).map_err(|refusal| self.refused(refusal, "change the RSS table", ifindex))
    }

    fn try_set_rss_table(&self, ifindex: u32, table: &[u32]) -> Result<(), Refusal> {
        let bytes: Vec<u8> = table.iter().flat_map(|queue| queue.to_ne_bytes()).collect();
        if bytes.len() > usize::from(u16::MAX - 4) {
            return Err(Refusal { errno: libc::EMSGSIZE, message: None });
        }
        match self.0.tell(MSG_RSS_SET, about(ifindex).bytes(A_RSS_INDIR, &bytes)) {
            // The driver has none, or the kernel has no such message.
            Err(Refusal { errno: libc::EOPNOTSUPP, .. }) => {
                let name = ioctl::name(self.0.socket(), ifindex)?;
                Ok(ioctl::set_indirection(self.0.socket(), name, table)?)
            }
            done => done,
        }
    }

    fn ask(&self, message: u8, ifindex: u32, attempt: &str) -> Result<Vec<u8>, Error> {
        self.0.ask(message, about(ifindex)).map_err(|refusal| self.refused(refusal, attempt, ifindex))
    }

    pub(crate) fn refused(&self, refusal: Refusal, attempt: &str, ifindex: u32) -> Error {
        refusal.of(format!("{attempt} of {}", self.0.interface(ifindex)))
    }
}

/// The header of every request: which interface it is about. The families' headers all are attribute 1.
fn about(ifindex: u32) -> Attributes {
    Attributes::new().nested(A_HEADER, Attributes::new().u32(A_HEADER_DEV_INDEX, ifindex))
}

/// The RSS table of a context.
fn table(context: &[u8]) -> Vec<u32> {
    let table = find(context, A_RSS_INDIR).unwrap_or_default();
    table.as_chunks().0.iter().map(|queue| u32::from_ne_bytes(*queue)).collect()
}

/// The names of the bits that are set. Without a mask, only these are listed.
fn set_bits(bitset: &[u8]) -> Vec<String> {
    let all_set = find(bitset, A_BITSET_NOMASK).is_some();
    bits(bitset).filter(|bit| all_set || find(bit, A_BITSET_BIT_VALUE).is_some()).filter_map(bit_name).collect()
}

/// The names of the bits that are listed.
fn all_bits(bitset: &[u8]) -> Vec<String> {
    bits(bitset).filter_map(bit_name).collect()
}

fn bits(bitset: &[u8]) -> impl Iterator<Item = &[u8]> {
    let list = find(bitset, A_BITSET_BITS).unwrap_or_default();
    attributes(list).filter_map(|(kind, bit)| (kind == A_BITSET_BITS_BIT).then_some(bit))
}

fn bit_name(bit: &[u8]) -> Option<String> {
    find(bit, A_BITSET_BIT_NAME).map(text)
}

// linux/ethtool_netlink.h
const MSG_FEATURES_GET: u8 = 11;
const MSG_FEATURES_SET: u8 = 12;
const MSG_RINGS_GET: u8 = 15;
const MSG_RINGS_SET: u8 = 16;
const MSG_CHANNELS_GET: u8 = 17;
const MSG_CHANNELS_SET: u8 = 18;
const MSG_RSS_GET: u8 = 38;
const MSG_RSS_SET: u8 = 48;
const A_HEADER: u16 = 1;
const A_HEADER_DEV_INDEX: u16 = 1;
const A_BITSET_NOMASK: u16 = 1;
const A_BITSET_BITS: u16 = 3;
const A_BITSET_BITS_BIT: u16 = 1;
const A_BITSET_BIT_NAME: u16 = 2;
const A_BITSET_BIT_VALUE: u16 = 3;
const A_FEATURES_HW: u16 = 2;
const A_FEATURES_WANTED: u16 = 3;
const A_FEATURES_ACTIVE: u16 = 4;
const A_FEATURES_NOCHANGE: u16 = 5;
const A_RINGS_RX_MAX: u16 = 2;
const A_RINGS_RX: u16 = 6;
const A_RINGS_TCP_DATA_SPLIT: u16 = 11;
const A_RINGS_HDS_THRESH: u16 = 17;
const A_RINGS_HDS_THRESH_MAX: u16 = 18;
const A_CHANNELS_RX_MAX: u16 = 2;
const A_CHANNELS_COMBINED_MAX: u16 = 5;
const A_CHANNELS_RX_COUNT: u16 = 6;
const A_CHANNELS_COMBINED_COUNT: u16 = 9;
const A_RSS_INDIR: u16 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lo_has_features_but_no_rings() {
        let ethtool = Ethtool::open().unwrap();
        let lo = ethtool.ifindex("lo").unwrap();
        let loopback = ethtool.feature(lo, "loopback").unwrap().unwrap();
        assert!(loopback.active && !loopback.changeable, "{loopback:?}");
        assert!(ethtool.features(lo).unwrap().len() > 20);
        assert_eq!(ethtool.feature(lo, "no-such-feature").unwrap(), None);
        let error = ethtool.rings(lo).unwrap_err();
        assert!(error.is_unsupported(), "{error}");
        assert!(error.to_string().starts_with("cannot read the rings of lo: "), "{error}");
        assert!(ethtool.rss_queues(lo).unwrap_err().is_unsupported());
    }

    #[test]
    fn names_and_indices_belong_together_in_a_namespace() {
        let ethtool = Ethtool::open().unwrap();
        assert_eq!(ethtool.ifname(ethtool.ifindex("lo").unwrap()).unwrap(), "lo");
        assert_eq!(ethtool.ifname(0x7fff_0000).unwrap_err().errno(), libc::ENODEV);
        assert_eq!(ethtool.namespace().unwrap(), Ethtool::open().unwrap().namespace().unwrap());
        assert_ne!(ethtool.namespace().unwrap(), 0);
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let ethtool = Ethtool::open().unwrap();
        let error = ethtool.ifindex("dmverbs-none").unwrap_err();
        assert_eq!(error.errno(), libc::ENODEV);
        assert!(error.to_string().contains("dmverbs-none"), "{error}");
        let error = ethtool.channels(0x7fff_0000).unwrap_err();
        assert!(error.to_string().contains("interface 2147418112"), "{error}");
        assert_eq!(error.errno(), libc::ENODEV);
        assert!(error.message().is_some(), "{error}");
    }
}
