//! A queue of a NIC that puts payload into a dma-buf.

use std::os::fd::BorrowedFd;

use crate::error::{Error, Refusal};
use crate::ethtool::{DataSplit, Ethtool};
use crate::netdev::{Netdev, RxQueue};
use crate::rules::{Protocol, Rule, RuleSpec};
use crate::turns::Turns;

/// An RX queue that is bound to a dma-buf, and the rules that steer a TCP port to it.
///
/// Dropped, it deletes the rules, and then what the queue is bound by, which frees it.
#[derive(Debug)]
pub struct Lease<B = Netdev> {
    ifindex: u32,
    queue: u32,
    binding: u32,
    ethtool: Ethtool,
    rules: Vec<Rule>,
    /// The binding lives as long as it.
    _by: B,
}

/// What kind of a queue may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vacancy {
    /// One of a NIC, to which nothing comes yet.
    Own,
    /// One that a netkit interface has leased of a NIC: what comes to it is up to whoever leased it (`dmverbs nic lease`).
    Leased,
}

impl Vacancy {
    /// What the interface has; it needs no privilege to ask.
    ///
    /// # Errors
    /// What is missing.
    pub fn find(ifindex: u32) -> Result<Self, Error> {
        let (ethtool, netdev) = (Ethtool::open()?, Netdev::open()?);
        let vacancy = Self::of(&ethtool, ifindex)?;
        match vacancy {
            Self::Own => own(&ethtool, &netdev, ifindex, &[]).map(drop),
            Self::Leased => leased(&ethtool, &netdev, ifindex).map(drop),
        }?;
        Ok(vacancy)
    }

    /// The kind that the interface has, if it has any.
    pub fn of(ethtool: &Ethtool, ifindex: u32) -> Result<Self, Error> {
        Ok(if ethtool.driver(ifindex)?.as_deref() == Some("netkit") { Self::Leased } else { Self::Own })
    }
}

impl Lease {
    /// Takes a queue to which RSS spreads nothing, binds the dma-buf to it, and steers this TCP port there, over these
    /// protocols. Where the queue has been leased, the port is left to whoever leased it.
    ///
    /// It needs CAP_NET_ADMIN, and an interface with header split and such a queue: `dmverbs nic setup` prepares one.
    /// Rules that steer TCP ports to that queue already are deleted, and those that steer this port to another that nobody
    /// has: who had it before was killed. A queue to which other rules steer, or another RSS context spreads, is somebody
    /// else's, and not taken; nor is a port that a rule steers elsewhere.
    ///
    /// # Errors
    /// What is missing, or refused; nothing of what was done stays.
    pub fn take(
        turns: &Turns,
        ifindex: u32,
        dmabuf: BorrowedFd,
        port: u16,
        protocols: &[Protocol],
    ) -> Result<Self, Error> {
        Self::take_by(turns, ifindex, port, protocols, |queue| {
            let netdev = Netdev::open()?;
            Ok((netdev.bind_queue(ifindex, dmabuf, queue)?, netdev))
        })
    }
}

impl<B> Lease<B> {
    /// The same, but the queue is bound to the memory by `bind`, which gives the binding's number, and what it lives as long
    /// as.
    ///
    /// # Errors
    /// As of [`Lease::take`].
    pub fn take_by(
        turns: &Turns,
        ifindex: u32,
        port: u16,
        protocols: &[Protocol],
        bind: impl FnOnce(u32) -> Result<(u32, B), Error>,
    ) -> Result<Self, Error> {
        let (ethtool, netdev) = (Ethtool::open()?, Netdev::open()?);
        let _turn = turns.wait();
        let specs = specs(port, protocols);
        let (queue, specs) = match Vacancy::of(&ethtool, ifindex)? {
            Vacancy::Own => (swept(&ethtool, &netdev, ifindex, &specs)?, specs),
            Vacancy::Leased => (leased(&ethtool, &netdev, ifindex)?, Vec::new()),
        };
        let (binding, by) = bind(queue)?;
        let mut lease = Self { ifindex, queue, binding, ethtool, rules: Vec::new(), _by: by };
        for spec in specs {
            lease.rules.push(insert(&lease.ethtool, ifindex, spec, queue)?);
        }
        Ok(lease)
    }

