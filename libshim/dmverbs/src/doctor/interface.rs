//! A network interface: what device memory needs of it.

use dmverbs_netdev::{Channels, DataSplit, Error, Ethtool, Feature, Netdev, Rings, RxQueue, Vacancy};

use super::Check;
use crate::nic::{self, NTUPLE};

/// Looks at one interface.
pub fn checks(ifname: &str) -> Vec<Check> {
    match look(ifname) {
        Ok(interface) => interface.checks(),
        Err(error) => vec![Check::missing(format!("{ifname}, the interface"), error.to_string())],
    }
}

/// What the kernel says of it.
struct Interface {
    ifname: String,
    rings: Result<Rings, Error>,
    channels: Result<Channels, Error>,
    ntuple: Result<Option<Feature>, Error>,
    /// A kernel that knows nothing of device memory has no such family.
    queues: Result<Vec<RxQueue>, Error>,
    /// Whether one of them can be taken.
    vacancy: Result<Vacancy, Error>,
    sends: Result<bool, Error>,
    /// Whose queues it has: of a netkit interface all else is looked at where the NIC is.
    kind: Vacancy,
    /// Whether `dmverbs nic setup` can make good what is missing.
    can_be_prepared: bool,
}

fn look(ifname: &str) -> Result<Interface, Error> {
    let ethtool = Ethtool::open()?;
    let ifindex = ethtool.ifindex(ifname)?;
    let netdev = Netdev::open();
    Ok(Interface {
        can_be_prepared: nic::can_be_prepared(&ethtool, ifindex),
        ifname: ethtool.ifname(ifindex)?,
        kind: Vacancy::of(&ethtool, ifindex)?,
        rings: ethtool.rings(ifindex),
        channels: ethtool.channels(ifindex),
        ntuple: ethtool.feature(ifindex, NTUPLE),
        vacancy: Vacancy::find(ifindex),
        queues: netdev.as_ref().map_err(Clone::clone).and_then(|netdev| netdev.rx_queues(ifindex)),
        sends: netdev.as_ref().map_err(Clone::clone).and_then(|netdev| netdev.can_bind_tx(ifindex)),
    })
}

impl Interface {
    fn checks(&self) -> Vec<Check> {
        match self.kind {
            Vacancy::Own => {
                vec![self.split(), self.threshold(), self.steering(), self.receive_queues(), self.sending()]
            }
            Vacancy::Leased => vec![self.leased_queues(), self.sending()],
        }
    }

    fn split(&self) -> Check {
        let what = self.what("header split");
        match &self.rings {
            Err(error) => unable(what, error),
            Ok(Rings { tcp_data_split: Some(DataSplit::Enabled), .. }) => Check::ok(what, "on"),
            Ok(Rings { tcp_data_split: Some(_), .. }) => self.off(what),
            Ok(Rings { tcp_data_split: None, .. }) => Check::missing(what, "the driver has none"),
        }
    }

    fn threshold(&self) -> Check {
        let what = self.what("hds-thresh");
        match &self.rings {
            Err(error) => unable(what, error),
            Ok(Rings { hds_thresh: Some(0), .. }) => Check::ok(what, "0"),
            Ok(Rings { hds_thresh: Some(size), .. }) => self.unprepared(Check::missing(what, size.to_string())),
            Ok(Rings { tcp_data_split: Some(_), .. }) => Check::ok(what, "there is no such setting"),
            Ok(_) => Check::missing(what, "the driver has none"),
        }
    }

    fn steering(&self) -> Check {
        let what = self.what("steering rules (ntuple)");
        match &self.ntuple {
            Err(error) => unable(what, error),
            Ok(Some(Feature { active: true, .. })) => Check::ok(what, "on"),
            Ok(Some(Feature { changeable: true, .. })) => self.off(what),
            Ok(_) => Check::missing(what, "the driver has none"),
        }
    }

    fn receive_queues(&self) -> Check {
        let what = self.what("RX queues");
        let channels = match &self.channels {
            Err(error) if error.is_unsupported() => {
                return Check::missing(what, "the driver does not tell of channels");
            }
            Err(error) => return Check::missing(what, error.to_string()),
            Ok(channels) => channels,
        };
        let most = channels.rx_max.saturating_add(channels.combined_max).max(channels.rx_queues());
        let detail = format!("{} of {most}{}", channels.rx_queues(), self.bound());
        let Err(error) = &self.vacancy else { return Check::ok(what, detail) };
        if self.queues.iter().flatten().any(|queue| queue.dmabuf.is_some()) {
            return Check::ok(what, detail);
        }
        let why = error.message().map_or_else(|| error.to_string(), str::to_owned);
        let missing = Check::missing(what, format!("{detail}; {why}"));
        // Nothing can be taken of one that is down, however it has been prepared.
        let is_down = self.queues.as_ref().is_ok_and(Vec::is_empty);
        if is_down { missing } else { self.unprepared(missing) }
    }

