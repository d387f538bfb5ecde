//! The settings of an interface that devmem TCP is about.

use dmverbs_netdev::{ChannelsChange, DataSplit, Error, Ethtool, RingsChange};
use serde::{Deserialize, Serialize};

/// What `setup` changes, and `restore` puts back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whether headers and payload go to separate buffers.
    pub header_split: bool,
    /// Packets up to this size are not split. None where there is no such setting.
    pub hds_thresh: Option<u32>,
    /// Channels that only receive.
    pub rx: u32,
    /// Channels that send and receive.
    pub combined: u32,
    /// Which queue gets what no rule steers.
    pub rss: Rss,
    /// Whether steering rules work.
    pub ntuple: bool,
}

/// An RSS table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rss {
    /// Over all queues in turn, as drivers do by themselves.
    Even,
    /// The queue for each hash value.
    Table(Vec<u32>),
}

/// An interface that could be prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub settings: Settings,
    /// The most channels that only receive.
    pub rx_max: u32,
    /// The most channels that send and receive.
    pub combined_max: u32,
    /// Entries of the RSS table.
    pub table_len: usize,
}

impl Found {
    /// Reads the settings; or says what the interface lacks, a sentence each.
    pub fn read(ethtool: &Ethtool, ifindex: u32) -> Result<Self, Vec<String>> {
        let mut missing = Vec::new();
        let mut note = |what: &str, error: Error| missing.push(format!("{what}: {error}"));
        let rings = ethtool.rings(ifindex).map_err(|error| note("header split", error)).ok();
        let channels = ethtool.channels(ifindex).map_err(|error| note("RX queues", error)).ok();
        let table = ethtool.rss_table(ifindex).map_err(|error| note("RSS table", error)).ok();
        let ntuple = ethtool.feature(ifindex, NTUPLE).map_err(|error| note("steering rules", error)).ok();
        if rings.is_some_and(|rings| rings.tcp_data_split.is_none()) {
            missing.push("header split: the driver does not say that it has tcp-data-split".to_owned());
        }
        let ntuple = ntuple.map(Option::unwrap_or_default);
        if ntuple.as_ref().is_some_and(|ntuple| !ntuple.active && !ntuple.changeable) {
            missing.push(format!("steering rules: {NTUPLE} is off, and the driver does not let it be switched on"));
        }
        if table.as_ref().is_some_and(Vec::is_empty) {
            missing.push("RSS table: it is empty".to_owned());
        }
        let (Some(rings), Some(channels), Some(table), Some(ntuple), []) =
            (rings, channels, table, ntuple, missing.as_slice())
        else {
            return Err(missing);
        };
        let settings = Settings {
            header_split: rings.tcp_data_split == Some(DataSplit::Enabled),
            hds_thresh: rings.hds_thresh,
            rx: channels.rx,
            combined: channels.combined,
            rss: Rss::of(&table, channels.rx_queues()),
            ntuple: ntuple.active,
        };
        let (rx_max, combined_max) = (channels.rx_max, channels.combined_max);
        Ok(Self { settings, rx_max, combined_max, table_len: table.len() })
    }

    /// The same interface, with so many queues free for device memory.
    pub fn prepared(&self, queues: u32) -> Result<Settings, Vec<String>> {
        let mut new = self.settings.clone();
        new.header_split = true;
        new.hds_thresh = new.hds_thresh.map(|_| 0);
        new.ntuple = true;
        // One more than are kept free, for everything else.
        let more = queues.saturating_add(1).saturating_sub(new.queues());
        if more <= self.combined_max.saturating_sub(new.combined) {
            new.combined += more;
        } else if more <= self.rx_max.saturating_sub(new.rx) {
            new.rx += more;
        } else {
            let most = new.queues().max(self.combined_max).max(self.rx_max);
            return Err(vec![format!(
                "RX queues: it can have {most}; {queues} for device memory and one for everything else are needed"
            )]);
        }
        new.rss = self.settings.rss.within(new.queues(), new.queues() - queues, self.table_len);
        Ok(new)
    }
}