    /// The queue.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Whether the interface is still there. One that comes back has another number.
    pub fn is_there(&self) -> bool {
        self.ethtool.ifname(self.ifindex).is_ok()
    }

    /// The number of the binding, by which the kernel tells where payload is.
    pub fn binding(&self) -> u32 {
        self.binding
    }
}

impl<B> Drop for Lease<B> {
    fn drop(&mut self) {
        if self.is_there() {
            delete(&self.ethtool, self.ifindex, &self.rules);
        }
    }
}

/// A queue of a NIC that a netkit interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leased {
    /// Its number at the NIC.
    pub queue: u32,
    /// Its number at the netkit interface.
    pub there: u32,
}

impl Leased {
    /// Leases a queue to which RSS spreads nothing to `guest`, as [`Netdev::lease`] does, and steers this TCP port there,
    /// over these protocols. The rules stay when `guest` is gone, until somebody takes the queue. Which queues are free,
    /// and what becomes of rules that steer there already, is as for [`Lease::take`].
    ///
    /// # Errors
    /// What is missing, or refused. If that is a rule, none stays, but the queue is leased until `guest` is deleted.
    pub fn make(turns: &Turns, ifindex: u32, guest: u32, port: u16, protocols: &[Protocol]) -> Result<Self, Error> {
        let (ethtool, netdev) = (Ethtool::open()?, Netdev::open()?);
        let _turn = turns.wait();
        let specs = specs(port, protocols);
        let queue = swept(&ethtool, &netdev, ifindex, &specs)?;
        let there = netdev.lease(ifindex, queue, guest)?;
        let mut rules = Vec::new();
        let steered = specs.into_iter().try_for_each(|spec| {
            rules.push(insert(&ethtool, ifindex, spec, queue)?);
            Ok(())
        });
        if steered.is_err() {
            delete(&ethtool, ifindex, &rules);
        }
        steered.map(|()| Self { queue, there })
    }
}

fn specs(port: u16, protocols: &[Protocol]) -> Vec<RuleSpec> {
    protocols.iter().map(|&protocol| RuleSpec { protocol, dst_port: port }).collect()
}

/// The rules of those who had a queue that nobody has, and were killed: for a TCP port, to a queue to which RSS spreads
/// nothing.
///
/// # Errors
/// What is refused.
pub fn left_behind(ethtool: &Ethtool, ifindex: u32) -> Result<Vec<Rule>, Error> {
    let spread = ethtool.rss_queues(ifindex)?;
    let mut rules = ethtool.rules(ifindex)?;
    let queues = Netdev::open()?.rx_queues(ifindex)?;
    rules.retain(|rule| rule.spec.is_some() && rule.queue.is_some_and(|queue| is_nobodys(queue, &queues, &spread)));
    Ok(rules)
}

/// Whether it has no owner, and gets nothing by RSS.
fn is_nobodys(queue: u32, queues: &[RxQueue], spread: &[u32]) -> bool {
    let owned = |one: &RxQueue| one.dmabuf.is_some() || one.taken;
    !spread.contains(&queue) && !queues.iter().any(|one| one.id == queue && owned(one))
}

fn insert(ethtool: &Ethtool, ifindex: u32, spec: RuleSpec, queue: u32) -> Result<Rule, Error> {
    let location = ethtool.insert_rule(ifindex, spec, queue)?;
    Ok(Rule { location, spec: Some(spec), queue: Some(queue) })
}

fn delete(ethtool: &Ethtool, ifindex: u32, rules: &[Rule]) {
    let now = ethtool.rules(ifindex).unwrap_or_default();
    for rule in rules.iter().filter(|rule| !is_replaced(rule, &now)) {
        if let Err(e) = ethtool.delete_rule(ifindex, rule.location) {
            tracing::warn!("a steering rule stays: {e}");
        }
    }
}

