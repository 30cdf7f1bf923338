//! The program that unwraps tunnelled packets on a backend: loaded, attached and pinned, so that it outlives the command.
//!
//! Pins: `<bpffs>/lb-decap/<instance>/if<index>/{link,ADDRESSES,COUNTERS}`.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray},
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        xdp::{XdpLink, XdpMode as AyaMode},
    },
};
use lb_common::{
    decap::{Counter, Holder, Role},
    net::{Addr4, Addr6, Address as _, to_any},
};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde::Serialize;

use super::{
    DatapathError, detach,
    loader::{chain, verify},
    pins::kernel,
};

/// The object file of the program, `decap`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap"));
const PROGRAM: &str = "decap";
const MAPS: [&str; 2] = ["ADDRESSES", "COUNTERS"];

/// The program of one interface.
#[derive(Debug, Clone)]
pub struct Decap {
    interface: String,
    ifindex: u32,
    bpffs: PathBuf,
    pins: PathBuf,
}

/// What a program that is attached does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Unwrapping {
    /// Own addresses, where tunnels end.
    pub hosts: Vec<IpAddr>,
    /// Addresses that what comes out may be for.
    pub vips: Vec<IpAddr>,
    /// Packets that were unwrapped.
    pub unwrapped: u64,
    /// Tunnelled packets to this host that were left alone, because they were for no VIP.
    pub not_for_vip: u64,
    /// Packets that were dropped, because they came with a mark of congestion that their sender would not understand.
    pub congested: u64,
}

type Addresses = HashMap<MapData, Holder, Role>;

impl Decap {
    /// Of an interface, among the programs of an instance.
    #[must_use]
    pub fn new(bpffs: &Path, instance: &str, interface: &str, ifindex: u32) -> Self {
        Self {
            interface: interface.to_owned(),
            ifindex,
            bpffs: bpffs.to_owned(),
            pins: bpffs.join("lb-decap").join(instance).join(format!("if{ifindex}")),
        }
    }

    /// What it does now; `None` while it is not attached.
    ///
    /// # Errors
    /// When its pins are not readable.
    pub fn state(&self) -> Result<Option<Unwrapping>, DatapathError> {
        if !self.link().exists() {
            return Ok(None);
        }
        let mut state = Unwrapping::default();
        let addresses: Addresses = HashMap::try_from(Map::HashMap(self.open("ADDRESSES")?)).map_err(map_error)?;
        let entries: BTreeMap<IpAddr, Role> = addresses
            .iter()
            .map(|entry| entry.map(|(holder, role)| (address(&holder), role)))
            .collect::<Result<_, _>>()
            .map_err(map_error)?;
        let of = |role| {
            entries
                .iter()
                .filter(move |(_, r)| r.is(role))
                .map(|(ip, _)| *ip)
                .collect()
        };
        (state.hosts, state.vips) = (of(Role::HOST), of(Role::VIP));
        let counters: PerCpuArray<MapData, u64> =
            PerCpuArray::try_from(Map::PerCpuArray(self.open("COUNTERS")?)).map_err(map_error)?;
        let sum = |counter: Counter| {
            match counters.get(&(counter as u32), 0) {
                Ok(per_cpu) => Ok::<u64, DatapathError>(per_cpu.iter().sum()),
                // Maps that an older version made, and that stay when its program is replaced, have fewer.
                Err(MapError::OutOfBounds { .. }) => Ok(0),
                Err(error) => Err(map_error(error)),
            }
        };
        (state.unwrapped, state.not_for_vip) = (sum(Counter::Unwrapped)?, sum(Counter::NotForVip)?);
        state.congested = sum(Counter::Congested)?;
        Ok(Some(state))
    }