impl Settings {
    /// What differs, a line each.
    pub fn changes(&self, to: &Self) -> Vec<String> {
        let number = |number: Option<u32>| number.map_or("none".to_owned(), |number| number.to_string());
        let lines = [
            ("header split", switch(self.header_split), switch(to.header_split)),
            ("hds-thresh", number(self.hds_thresh), number(to.hds_thresh)),
            ("RX channels", self.rx.to_string(), to.rx.to_string()),
            ("combined channels", self.combined.to_string(), to.combined.to_string()),
            ("RSS queues", self.rss.describe(self.queues()), to.rss.describe(to.queues())),
            ("ntuple", switch(self.ntuple), switch(to.ntuple)),
        ];
        let differ = lines.into_iter().filter(|(_, old, new)| old != new);
        let mut lines: Vec<String> = differ.map(|(what, old, new)| format!("{what}: {old} -> {new}")).collect();
        if self.rss != to.rss && !lines.iter().any(|line| line.starts_with("RSS")) {
            lines.push(format!("RSS queues: {} -> the same, in other places", self.rss.describe(self.queues())));
        }
        lines
    }

    /// Makes the interface, whose settings are `from`, what `self` says.
    ///
    /// Rings are first: they are what is refused while memory is bound, and then nothing has changed yet.
    pub fn apply(&self, ethtool: &Ethtool, ifindex: u32, from: &Self) -> Result<(), Error> {
        self.apply_rings(ethtool, ifindex, from)?;
        let channels = ChannelsChange {
            rx: (self.rx != from.rx).then_some(self.rx),
            combined: (self.combined != from.combined).then_some(self.combined),
        };
        let resize = || match channels {
            ChannelsChange { rx: None, combined: None } => Ok(()),
            _ => ethtool.set_channels(ifindex, &channels),
        };
        // The table never names a queue that is not there.
        if self.queues() > from.queues() {
            resize()?;
            self.apply_rss(ethtool, ifindex, from)?;
        } else {
            self.apply_rss(ethtool, ifindex, from)?;
            resize()?;
        }
        self.spread(ethtool, ifindex)?;
        if self.ntuple != from.ntuple {
            ethtool.set_feature(ifindex, NTUPLE, self.ntuple)?;
        }
        Ok(())
    }

    fn apply_rings(&self, ethtool: &Ethtool, ifindex: u32, from: &Self) -> Result<(), Error> {
        let hds_thresh = self.hds_thresh.filter(|_| self.hds_thresh != from.hds_thresh);
        let set = |split| {
            ethtool.set_rings(ifindex, &RingsChange { tcp_data_split: split, hds_thresh, ..RingsChange::default() })
        };
        if self.header_split {
            // What is on may be so by the driver's choice; binding memory asks that it was switched on. The kernel takes no
            // notice where it was.
            return set(Some(DataSplit::Enabled));
        }
        if !from.header_split {
            return if hds_thresh.is_none() { Ok(()) } else { set(None) };
        }
        // Drivers that have it off unless it is switched on refuse to switch it off (bnxt); others take it for no change that
        // it is left to them (gve).
        let left = set(Some(DataSplit::Unknown)).and_then(|()| ethtool.rings(ifindex));
        match left {
            Ok(rings) if rings.tcp_data_split != Some(DataSplit::Enabled) => Ok(()),
            _ => set(Some(DataSplit::Disabled)),
        }
    }

    fn apply_rss(&self, ethtool: &Ethtool, ifindex: u32, from: &Self) -> Result<(), Error> {
        match &self.rss {
            rss if *rss == from.rss => Ok(()),
            Rss::Even => ethtool.set_rss_table(ifindex, &[]),
            Rss::Table(table) => ethtool.set_rss_table(ifindex, table),
        }
    }

    /// A driver that does not spread anew when the number of channels changes is told to.
    fn spread(&self, ethtool: &Ethtool, ifindex: u32) -> Result<(), Error> {
        let table = match self.rss {
            Rss::Even => ethtool.rss_table(ifindex)?,
            Rss::Table(_) => return Ok(()),
        };
        match Rss::of(&table, self.queues()) {
            Rss::Even => Ok(()),
            Rss::Table(_) => ethtool.set_rss_table(ifindex, &even(self.queues(), table.len())),
        }
    }

