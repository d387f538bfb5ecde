//! Steering rules ("ntuple"): which queue gets which packets. They have no netlink.

use crate::error::{Error, Refusal};
use crate::ethtool::Ethtool;
use crate::ioctl::{self, FlowSpec};

/// The packets that a rule is about: TCP to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// Over which protocol.
    pub protocol: Protocol,
    /// The port, of any of the interface's addresses.
    pub dst_port: u16,
}

/// TCP over IPv4 or IPv6. A rule is about one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Over IPv4.
    Tcp4,
    /// Over IPv6.
    Tcp6,
}

/// A rule that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What to delete it by. Of two that fit a packet, that at the lower location wins.
    pub location: u32,
    /// What it is about. None if that is something that [`RuleSpec`] cannot say.
    pub spec: Option<RuleSpec>,
    /// The queue that the packets go to. None if they go elsewhere, as into an RSS context, or nowhere.
    pub queue: Option<u32>,
}

impl Ethtool {
    /// All rules, by location.
    pub fn rules(&self, ifindex: u32) -> Result<Vec<Rule>, Error> {
        self.try_rules(ifindex).map_err(|refusal| self.refused(refusal, "list the steering rules", ifindex))
    }

    /// Has these packets go to this queue; returns the rule's location. The feature `rx-ntuple-filter` must be on.
    ///
    /// Where the driver does not choose a location, the last free one is taken; should another process do the same at
    /// the same time, one of the rules takes the other's place.
    pub fn insert_rule(&self, ifindex: u32, spec: RuleSpec, queue: u32) -> Result<u32, Error> {
        self.try_insert_rule(ifindex, spec, queue).map_err(|refusal| {
            let attempt = format!("steer {:?} port {} to queue {queue}", spec.protocol, spec.dst_port);
            self.refused(refusal, &attempt, ifindex)
        })
    }

    /// Deletes the rule at this location.
    pub fn delete_rule(&self, ifindex: u32, location: u32) -> Result<(), Error> {
        ioctl::name(self.0.socket(), ifindex)
            .and_then(|name| ioctl::delete_rule(self.0.socket(), name, location))
            .map_err(|error| self.refused(error.into(), &format!("delete steering rule {location}"), ifindex))
    }

    fn try_rules(&self, ifindex: u32) -> Result<Vec<Rule>, Refusal> {
        let socket = self.0.socket();
        let name = ioctl::name(socket, ifindex)?;
        let mut rules = Vec::new();
        for location in ioctl::rule_table(socket, name)?.taken {
            match ioctl::rule(socket, name, location) {
                Ok(rule) => rules.push(Rule { location, spec: spec(&rule), queue: queue(&rule) }),
                // Somebody has deleted it since.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        rules.sort_by_key(|rule| rule.location);
        Ok(rules)
    }

    fn try_insert_rule(&self, ifindex: u32, spec: RuleSpec, queue: u32) -> Result<u32, Refusal> {
        let socket = self.0.socket();
        let name = ioctl::name(socket, ifindex)?;
        let mut rule = flow_spec(spec, queue);
        if !ioctl::rule_count(socket, name)?.chosen_by_driver {
            let table = ioctl::rule_table(socket, name)?;
            let full = format!("none of {} places is free", table.size);
            rule.location = table.free().ok_or(Refusal { errno: libc::ENOSPC, message: Some(full) })?;
        }
        Ok(ioctl::insert_rule(socket, name, rule)?)
    }
}

fn flow_spec(spec: RuleSpec, queue: u32) -> FlowSpec {
    let (kind, at) = port_of(spec.protocol);
    let mut flow = FlowSpec::new(kind);
    flow.fields[at..at + 2].copy_from_slice(&spec.dst_port.to_be_bytes());
    flow.mask[at..at + 2].copy_from_slice(&[0xff; 2]);
    flow.ring_cookie = queue.into();
    flow
}

fn spec(flow: &FlowSpec) -> Option<RuleSpec> {
    // Where it leads to is no part of what it is about.
    let kind = flow.flow_type & !FLOW_RSS;
    let protocol = [Protocol::Tcp4, Protocol::Tcp6].into_iter().find(|known| port_of(*known).0 == kind)?;
    let at = port_of(protocol).1;
    let spec = RuleSpec { protocol, dst_port: u16::from_be_bytes([flow.fields[at], flow.fields[at + 1]]) };
    (flow.mask == flow_spec(spec, 0).mask).then_some(spec)
}

/// The cookie's upper half names a virtual function, or says that there is no queue.
fn queue(flow: &FlowSpec) -> Option<u32> {
    let elsewhere = flow.flow_type & FLOW_RSS != 0;
    u32::try_from(flow.ring_cookie).ok().filter(|_| !elsewhere)
}

/// The flow's type, and where the destination's port is in `union ethtool_flow_union`.
fn port_of(protocol: Protocol) -> (u32, usize) {
    match protocol {
        Protocol::Tcp4 => (TCP_V4_FLOW, 4 + 4 + 2),
        Protocol::Tcp6 => (TCP_V6_FLOW, 16 + 16 + 2),
    }
}

// linux/ethtool.h
const TCP_V4_FLOW: u32 = 0x01;
const TCP_V6_FLOW: u32 = 0x05;
const FLOW_RSS: u32 = 0x2000_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_it_was_made() {
        for protocol in [Protocol::Tcp4, Protocol::Tcp6] {
            let made = RuleSpec { protocol, dst_port: 5201 };
            let flow = flow_spec(made, 3);
            assert_eq!((spec(&flow), queue(&flow)), (Some(made), Some(3)));
        }
    }

    #[test]
    fn a_rule_into_an_rss_context_is_about_its_port_and_leads_to_no_queue() {
        let made = RuleSpec { protocol: Protocol::Tcp4, dst_port: 5201 };
        let mut flow = flow_spec(made, 3);
        flow.flow_type |= FLOW_RSS;
        assert_eq!((spec(&flow), queue(&flow)), (Some(made), None));
    }

    #[test]
    fn rules_about_more_than_a_port_are_not_taken_for_ours() {
        let mut flow = flow_spec(RuleSpec { protocol: Protocol::Tcp4, dst_port: 1 }, u32::MAX);
        flow.mask[0] = 0xff;
        assert_eq!(spec(&flow), None);
        flow.flow_type = 2;
        flow.ring_cookie = u64::MAX;
        assert_eq!((spec(&flow), queue(&flow)), (None, None));
    }
}
