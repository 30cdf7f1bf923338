//! What differs between IPv4 and IPv6, so that every stage is written once.

use lb_common::{
    abi::{FlowKey, Link, Service, ServiceKey},
    encap::Outer,
    net::{Addr4, Addr6, Address},
    rewrite::Rewrite,
};

use crate::{
    Exit, encap,
    maps::{self, Flows, NewFlow},
    packet::Frame,
    parse::{self, Ip},
    rewrite,
};

/// An IP version.
pub trait Family: Sized + 'static {
    /// Its addresses.
    type Addr: Address + Default + 'static;
    /// Its number.
    const VERSION: u8;
    /// Bytes of Ethernet and IP header.
    const HEAD: usize;
    /// Whether a UDP checksum of zero means "none" (IPv4) or is forbidden (IPv6).
    const UDP_CHECKSUM_OPTIONAL: bool;

    /// Reads the IP header.
    fn parse(frame: Frame) -> Result<Ip<Self::Addr>, Exit>;
    /// Writes new MAC and IP addresses, the decremented TTL and the header checksum.
    fn rewrite(frame: Frame, rewrite: &Rewrite<Self::Addr>, link: &Link) -> Option<()>;
    /// Decrements the TTL of the IP header that lies there, and gives its DSCP and ECN.
    fn hop(frame: Frame, offset: usize) -> Option<u8>;
    /// Writes Ethernet and IP header of a tunnel.
    fn outer(frame: Frame, outer: &Outer, link: &Link) -> Option<()>;
    /// Its table of established flows.
    fn flows() -> Flows<Self::Addr>;
    /// Its table of half-open flows.
    fn half_open_flows() -> Flows<Self::Addr>;
    /// This CPU's room for a new flow.
    fn new_flow() -> Option<&'static mut NewFlow<Self::Addr>>;
    /// Its services.
    fn service(key: &ServiceKey<Self::Addr>) -> Option<Service>;
}

/// IPv4.
pub struct V4;

/// IPv6.
pub struct V6;

impl Family for V4 {
    type Addr = Addr4;
    const VERSION: u8 = 4;
    const HEAD: usize = parse::HEAD_V4;
    const UDP_CHECKSUM_OPTIONAL: bool = true;

    #[inline(always)]
    fn parse(frame: Frame) -> Result<Ip<Addr4>, Exit> {
        parse::ipv4(frame)
    }

    #[inline(always)]
    fn rewrite(frame: Frame, rewrite: &Rewrite<Addr4>, link: &Link) -> Option<()> {
        rewrite::ipv4(frame, rewrite, link)
    }

    #[inline(always)]
    fn hop(frame: Frame, offset: usize) -> Option<u8> {
        rewrite::hop_ipv4(frame, offset)
    }

    #[inline(always)]
    fn outer(frame: Frame, outer: &Outer, link: &Link) -> Option<()> {
        encap::ipv4(frame, outer, link)
    }

    #[inline(always)]
    fn flows() -> Flows<Addr4> {
        maps::flows_v4()
    }

    #[inline(always)]
    fn half_open_flows() -> Flows<Addr4> {
        maps::embryonic_v4()
    }

    #[inline(always)]
    fn new_flow() -> Option<&'static mut NewFlow<Addr4>> {
        maps::new_flow_v4()
    }

    #[inline(always)]
    fn service(key: &ServiceKey<Addr4>) -> Option<Service> {
        maps::service_v4(key)
    }
}

impl Family for V6 {
    type Addr = Addr6;
    const VERSION: u8 = 6;
    const HEAD: usize = parse::HEAD_V6;
    const UDP_CHECKSUM_OPTIONAL: bool = false;

    #[inline(always)]
    fn parse(frame: Frame) -> Result<Ip<Addr6>, Exit> {
        parse::ipv6(frame)
    }

    #[inline(always)]
    fn rewrite(frame: Frame, rewrite: &Rewrite<Addr6>, link: &Link) -> Option<()> {
        rewrite::ipv6(frame, rewrite, link)
    }

    #[inline(always)]
    fn hop(frame: Frame, offset: usize) -> Option<u8> {
        rewrite::hop_ipv6(frame, offset)
    }

    #[inline(always)]
    fn outer(frame: Frame, outer: &Outer, link: &Link) -> Option<()> {
        encap::ipv6(frame, outer, link)
    }

    #[inline(always)]
    fn flows() -> Flows<Addr6> {
        maps::flows_v6()
    }

    #[inline(always)]
    fn half_open_flows() -> Flows<Addr6> {
        maps::embryonic_v6()
    }

    #[inline(always)]
    fn new_flow() -> Option<&'static mut NewFlow<Addr6>> {
        maps::new_flow_v6()
    }

    #[inline(always)]
    fn service(key: &ServiceKey<Addr6>) -> Option<Service> {
        maps::service_v6(key)
    }
}

/// The key of the flow that a packet belongs to.
pub type Key<F> = FlowKey<<F as Family>::Addr>;