    fn queues(&self) -> u32 {
        self.rx.saturating_add(self.combined)
    }
}

impl Rss {
    fn of(table: &[u32], queues: u32) -> Self {
        if table == even(queues, table.len()) { Self::Even } else { Self::Table(table.to_vec()) }
    }

    /// The table of `len` entries that is this one, but does not go beyond the first `use_queues` of `queues`.
    fn within(&self, queues: u32, use_queues: u32, len: usize) -> Self {
        let mut table = match self {
            Self::Even => even(queues, len),
            Self::Table(table) => table.clone(),
        };
        let instead = even(use_queues, len);
        for (queue, instead) in table.iter_mut().zip(instead) {
            if *queue >= use_queues {
                *queue = instead;
            }
        }
        Self::of(&table, queues)
    }

    fn describe(&self, queues: u32) -> String {
        match self {
            Self::Even => ranges((0..queues).collect()),
            Self::Table(table) => ranges(table.clone()),
        }
    }
}

/// `ethtool_rxfh_indir_default` of the kernel.
fn even(queues: u32, len: usize) -> Vec<u32> {
    (0..queues.max(1)).cycle().take(len).collect()
}

/// As in `0-2,5`.
fn ranges(mut numbers: Vec<u32>) -> String {
    numbers.sort_unstable();
    numbers.dedup();
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let run = |run: &[u32]| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    runs.map(run).collect::<Vec<_>>().join(",")
}

fn switch(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

/// The kernel's name for steering rules.
pub const NTUPLE: &str = "rx-ntuple-filter";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_queues_get_nothing_by_rss() {
        let found = nic(4, 4);
        let new = found.prepared(1).unwrap();
        assert_eq!(new.rss, Rss::Table(vec![0, 1, 2, 0, 0, 1, 2, 1]));
        assert_eq!(found.prepared(3).unwrap().rss, Rss::Table(vec![0; 8]));
        assert_eq!(
            found.settings.changes(&new),
            ["header split: off -> on", "hds-thresh: 256 -> 0", "RSS queues: 0-3 -> 0-2", "ntuple: off -> on"]
        );
        let again = Found { settings: new.clone(), ..found };
        assert_eq!(again.prepared(1).unwrap(), new, "what is ready stays");
    }

    #[test]
    fn a_table_that_somebody_has_set_keeps_what_it_can() {
        let mut found = nic(4, 4);
        found.settings.rss = Rss::Table(vec![2, 2, 2, 2, 3, 3, 3, 3]);
        assert_eq!(found.prepared(1).unwrap().rss, Rss::Table(vec![2, 2, 2, 2, 1, 2, 0, 1]));
    }

    #[test]
    fn channels_become_more_where_they_are_too_few() {
        let found = nic(1, 8);
        let new = found.prepared(2).unwrap();
        assert_eq!((new.combined, new.rx), (3, 0));
        assert_eq!(new.rss, Rss::Table(vec![0; 8]));
        let mut found = nic(0, 0);
        (found.settings.rx, found.rx_max) = (2, 4);
        assert_eq!(found.prepared(3).unwrap().rx, 4);
        let missing = nic(2, 2).prepared(2).unwrap_err();
        assert!(missing[0].contains("it can have 2"), "{missing:?}");
    }

    #[test]
    fn ranges_are_short() {
        assert_eq!(ranges(vec![3, 0, 1, 1, 2, 7, 9, 8, 5]), "0-3,5,7-9");
        assert_eq!(ranges(vec![]), "");
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let settings = nic(4, 4).prepared(1).unwrap();
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
    }

    fn nic(combined: u32, combined_max: u32) -> Found {
        let settings =
            Settings { header_split: false, hds_thresh: Some(256), rx: 0, combined, rss: Rss::Even, ntuple: false };
        Found { settings, rx_max: 0, combined_max, table_len: 8 }
    }
}