    /// Unwraps what comes to one of `hosts` and is for this VIP, beside the VIPs that are there. A program that is attached
    /// already is replaced, atomically, and keeps its addresses and counters.
    ///
    /// # Errors
    /// No BPF file system, another XDP program on the interface, or a refusal of the kernel.
    pub fn add(&self, hosts: &[IpAddr], vip: IpAddr, gue_port: u16) -> Result<(), DatapathError> {
        if !statfs(&self.bpffs).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC) {
            return Err(DatapathError::NoBpffs(self.bpffs.clone()));
        }
        fs::create_dir_all(&self.pins).map_err(|e| kernel(format!("cannot create {}", self.pins.display()), e))?;
        let done = self.load(gue_port).and_then(|mut ebpf| {
            let mut addresses: Addresses = HashMap::try_from(take(&mut ebpf, "ADDRESSES")?).map_err(map_error)?;
            for (ip, role) in hosts.iter().map(|h| (*h, Role::HOST)).chain([(vip, Role::VIP)]) {
                addresses.insert(holder(ip), Role(role), 0).map_err(map_error)?;
            }
            self.attach(&mut ebpf)
        });
        if done.is_err() && !self.link().exists() {
            self.remove_pins()?;
        }
        done
    }

    /// Unwraps nothing for this VIP any more. With the last VIP the program goes.
    ///
    /// # Errors
    /// A refusal of the kernel.
    pub fn remove(&self, vip: IpAddr) -> Result<(), DatapathError> {
        let Some(state) = self.state()? else {
            return Ok(());
        };
        if state.vips.iter().all(|other| *other == vip) {
            // Whether it was a link still, its absence below says.
            let _ = detach::detach(&self.link());
            return self.remove_pins();
        }
        let mut addresses: Addresses = HashMap::try_from(Map::HashMap(self.open("ADDRESSES")?)).map_err(map_error)?;
        match addresses.remove(&holder(vip)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(map_error(error)),
        }
    }

    fn load(&self, gue_port: u16) -> Result<Ebpf, DatapathError> {
        let mut loader = EbpfLoader::new();
        loader.override_global("GUE_PORT", &gue_port, true);
        for name in MAPS {
            loader.map_pin_path(name, self.pins.join(name));
        }
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|e| kernel("cannot load the maps of the unwrapping program", chain(&e)))?;
        verify(program(&mut ebpf)?).map_err(|e| kernel("the kernel refused the unwrapping program", chain(&e)))?;
        Ok(ebpf)
    }

    /// In the driver, or generically if the driver has no XDP.
    fn attach(&self, ebpf: &mut Ebpf) -> Result<(), DatapathError> {
        let context = || format!("cannot attach to {}", self.interface);
        let program = program(ebpf)?;
        let path = self.link();
        if path.exists() {
            let pinned = PinnedLink::from_pin(&path).map_err(|e| kernel(context(), chain(&e)))?;
            let link = XdpLink::try_from(FdLink::from(pinned)).map_err(|e| kernel(context(), chain(&e)))?;
            if program.attach_to_link(link).is_ok() {
                return Ok(());
            }
            // The interface is another one under the same index.
            fs::remove_file(&path).map_err(|e| kernel(context(), e))?;
        }
        let id = match program.attach_to_if_index(self.ifindex, AyaMode::Driver) {
            Ok(id) => id,
            Err(native) => match program.attach_to_if_index(self.ifindex, AyaMode::Skb) {
                Ok(id) => id,
                Err(generic) if chain(&generic).contains("busy") || chain(&generic).contains("exists") => {
                    return Err(DatapathError::InterfaceInUse {
                        interface: self.interface.clone(),
                    });
                }
                Err(_) => return Err(kernel(context(), chain(&native))),
            },
        };
        let link = program.take_link(id).map_err(|e| kernel(context(), chain(&e)))?;
        // aya falls back to netlink where bpf_link_create says EINVAL; such an attachment ends with the process.
        let link = FdLink::try_from(link).map_err(|e| kernel(context(), chain(&e)))?;
        link.pin(&path).map_err(|e| kernel(context(), chain(&e)))?;
        Ok(())
    }

    fn link(&self) -> PathBuf {
        self.pins.join("link")
    }

    fn open(&self, name: &str) -> Result<MapData, DatapathError> {
        let path = self.pins.join(name);
        MapData::from_pin(&path).map_err(|e| kernel(format!("cannot open {}", path.display()), chain(&e)))
    }

    fn remove_pins(&self) -> Result<(), DatapathError> {
        match fs::remove_dir_all(&self.pins) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(kernel(format!("cannot remove {}", self.pins.display()), e));
            }
            _ => {}
        }
        // The directories that interfaces and instances share go with the last of them.
        for shared in self.pins.ancestors().skip(1).take(2) {
            let _ = fs::remove_dir(shared);
        }
        Ok(())
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, DatapathError> {
    let absent = || kernel("the unwrapping program", "not in its object");
    let program = ebpf.program_mut(PROGRAM).ok_or_else(absent)?;
    program.try_into().map_err(|_| absent())
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, DatapathError> {
    ebpf.take_map(name)
        .ok_or_else(|| kernel(format!("map {name}"), "not in the object"))
}

fn map_error(error: MapError) -> DatapathError {
    kernel("the maps of the unwrapping program", chain(&error))
}

fn holder(ip: IpAddr) -> Holder {
    Holder {
        address: to_any(ip),
        family: if ip.is_ipv4() { 4 } else { 6 },
    }
}

fn address(holder: &Holder) -> IpAddr {
    if holder.family == 4 {
        Ipv4Addr::from(Addr4::from_any(holder.address)).into()
    } else {
        Ipv6Addr::from(Addr6::from_any(holder.address)).into()
    }
}
