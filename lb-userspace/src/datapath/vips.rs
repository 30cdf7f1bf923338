//! The VIPs of services, for what concerns an address as a whole: echo requests, and fragments without ports.

use std::{collections::BTreeSet, net::IpAddr};

use aya::maps::{HashMap, MapData, MapError};
use lb_common::{
    abi::VipFlags,
    net::{Addr4, Addr6},
};

use super::{DatapathError, loader, pins::kernel};

/// The maps, and what they shall say.
pub(super) struct Vips {
    v4: HashMap<MapData, Addr4, VipFlags>,
    v6: HashMap<MapData, Addr6, VipFlags>,
    echo: BTreeSet<IpAddr>,
}

impl Vips {
    pub(super) const fn new(v4: HashMap<MapData, Addr4, VipFlags>, v6: HashMap<MapData, Addr6, VipFlags>) -> Self {
        Self {
            v4,
            v6,
            echo: BTreeSet::new(),
        }
    }

    /// An address is a VIP.
    pub(super) fn add(&mut self, vip: IpAddr) -> Result<(), DatapathError> {
        let flags = VipFlags(if self.echo.contains(&vip) { VipFlags::ECHO } else { 0 });
        let result = match vip {
            IpAddr::V4(ip) => self.v4.insert(Addr4::from(ip), flags, 0),
            IpAddr::V6(ip) => self.v6.insert(Addr6::from(ip), flags, 0),
        };
        result.map_err(|e| kernel(format!("cannot make {vip} a VIP"), loader::chain(&e)))
    }

    /// It is one no longer.
    pub(super) fn remove(&mut self, vip: IpAddr) -> Result<(), DatapathError> {
        let result = match vip {
            IpAddr::V4(ip) => self.v4.remove(&Addr4::from(ip)),
            IpAddr::V6(ip) => self.v6.remove(&Addr6::from(ip)),
        };
        match result {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(e) => Err(kernel(format!("cannot remove VIP {vip}"), loader::chain(&e))),
        }
    }

    /// Whether echo requests to an address are answered, as soon as it is a VIP.
    pub(super) fn answer_echo(&mut self, vip: IpAddr, on: bool) -> Result<(), DatapathError> {
        if on {
            self.echo.insert(vip);
        } else {
            self.echo.remove(&vip);
        }
        let known = match vip {
            IpAddr::V4(ip) => self.v4.get(&Addr4::from(ip), 0).is_ok(),
            IpAddr::V6(ip) => self.v6.get(&Addr6::from(ip), 0).is_ok(),
        };
        if known { self.add(vip) } else { Ok(()) }
    }
}