    /// The first one of a netkit interface is its own.
    fn leased_queues(&self) -> Check {
        let what = self.what("RX queues");
        match &self.queues {
            Err(error) => unable(what, error),
            Ok(queues) if queues.len() < 2 => Check::missing(what, "none is leased, or the interface is down"),
            Ok(queues) => Check::ok(what, format!("{} leased{}", queues.len() - 1, self.bound())),
        }
    }

    fn bound(&self) -> String {
        let bound = self.queues.iter().flatten().filter(|queue| queue.dmabuf.is_some()).count();
        if bound > 0 { format!(", {bound} with device memory") } else { String::new() }
    }

    fn sending(&self) -> Check {
        let what = self.what("sending from device memory");
        match &self.sends {
            Err(error) => unable(what, error),
            Ok(true) => Check::ok(what, "the driver can"),
            Ok(false) => Check::missing(what, "the driver or the kernel cannot"),
        }
    }

    fn what(&self, what: &str) -> String {
        format!("{}, {what}", self.ifname)
    }

    fn off(&self, what: String) -> Check {
        self.unprepared(Check::missing(what, "off"))
    }

    fn unprepared(&self, check: Check) -> Check {
        if self.can_be_prepared { check.fix(format!("dmverbs nic setup {}", self.ifname)) } else { check }
    }
}

fn unable(what: String, error: &Error) -> Check {
    if error.is_unsupported() {
        Check::missing(what, "the driver has none")
    } else {
        Check::missing(what, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_ready_lacks_nothing_and_one_that_is_not_names_the_command() {
        let mut nic = nic();
        assert!(nic.checks().iter().all(|check| check.fix.is_none()), "{:?}", nic.checks());
        nic.rings = Ok(Rings { tcp_data_split: Some(DataSplit::Disabled), hds_thresh: Some(9), ..Rings::default() });
        nic.ntuple = Ok(Some(Feature { changeable: true, ..Feature::default() }));
        (nic.queues, nic.vacancy) = (Ok(vec![queue(0, None)]), none());
        let fixes = nic.checks().into_iter().filter_map(|check| check.fix);
        assert_eq!(fixes.collect::<Vec<_>>(), vec!["dmverbs nic setup eth0"; 4]);
        nic.can_be_prepared = false;
        assert!(nic.checks().iter().all(|check| check.fix.is_none()), "{:?}", nic.checks());
    }

    #[test]
    fn queues_with_device_memory_are_counted_and_are_enough() {
        let nic = Interface { vacancy: none(), ..nic() };
        assert_eq!(nic.receive_queues(), Check::ok("eth0, RX queues", "4 of 4, 1 with device memory"));
    }

    #[test]
    fn queues_of_which_none_can_be_taken_are_as_good_as_missing() {
        let mut nic = Interface { queues: Ok(vec![queue(0, None), queue(1, None)]), ..nic() };
        assert_eq!(nic.receive_queues(), Check::ok("eth0, RX queues", "4 of 4"));
        nic.vacancy = none();
        let missing = || Check::missing("eth0, RX queues", format!("4 of 4; {}", none().unwrap_err()));
        assert_eq!(nic.receive_queues(), missing().fix("dmverbs nic setup eth0"));
        nic.queues = Ok(Vec::new());
        assert_eq!(nic.receive_queues(), missing());
    }

    #[test]
    fn of_a_netkit_interface_what_is_leased_matters() {
        let mut nic = Interface { kind: Vacancy::Leased, ..nic() };
        let sending = Check::ok("eth0, sending from device memory", "the driver can");
        assert_eq!(nic.checks(), [Check::ok("eth0, RX queues", "1 leased, 1 with device memory"), sending]);
        nic.queues.as_mut().unwrap().pop();
        assert_eq!(nic.leased_queues(), Check::missing("eth0, RX queues", "none is leased, or the interface is down"));
    }

    fn queue(id: u32, dmabuf: Option<u32>) -> RxQueue {
        RxQueue { id, napi_id: None, dmabuf, taken: false }
    }

    fn none() -> Result<Vacancy, Error> {
        Vacancy::find(Ethtool::open().unwrap().ifindex("lo").unwrap())
    }

    fn nic() -> Interface {
        Interface {
            ifname: "eth0".to_owned(),
            kind: Vacancy::Own,
            rings: Ok(Rings { tcp_data_split: Some(DataSplit::Enabled), hds_thresh: Some(0), ..Rings::default() }),
            channels: Ok(Channels { combined: 4, combined_max: 4, ..Channels::default() }),
            ntuple: Ok(Some(Feature { active: true, ..Feature::default() })),
            queues: Ok(vec![queue(0, None), queue(1, Some(7))]),
            vacancy: Ok(Vacancy::Own),
            sends: Ok(true),
            can_be_prepared: true,
        }
    }
}
