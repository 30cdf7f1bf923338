//! Loading the packet path, with its maps pinned or adopted.

use std::io;

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{ProgramError, ProgramType, Xdp},
};
use caps::{CapSet, Capability};
use lb_common::{abi, limit};

use super::{
    DatapathError, clock, flow_cache, maps,
    pins::{Pins, kernel},
};
use crate::model::Limits;

/// The packet path's object file.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb"));
/// The program that interfaces run.
pub(super) const ENTRY: &str = "lb";
/// Programs that measurements compare with: `bare_tx`, `bare_redirect`, `sink`, `pass`.
pub static BENCH_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench"));
/// The walk over a flow table as the kernel can make it by itself, which measurements compare with: `sweep`.
pub static SWEEP_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sweep"));

/// What is decided when the program is loaded; the verifier removes what is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// How much the packet path says, as `aya-log` counts: 0 nothing, 1 errors, up to 5 everything.
    pub log_level: u8,
    /// Frames that leave by the interface they came in on are redirected to it, because `XDP_TX` stalls on a veth whose
    /// peer has no XDP program.
    pub redirect_back: bool,
    /// The smallest MTU of the interfaces, in bytes. Only replies beyond it are compared with the MTU of their own
    /// interface; 0 compares all.
    pub smallest_mtu: u32,
    /// SYN cookies, which the kernel must know of: [`syn_cookies`].
    pub syn_cookies: bool,
    /// Frames with VLAN tags are forwarded too, and next hops may lie behind VLAN devices.
    pub vlans: bool,
}

/// Checks that this process may load programs and change interfaces.
pub fn check_capabilities() -> Result<(), DatapathError> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    if has(Capability::CAP_SYS_ADMIN) && has(Capability::CAP_NET_ADMIN) {
        return Ok(());
    }
    let needed = [
        Capability::CAP_BPF,
        Capability::CAP_NET_ADMIN,
        Capability::CAP_NET_RAW,
        Capability::CAP_PERFMON,
    ];
    let missing: Vec<_> = needed.into_iter().filter(|c| !has(*c)).map(|c| c.to_string()).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(DatapathError::Capabilities(missing.join(", ")))
    }
}

/// Whether the kernel can make SYN cookies: Linux 6.0 and later, with `CONFIG_SYN_COOKIES`.
#[must_use]
pub fn syn_cookies() -> bool {
    use aya::sys::{BpfHelper, is_helper_supported};
    [
        BpfHelper::BPF_FUNC_tcp_raw_gen_syncookie_ipv4,
        BpfHelper::BPF_FUNC_tcp_raw_gen_syncookie_ipv6,
        BpfHelper::BPF_FUNC_tcp_raw_check_syncookie_ipv4,
        BpfHelper::BPF_FUNC_tcp_raw_check_syncookie_ipv6,
    ]
    .into_iter()
    .all(|helper| is_helper_supported(ProgramType::Xdp, helper).unwrap_or(false))
}

/// Loads the program; maps that are pinned already are used as they are, after a check of their shapes.
pub(super) fn load(pins: &Pins, limits: &Limits, features: Features) -> Result<Ebpf, DatapathError> {
    maps::check_pinned(pins, limits)?;
    let directory = pins.maps();
    let redirect_back = u8::from(features.redirect_back);
    let vlans = u8::from(features.vlans);
    let jiffy_scale = clock::jiffy_scale()?;
    let icmp_credit = limit::credit(limits.icmp_per_second);
    let new_flow_credit = limit::credit(limits.new_flows_per_core);
    let syn_cookies = u8::from(features.syn_cookies);
    let cache_places_v4 = flow_cache::places(limits.flows_ipv4);
    let cache_places_v6 = flow_cache::places(limits.flows_ipv6);
    let syn_credit = limit::credit(limits.syn_cookies_above);
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("AYA_LOG_LEVEL", &features.log_level, false)
        .override_global("REDIRECT_BACK", &redirect_back, true)
        .override_global("VLANS", &vlans, true)
        .override_global("JIFFY_SCALE", &jiffy_scale, true)
        .override_global("SMALLEST_MTU", &features.smallest_mtu, true)
        .override_global("ICMP_CREDIT", &icmp_credit, true)
        .override_global("NEW_FLOW_CREDIT", &new_flow_credit, true)
        .override_global("SYN_COOKIES", &syn_cookies, true)
        .override_global("SYN_CREDIT", &syn_credit, true)
        .override_global("FLOW_CACHE_PLACES_V4", &cache_places_v4, true)
        .override_global("FLOW_CACHE_PLACES_V6", &cache_places_v6, true);
    for (name, entries, ..) in maps::shapes(limits) {
        loader
            .map_max_entries(name, entries)
            .map_pin_path(name, directory.join(name));
    }
    let mut ebpf = loader
        .load(OBJECT)
        .map_err(|e| kernel("cannot load the packet path's maps", chain(&e)))?;
    link(&mut ebpf)?;
    Ok(ebpf)
}

/// Has the kernel take in the packet path's programs, and joins them.
///
/// # Errors
/// The kernel's refusal.
pub fn link(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    for name in abi::STAGES.into_iter().chain([ENTRY]) {
        verify(program(ebpf, name)?).map_err(|e| kernel(format!("the kernel refused program {name}"), chain(&e)))?;
    }
    maps::fill_stages(ebpf)
}

/// Has the kernel verify a program and take it in.
///
/// # Errors
/// The kernel's refusal.
pub fn verify(program: &mut Xdp) -> Result<(), ProgramError> {
    // A signal to this process makes the verifier give up with EAGAIN. libbpf tries as often.
    for _ in 1..5 {
        match program.load() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
    program.load()
}

/// A program of the packet path.
pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, DatapathError> {
    let context = || format!("program {name}");
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| kernel(context(), "not in the packet path's object"))?;
    program.try_into().map_err(|e| kernel(context(), e))
}

/// An error with all its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
