//! What the loader decides: read-only globals, so that the verifier removes the code of what is off.

use aya_ebpf::Global;

/// Whether frames go back by redirect instead of `XDP_TX`.
#[expect(unsafe_code, reason = "the loader finds it by its symbol")]
#[unsafe(no_mangle)]
static REDIRECT_BACK: Global<u8> = Global::new(0);

/// Whether frames that leave by the interface they came in on are redirected to it. A veth holds what `XDP_TX` sends
/// until other traffic comes, if its peer receives by NAPI but has no XDP program.
#[inline(always)]
pub fn redirect_back() -> bool {
    REDIRECT_BACK.load() != 0
}

/// What a jiffy is in ticks, as [`lb_common::flow::jiffy_scale`] gives it; for 250 jiffies a second unless the loader knows.
#[expect(unsafe_code, reason = "the loader finds it by its symbol")]
#[unsafe(no_mangle)]
static JIFFY_SCALE: Global<u32> = Global::new(3906);

/// What a tick brings to a CPU's budget of new flows, as [`lb_common::limit::credit`] gives it; 0: there is no limit.
#[expect(unsafe_code, reason = "the loader finds it by its symbol")]
#[unsafe(no_mangle)]
static NEW_FLOW_CREDIT: Global<u32> = Global::new(0);

/// What a tick brings to a CPU's budget of new flows; `None`: there is no limit.
#[inline(always)]
pub fn new_flow_credit() -> Option<u32> {
    match NEW_FLOW_CREDIT.load() {
        0 => None,
        credit => Some(credit),
    }
}

/// What jiffies are multiplied with.
#[inline(always)]
pub fn jiffy_scale() -> u32 {
    JIFFY_SCALE.load()
}

/// The smallest MTU of any interface, in bytes from the IP header on: replies up to it fit everywhere.
#[expect(unsafe_code, reason = "the loader finds it by its symbol")]
#[unsafe(no_mangle)]
static SMALLEST_MTU: Global<u32> = Global::new(1280);

/// What fits every interface.
#[inline(always)]
pub fn smallest_mtu() -> u32 {
    SMALLEST_MTU.load()
}

/// What a tick brings to a CPU's budget of ICMP messages, as [`lb_common::limit::credit`] gives it; 0: nothing.
#[expect(unsafe_code, reason = "the loader finds it by its symbol")]
#[unsafe(no_mangle)]
static ICMP_CREDIT: Global<u32> = Global::new(0);

/// What a tick brings to a CPU's budget of ICMP messages.
#[inline(always)]
pub fn icmp_credit() -> u32 {
    ICMP_CREDIT.load()
}

/// Whether the kernel can make SYN cookies.
#[expect(unsafe_code, reason = "the loader finds it by its symbol")]
#[unsafe(no_mangle)]
static SYN_COOKIES: Global<u8> = Global::new(0);

/// Whether the kernel can make SYN cookies, and services may ask for them.
#[inline(always)]
pub fn syn_cookies() -> bool {
    SYN_COOKIES.load() != 0
}

/// What a tick brings to a CPU's budget of SYNs that are not answered with cookies, as [`lb_common::limit::credit`] gives it.
#[expect(unsafe_code, reason = "the loader finds it by its symbol")]
#[unsafe(no_mangle)]
static SYN_CREDIT: Global<u32> = Global::new(0);

/// What a tick brings to a CPU's budget of SYNs that are not answered with cookies.
#[inline(always)]
pub fn syn_credit() -> u32 {
    SYN_CREDIT.load()
}

#[expect(unsafe_code, reason = "the loader finds it by its symbol")]
#[unsafe(no_mangle)]
static VLANS: Global<u8> = Global::new(0);

/// Whether frames with VLAN tags are forwarded like others, and frames to links with VLANs get tags.
#[inline(always)]
pub fn vlans() -> bool {
    VLANS.load() != 0
}

/// Places of the IPv4 flow cache.
#[expect(unsafe_code, reason = "the loader finds it by its symbol")]
#[unsafe(no_mangle)]
static FLOW_CACHE_PLACES_V4: Global<u32> = Global::new(0);

/// Places of the IPv4 flow cache; 0: there is none.
#[inline(always)]
pub fn flow_cache_places_v4() -> u32 {
    FLOW_CACHE_PLACES_V4.load()
}

/// Places of the IPv6 flow cache.
#[expect(unsafe_code, reason = "the loader finds it by its symbol")]
#[unsafe(no_mangle)]
static FLOW_CACHE_PLACES_V6: Global<u32> = Global::new(0);

/// Places of the IPv6 flow cache; 0: there is none.
#[inline(always)]
pub fn flow_cache_places_v6() -> u32 {
    FLOW_CACHE_PLACES_V6.load()
}