/// Whether another rule has the place of one that somebody has deleted.
fn is_replaced(rule: &Rule, now: &[Rule]) -> bool {
    let there = now.iter().find(|there| there.location == rule.location);
    // What a driver tells of a rule may be less than it was told.
    there.is_some_and(|there| there.queue != rule.queue || (there.spec.is_some() && there.spec != rule.spec))
}

/// A queue of the NIC that nobody has, and to which no rule steers any more; nor does one what these are about.
fn swept(ethtool: &Ethtool, netdev: &Netdev, ifindex: u32, specs: &[RuleSpec]) -> Result<u32, Error> {
    let Unused { queue, left } = own(ethtool, netdev, ifindex, specs)?;
    for location in left {
        match ethtool.delete_rule(ifindex, location) {
            // Who had the queue has just given it back.
            Err(error) if error.errno() == libc::ENOENT => {}
            deleted => deleted?,
        }
    }
    Ok(queue)
}

/// The last queue of a netkit interface that was leased to it, and that nobody has. Its first one is of itself.
fn leased(ethtool: &Ethtool, netdev: &Netdev, ifindex: u32) -> Result<u32, Error> {
    choose(&netdev.rx_queues(ifindex)?, &[0]).ok_or_else(|| {
        let message = Some("none that it has leased is free (see `dmverbs nic lease`), or it is down".to_owned());
        ethtool.refused(Refusal { errno: libc::EBUSY, message }, "take a queue", ifindex)
    })
}

/// A queue of a NIC that nobody has.
#[derive(Debug, PartialEq, Eq)]
struct Unused {
    queue: u32,
    /// The locations of rules that somebody who is gone has left: to it, or about what is to be steered.
    left: Vec<u32>,
}

impl Unused {
    /// The last one that RSS spreads nothing to, and nobody else's rules steer to, if no rule of somebody who is there is
    /// about one of `specs`; or why there is none.
    fn among(queues: &[RxQueue], spread: &[u32], rules: &[Rule], specs: &[RuleSpec]) -> Result<Self, String> {
        let about = |rule: &&Rule| rule.spec.is_some_and(|spec| specs.contains(&spec));
        let is_left = |rule: &Rule| rule.queue.is_some_and(|queue| is_nobodys(queue, queues, spread));
        if let Some(rule) = rules.iter().filter(about).find(|rule| !is_left(rule)) {
            return Err(format!("steering rule {} is about its port already", rule.location));
        }
        let others = rules.iter().filter(|rule| rule.spec.is_none()).filter_map(|rule| rule.queue);
        let busy: Vec<u32> = others.chain(spread.iter().copied()).collect();
        if let Some(queue) = choose(queues, &busy) {
            let left = rules.iter().filter(|rule| rule.queue == Some(queue) || about(rule));
            return Ok(Self { queue, left: left.map(|rule| rule.location).collect() });
        }
        Err(match choose(queues, spread) {
            Some(queue) => format!("queue {queue} would be free, but somebody else's rules steer there"),
            None => "there is no free one that RSS spreads nothing to".to_owned(),
        })
    }
}

/// A queue of a NIC that can be taken.
fn own(ethtool: &Ethtool, netdev: &Netdev, ifindex: u32, specs: &[RuleSpec]) -> Result<Unused, Error> {
    let refused = |errno, message: &str| {
        let refusal = Refusal { errno, message: Some(format!("{message} (see `dmverbs nic`)")) };
        ethtool.refused(refusal, "take a queue", ifindex)
    };
    if ethtool.rings(ifindex)?.tcp_data_split != Some(DataSplit::Enabled) {
        return Err(refused(libc::EOPNOTSUPP, "header split is not on"));
    }
    let spread = ethtool.rss_queues(ifindex)?;
    // These come before the queues: the rules of somebody who takes one now are not among them.
    let rules = ethtool.rules(ifindex)?;
    let queues = netdev.rx_queues(ifindex)?;
    if queues.is_empty() {
        return Err(ethtool.refused(Refusal { errno: libc::ENETDOWN, message: None }, "take a queue", ifindex));
    }
    Unused::among(&queues, &spread, &rules, specs).map_err(|why| refused(libc::EBUSY, &why))
}

