//! The receiving end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuHashMap},
};
use hdrhistogram::Histogram as Latencies;
use lb_common::{
    net::{Addr4, Addr6, Address as _},
    traffic::{BackendCount, BackendKey, Counters},
};

use super::{
    DatapathError, OBJECT,
    attach::{Attached, attach, load},
    chain, counters, kernel, latencies,
};
use crate::net::Mac;

/// What the sink is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkSetup {
    /// The port that traffic goes to when it arrives; zero: any.
    pub port: u16,
    /// The run to follow; zero: that of the first packet that comes.
    pub run: u16,
    /// How many flows there is room for.
    pub flows: u32,
    /// Check checksums.
    pub check: bool,
    /// Send datagrams back.
    pub reflect: bool,
    /// Answer connection requests.
    pub respond: bool,
    /// Send back by redirect, because an interface is a veth: it holds what `XDP_TX` sends if its peer has no XDP program.
    pub redirect_back: bool,
    /// Compare the time in the stamps with this host's clock.
    pub one_way: bool,
}

/// A server as it was addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Address and port.
    pub address: SocketAddr,
    /// MAC address.
    pub mac: Mac,
    /// IP protocol number.
    pub protocol: u8,
    /// What it got.
    pub count: BackendCount,
}

/// A sink at work. It ends when dropped.
#[derive(Debug)]
pub struct Sink {
    ebpf: Ebpf,
    attached: Vec<(String, Attached)>,
}

impl Sink {
    /// Loads it and attaches it to interfaces, each with its index.
    ///
    /// # Errors
    /// When the kernel refuses, or an interface has another XDP program.
    pub fn start(setup: &SinkSetup, interfaces: &[(String, u32)]) -> Result<Self, DatapathError> {
        let [check, reflect, respond, redirect_back, one_way] = [
            setup.check,
            setup.reflect,
            setup.respond,
            setup.redirect_back,
            setup.one_way,
        ]
        .map(u8::from);
        let mut ebpf = EbpfLoader::new()
            .override_global("PORT", &setup.port, true)
            .override_global("RUN", &setup.run, true)
            .override_global("FLOWS", &setup.flows, true)
            .override_global("CHECK", &check, true)
            .override_global("REFLECT", &reflect, true)
            .override_global("RESPOND", &respond, true)
            .override_global("REDIRECT_BACK", &redirect_back, true)
            .override_global("LATENCY", &one_way, true)
            .map_max_entries("TRACKS", setup.flows.max(1))
            .load(OBJECT)
            .map_err(|e| kernel("cannot load the sink", chain(&e)))?;
        load(&mut ebpf, "sink")?;
        let mut attached = Vec::new();
        for (name, index) in interfaces {
            attached.push((name.clone(), attach(&mut ebpf, "sink", name, *index)?));
        }
        Ok(Self { ebpf, attached })
    }

    /// The interfaces whose driver has no XDP, so that the slower generic path is used.
    pub fn generic(&self) -> impl Iterator<Item = &str> {
        let generic = self.attached.iter().filter(|(_, attached)| !attached.native);
        generic.map(|(name, _)| name.as_str())
    }

    /// The counters so far.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        counters(&self.ebpf)
    }

    /// One-way latencies so far, in nanoseconds.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn latencies(&self) -> Result<Latencies<u64>, DatapathError> {
        latencies(&self.ebpf)
    }

    /// The run that is followed, as far as it learned it from a packet.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn run(&self) -> Result<u16, DatapathError> {
        let map = self
            .ebpf
            .map("SEEN_RUN")
            .ok_or_else(|| kernel("map SEEN_RUN", "not in the object"))?;
        let run: Array<_, u32> = map.try_into().map_err(|e| kernel("map SEEN_RUN", chain(&e)))?;
        let run = run.get(&0, 0).map_err(|e| kernel("map SEEN_RUN", chain(&e)))?;
        Ok(u16::try_from(run).unwrap_or_default())
    }

    /// The servers that got something, by address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn backends(&self) -> Result<Vec<Backend>, DatapathError> {
        let map = self
            .ebpf
            .map("BACKENDS")
            .ok_or_else(|| kernel("map BACKENDS", "not in the object"))?;
        let map: PerCpuHashMap<_, BackendKey, BackendCount> =
            map.try_into().map_err(|e| kernel("map BACKENDS", chain(&e)))?;
        let mut backends = Vec::new();
        for entry in map.iter() {
            let (key, counts) = entry.map_err(|e| kernel("map BACKENDS", chain(&e)))?;
            let mut count = BackendCount::default();
            for one in counts.iter() {
                count.packets += one.packets;
                count.bytes += one.bytes;
                count.flows += one.flows;
            }
            backends.push(Backend {
                address: SocketAddr::new(address(&key), key.port.get()),
                mac: Mac(key.mac.bytes()),
                protocol: u8::try_from(key.protocol).unwrap_or_default(),
                count,
            });
        }
        backends.sort_by_key(|b| (b.address, b.mac, b.protocol));
        Ok(backends)
    }
}

fn address(key: &BackendKey) -> IpAddr {
    if key.version == 6 {
        Ipv6Addr::from(Addr6::from_any(key.address)).into()
    } else {
        Ipv4Addr::from(Addr4::from_any(key.address)).into()
    }
}