fn choose(queues: &[RxQueue], spread: &[u32]) -> Option<u32> {
    queues.iter().rev().map(|queue| queue.id).find(|&queue| is_nobodys(queue, queues, spread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_queue_that_nobody_has_is_taken() {
        let mut queues = queues();
        assert_eq!(choose(&queues, &[0, 1]), Some(3));
        queues[3].dmabuf = Some(7);
        assert_eq!(choose(&queues, &[0, 1]), Some(2));
        queues[2].taken = true;
        assert_eq!(choose(&queues, &[0, 1]), None);
    }

    #[test]
    fn a_queue_to_which_somebody_else_steers_is_not_free_and_rules_for_a_port_are_swept() {
        let ours = Some(RuleSpec { protocol: Protocol::Tcp4, dst_port: 18515 });
        let rule = |location, spec, queue| Rule { location, spec, queue };
        let among = |spread: &[u32], rules: &[Rule]| Unused::among(&queues(), spread, rules, &[]);
        let rules = [rule(4, None, Some(3)), rule(5, ours, Some(2)), rule(6, ours, Some(3)), rule(7, None, None)];
        assert_eq!(among(&[0, 1], &rules), Ok(Unused { queue: 2, left: vec![5] }));
        assert_eq!(among(&[0, 1], &rules[2..]), Ok(Unused { queue: 3, left: vec![6] }));
        let why = among(&[0, 1, 2], &rules).unwrap_err();
        assert_eq!(why, "queue 3 would be free, but somebody else's rules steer there");
        assert!(among(&[0, 1, 2, 3], &rules).unwrap_err().starts_with("there is no free one"));
    }

    #[test]
    fn a_rule_that_is_not_ours_any_more_is_not_deleted() {
        let spec = |dst_port| Some(RuleSpec { protocol: Protocol::Tcp4, dst_port });
        let ours = Rule { location: 4, spec: spec(18515), queue: Some(3) };
        assert!(!is_replaced(&ours, &[]));
        for same in [ours, Rule { spec: None, ..ours }, Rule { location: 5, spec: spec(1), queue: Some(0) }] {
            assert!(!is_replaced(&ours, &[same]), "{same:?}");
        }
        for another in [Rule { spec: spec(1), ..ours }, Rule { queue: Some(2), ..ours }, Rule { queue: None, ..ours }] {
            assert!(is_replaced(&ours, &[another]), "{another:?}");
        }
    }

    #[test]
    fn a_port_that_is_steered_is_not_steered_elsewhere_unless_nobody_is_there() {
        let spec = |protocol, dst_port| RuleSpec { protocol, dst_port };
        let wanted = [spec(Protocol::Tcp4, 18515), spec(Protocol::Tcp6, 18515)];
        let mut queues = queues();
        let among = |queues: &[RxQueue], rule: Rule| Unused::among(queues, &[0, 1], &[rule], &wanted);
        let rule = |spec, queue| Rule { location: 5, spec: Some(spec), queue };
        let free = |left: &[u32]| Ok(Unused { queue: 3, left: left.to_vec() });
        assert_eq!(among(&queues, rule(wanted[1], Some(2))), free(&[5]));
        assert_eq!(among(&queues, rule(spec(Protocol::Tcp4, 18516), Some(2))), free(&[]));
        let why = Err("steering rule 5 is about its port already".to_owned());
        assert_eq!(among(&queues, rule(wanted[0], Some(1))), why, "RSS spreads there");
        assert_eq!(among(&queues, rule(wanted[0], None)), why, "to an RSS context, or nowhere");
        queues[2].taken = true;
        assert_eq!(among(&queues, rule(wanted[0], Some(2))), why, "somebody is there");
    }

    #[test]
    fn an_interface_without_header_split_has_none() {
        let lo = Ethtool::open().unwrap().ifindex("lo").unwrap();
        let error = Vacancy::find(lo).unwrap_err();
        assert!(error.is_unsupported() && !error.is_denied(), "{error}");
    }

    fn queues() -> [RxQueue; 4] {
        [0, 1, 2, 3].map(|id| RxQueue { id, napi_id: None, dmabuf: None, taken: false })
    }
}
