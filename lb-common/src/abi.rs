//! The layout of the kernel maps: every key and value, the same type on both sides.
//!
//! All are `repr(C)` without implicit padding. Any change here that an old packet path would misread must raise
//! [`ABI_VERSION`], which is part of the pin path.

use core::fmt;

use crate::{
    flow::{Direction, Phase, Tick, Timeouts, refresh_step},
    flow_cache::Epoch,
    net::{AnyAddr, Be16, MacAddr, join, join_words, split_words},
    rewrite::Rewrite,
    splice::Splice,
};

/// Version of this layout.
pub const ABI_VERSION: u32 = 2;

/// Names of the programs besides the entry, in the order of the program map.
pub const STAGES: [&str; 13] = [
    "lb_open",
    "lb_odd",
    "lb_too_big",
    "lb_new",
    "lb_take_up",
    "lb_tagged",
    "lb_mixed",
    "lb_deliver",
    "lb_cookie",
    "lb_splice",
    "lb_outer",
    "lb_flow",
    "lb_mixed_error",
];

/// Slots in one entry of the slot arena, so that one write publishes many.
pub const SLOTS_PER_PAGE: u32 = 64;

/// A flow's packets in one direction, as they arrive. Aligned to what a CPU writes in one store.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
    /// IP protocol number and three bytes of zero, in one word: the hash reads words, and the CPU would wait for bytes
    /// that were written one by one.
    protocol_word: u32,
}

impl<A> FlowKey<A> {
    /// From addresses, ports and protocol.
    #[inline(always)]
    #[must_use]
    pub const fn new((src, src_port): (A, Be16), (dst, dst_port): (A, Be16), protocol: u8) -> Self
    where
        A: Copy,
    {
        Self {
            src,
            dst,
            src_port,
            dst_port,
            protocol_word: u32::from_ne_bytes([protocol, 0, 0, 0]),
        }
    }

    /// Ports and protocol, as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn tail(&self) -> [u32; 2] {
        [join(self.src_port.word(), self.dst_port.word()), self.protocol_word]
    }

    /// IP protocol number.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        let [protocol, ..] = self.protocol_word.to_ne_bytes();
        protocol
    }
}

/// One direction of a flow. Each flow has two entries, which are refreshed together.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow<A> {
    /// What happens to its packets.
    pub rewrite: Rewrite<A>,
    /// Where the client's packets come from, and replies go to.
    pub client: Link,
    /// Index of its backend.
    pub backend: u32,
    /// When it expires if no packet comes.
    pub expires: Tick,
    /// When it was made.
    pub opened: Tick,
    /// Where it stands in its life.
    pub phase: Phase,
    /// Which way this entry's packets go.
    pub direction: Direction,
    /// 1: it is that of the replies to one datagram, and the other direction has no entry.
    pub alone: u8,
    /// Whether its two halves number the backend's bytes differently.
    pub splice: Splice,
    /// Of a spliced flow: what the backend's sequence numbers are beyond those that the client sees. Until the backend answers,
    /// the client's cookie.
    pub beyond: u32,
    /// From when on a packet moves the expiry on; of no use while the flow is half-open.
    pub refresh: Tick,
    /// While the flow opens, see [`crate::flow::Opening::answer`]; of a spliced flow, what the backend acknowledges first. With the
    /// kernel's 48 bytes before the key, an IPv4 entry fills two cache lines and so shares none: at 100,000 flows that saves a tenth
    /// of a packet's time.
    pub answer: u32,
}

impl<A> Flow<A> {
    /// A packet came that keeps it alive for a timeout in ticks. Those that come before the next refresh leave the expiry as it
    /// is, and so it is as much later.
    #[inline(always)]
    pub const fn extend(&mut self, now: Tick, timeout: u32) {
        let step = refresh_step(timeout);
        self.expires = now.plus(timeout + step);
        self.refresh = now.plus(step);
    }
}

/// A neighbour and how to reach it.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// The first twelve bytes of a frame to the neighbour: its MAC address, and our own on the interface.
    pub addresses: [u32; 3],
    /// The interface's index.
    pub ifindex: u32,
    /// Tags between the MAC addresses and the packet.
    pub vlans: Vlans,
}

/// Up to two VLAN tags, without priority: the outer in the lower half, the inner in the upper. In each, the kind of tag
/// (1: 802.1Q, 2: 802.1ad) stands above the twelve bits of the VLAN's number; 0 is no tag. The default is none.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Vlans(pub u32);

impl Link {
    /// From the neighbour's MAC address, our own, and the interface's index.
    #[must_use]
    pub const fn new(remote: MacAddr, local: MacAddr, ifindex: u32) -> Self {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (remote.bytes(), local.bytes());
        let addresses = [
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
        ];
        Self {
            addresses,
            ifindex,
            vlans: Vlans(0),
        }
    }

    /// The neighbour's MAC address.
    #[must_use]
    pub const fn remote(&self) -> MacAddr {
        let [x, y, _] = self.addresses;
        let ([a, b, c, d], [e, f, ..]) = (x.to_ne_bytes(), y.to_ne_bytes());
        MacAddr::new([a, b, c, d, e, f])
    }

    /// Our own MAC address on the interface.
    #[must_use]
    pub const fn local(&self) -> MacAddr {
        let [_, y, z] = self.addresses;
        let ([.., a, b], [c, d, e, f]) = (y.to_ne_bytes(), z.to_ne_bytes());
        MacAddr::new([a, b, c, d, e, f])
    }
}

/// What a frame over a link begins with, and where it leaves: what is read and written of a link per packet, in words of 64 bits.
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// The first eight bytes.
    pub macs: u64,
    /// The other four, and the interface's index.
    pub mac_ifindex: u64,
    /// Tags between the MAC addresses and the packet.
    pub vlans: Vlans,
}

impl Hop {
    /// The last four of the twelve bytes.
    #[inline(always)]
    #[must_use]
    pub const fn mac(self) -> u32 {
        let [mac, _] = split_words(self.mac_ifindex);
        mac
    }

    /// The interface's index.
    #[inline(always)]
    #[must_use]
    pub const fn ifindex(self) -> u32 {
        let [_, ifindex] = split_words(self.mac_ifindex);
        ifindex
    }
}

impl From<&Link> for Hop {
    #[inline(always)]
    fn from(link: &Link) -> Self {
        let [a, b, c] = link.addresses;
        Self {
            macs: join_words([a, b]),
            mac_ifindex: join_words([c, link.ifindex]),
            vlans: link.vlans,
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Link({} from {} by interface {})",
            self.remote(),
            self.local(),
            self.ifindex
        )
    }
}

/// What a packet of a service is addressed to.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct ServiceKey<A> {
    /// Virtual address.
    pub vip: A,
    /// Port.
    pub port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

impl<A> ServiceKey<A> {
    /// From address, port and protocol.
    #[inline(always)]
    #[must_use]
    pub const fn new(vip: A, port: Be16, protocol: u8) -> Self
    where
        A: Copy,
    {
        Self {
            vip,
            port,
            protocol,
            pad: 0,
        }
    }
}

/// A service: all that changes while it lives is elsewhere, its schedule in [`Rotation`].
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Service {
    /// Index of its rotation and cursor.
    pub index: u32,
    /// What it asks for besides.
    pub flags: ServiceFlags,
    /// How long a client stays with its backend after its last new flow, in ticks; 0: not at all.
    pub affinity: u32,
    /// Zero.
    pub pad: u32,
}

/// What a service asks for, a bit each.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ServiceFlags(pub u32);

impl ServiceFlags {
    /// Each UDP datagram is scheduled by itself.
    pub const ONE_PACKET: u32 = 1;
    /// SYNs are answered with cookies while they come faster than flows may be opened.
    pub const SYN_COOKIES: u32 = 2;
    /// Every SYN is.
    pub const SYN_COOKIES_ALWAYS: u32 = 4;
    /// Flows are stored where their slot moved lately, and nowhere else, see [`crate::direct`].
    pub const MOVED_ONLY: u32 = 8;
    /// Either kind of cookies.
    pub const ANY_SYN_COOKIES: u32 = Self::SYN_COOKIES | Self::SYN_COOKIES_ALWAYS;

    /// Whether any of `flags` is set.
    #[inline(always)]
    #[must_use]
    pub const fn any(self, flags: u32) -> bool {
        self.0 & flags != 0
    }
}

/// How a service's new flows find their backend: first slot in the upper half of the word, then the rule in eight bits,
/// and the number of slots in the other 24.
///
/// One aligned 64-bit store publishes it, so no packet sees half of a change. The default names no slot: refuse.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Rotation(pub u64);

/// Which slot of a rotation a new flow takes.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Rule(pub u8);

impl Rule {
    /// The next one in turn.
    pub const ROUND_ROBIN: Self = Self(0);
    /// That of the client address's hash: the slots are a Maglev table.
    pub const SOURCE_HASH: Self = Self(1);
    /// That of the 5-tuple's hash: the slots are a Maglev table.
    pub const MAGLEV: Self = Self(2);
    /// That of the backend with the fewest active flows for its weight, of all: every backend has one slot.
    pub const LEAST_CONN: Self = Self(3);
    /// As [`Rule::LEAST_CONN`], of two that chance picks.
    pub const LEAST_CONN_OF_TWO: Self = Self(4);

    /// Whether its slots name every backend once.
    #[inline(always)]
    #[must_use]
    pub const fn by_load(self) -> bool {
        matches!(self, Self::LEAST_CONN | Self::LEAST_CONN_OF_TWO)
    }

    /// Whether the packet alone decides, so that every packet of a flow finds the same slot.
    #[inline(always)]
    #[must_use]
    pub const fn by_hash(self) -> bool {
        matches!(self, Self::SOURCE_HASH | Self::MAGLEV)
    }
}

impl Rotation {
    /// Slots that a rotation can have.
    pub const MAX_LEN: u32 = (1 << 24) - 1;

    /// `len` slots from `base` on, [`Rotation::MAX_LEN`] at most.
    #[inline(always)]
    #[must_use]
    pub const fn new(base: u32, len: u32, rule: Rule) -> Self {
        Self((base as u64) << 32 | (rule.0 as u64) << 24 | (len & Self::MAX_LEN) as u64)
    }

    /// First slot.
    #[inline(always)]
    #[must_use]
    pub const fn base(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Number of slots.
    #[inline(always)]
    #[must_use]
    pub const fn len(self) -> u32 {
        self.0 as u32 & Self::MAX_LEN
    }

    /// Which slot is taken.
    #[inline(always)]
    #[must_use]
    pub const fn rule(self) -> Rule {
        Rule((self.0 >> 24) as u8)
    }

    /// Whether no backend takes new flows.
    #[inline(always)]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// A service's rotation before the last change, for packets in the middle of flows that are not in the table.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Previous {
    /// The rotation.
    pub rotation: Rotation,
    /// Until when it counts.
    pub until: Tick,
    /// Zero.
    pub pad: u32,
}

/// A port of a service whose flows are stored only where their slot moved, see [`crate::direct`].
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DirectEntry {
    /// The VIP.
    pub vip: AnyAddr,
    /// Port, protocol and IP version, from [`crate::direct::what`]; 0: the place is free.
    pub what: u32,
    /// Index of the service.
    pub service: u32,
    /// Zero.
    pub pad: [u32; 2],
}

/// Where such ports are found: those of one hash, a cache line.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DirectBucket(pub [DirectEntry; 2]);

/// A run of slots; each is the index of a backend, with the mark [`crate::direct::MOVED`] where that is another one lately.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotPage(pub [u32; SLOTS_PER_PAGE as usize]);

/// A counter that CPUs share, alone on its cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// The next ticket.
    pub next: u64,
    /// Zero.
    pub pad: [u64; 7],
}

/// How many active flows a backend has, alone on its cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Active {
    /// Flows; below zero for a moment, when more ended than the last correction knew of.
    pub flows: i64,
    /// Zero.
    pub pad: [u64; 7],
}

impl Active {
    /// So many flows.
    #[must_use]
    pub const fn new(flows: u32) -> Self {
        Self {
            flows: flows as i64,
            pad: [0; 7],
        }
    }
}

/// A client of a service that keeps clients with their backend.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct AffinityKey<A> {
    /// The client's address.
    pub client: A,
    /// Index of the service.
    pub service: u32,
}

/// Where a client stays.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Affinity {
    /// Index of the backend.
    pub backend: u32,
    /// Until when, if it opens no other flow.
    pub expires: Tick,
}

/// A backend of one service, written so that packets see a change whole or not at all.
///
/// The writer fills the side that is not live, then writes again with `live` turned: between the two writes packets
/// see the old side, whose bytes do not change.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct BackendEntry {
    /// The side that counts: 0 or 1.
    pub live: u32,
    /// Zero.
    pub pad: u32,
    /// Two versions.
    pub sides: [Backend; 2],
}

impl BackendEntry {
    /// The version that counts.
    #[inline(always)]
    #[must_use]
    pub const fn current(&self) -> &Backend {
        let [a, b] = &self.sides;
        if self.live & 1 == 0 { a } else { b }
    }

    /// The two successive writes that publish a new version.
    #[must_use]
    pub const fn publish(&self, new: Backend) -> [Self; 2] {
        let [a, b] = self.sides;
        let sides = if self.live & 1 == 0 { [a, new] } else { [new, b] };
        let staged = Self {
            live: self.live & 1,
            pad: 0,
            sides,
        };
        [
            staged,
            Self {
                live: staged.live ^ 1,
                ..staged
            },
        ]
    }
}

/// A backend of one service. The same server in two services is two backends, each with its own counters. Aligned so that
/// its link is read in whole words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Its address.
    pub address: AnyAddr,
    /// Its port; 0: the one that the client asked for.
    pub port: Be16,
    /// First of the source ports that `full-nat` uses.
    pub first_source_port: Be16,
    /// How many source ports there are.
    pub source_ports: u32,
    /// First of its source addresses in the source arena; in tunnel modes the only one, from which the outer ones count.
    pub first_source: u32,
    /// How many source addresses there are; in tunnel modes a power of two, from that one on.
    pub sources: u32,
    /// Next hop and interface towards it.
    pub link: Link,
    /// Largest packet that fits the interface, in bytes from the IP header on.
    pub mtu: u32,
    /// Index of its service.
    pub service: u32,
    /// Idle timeouts of its flows.
    pub timeouts: Timeouts,
    /// How many active flows it takes; 0: any number.
    pub limit: u32,
    /// Its weight, for services that compare loads; elsewhere the schedule has it in it, and this is 0.
    pub weight: u16,
    /// UDP port that tunnelled packets go to, in mode `gue`.
    pub tunnel_port: Be16,
    /// Whether its flows go on.
    pub state: BackendState,
    /// What becomes of its flows when it is down.
    pub on_down: OnDown,
    /// Forwarding mode.
    pub mode: Mode,
    /// IP protocol number.
    pub protocol: u8,
    /// IP version, 4 or 6; 0 in an entry that was never used.
    pub family: u8,
    /// 1: it takes new flows now. Kept for services with affinity alone; elsewhere the schedule says so.
    pub takes_new: u8,
    /// Which copies of its flows are good.
    pub epoch: Epoch,
}

impl Backend {
    /// How many places of the source arena are its own.
    #[must_use]
    pub const fn source_places(&self) -> u32 {
        if self.mode.sees_replies() || self.sources == 0 {
            self.sources
        } else {
            1
        }
    }
}

/// Whether a backend's flows go on. A number rather than an enum, because it is read from a map.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct BackendState(pub u8);

impl BackendState {
    /// The entry is free.
    pub const FREE: Self = Self(0);
    /// Flows go on. Whether it takes new ones is the schedule's business.
    pub const UP: Self = Self(1);
    /// Its flows are treated as [`OnDown`] says.
    pub const DOWN: Self = Self(2);
    /// As [`BackendState::DOWN`]; the operator removed it, and the entry is free once no flow names it.
    pub const REMOVED: Self = Self(3);
}

/// What becomes of the flows of a backend that is down.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct OnDown(pub u8);

impl OnDown {
    /// The client is answered with RST.
    pub const RESET: Self = Self(0);
    /// The flow is made anew, with another backend.
    pub const MOVE: Self = Self(1);
    /// Packets go on to the backend.
    pub const KEEP: Self = Self(2);
}

/// Forwarding mode.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Mode(pub u8);

impl Mode {
    /// Destination and source are rewritten.
    pub const FULL_NAT: Self = Self(0);
    /// The destination is rewritten.
    pub const NAT: Self = Self(1);
    /// The MAC addresses are rewritten; the backend answers the client itself.
    pub const L2_DSR: Self = Self(2);
    /// The packet is wrapped in IP (RFC 2003, RFC 2473); the backend answers the client itself.
    pub const IPIP: Self = Self(3);
    /// The packet is wrapped in UDP (Generic UDP Encapsulation, variant 1 of draft-ietf-intarea-gue); the backend answers
    /// the client itself.
    pub const GUE: Self = Self(4);

    /// Whether replies come back through the packet path.
    #[inline(always)]
    #[must_use]
    pub const fn sees_replies(self) -> bool {
        matches!(self, Self::FULL_NAT | Self::NAT)
    }
}

/// What the fragments of one packet have in common (RFC 791, RFC 8200).
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct FragmentKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Identification; of IPv4 in the lower half.
    pub id: u32,
    /// IP protocol number and three bytes of zero.
    protocol_word: u32,
}

impl<A> FragmentKey<A> {
    /// From addresses, identification and protocol.
    #[inline(always)]
    #[must_use]
    pub const fn new(src: A, dst: A, id: u32, protocol: u8) -> Self
    where
        A: Copy,
    {
        Self {
            src,
            dst,
            id,
            protocol_word: u32::from_ne_bytes([protocol, 0, 0, 0]),
        }
    }
}

/// What the first fragment of a packet told about the others.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
    /// Bytes of its payload that came without a gap.
    pub next: u32,
    /// Identification that its fragments leave with.
    pub id: u32,
    /// When it is forgotten.
    pub expires: Tick,
}

/// What is done for a VIP besides its services, a bit each.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct VipFlags(pub u32);

impl VipFlags {
    /// Echo requests are answered, because the kernel may not have the address.
    pub const ECHO: u32 = 1;

    /// Whether any of `flags` is set.
    #[inline(always)]
    #[must_use]
    pub const fn any(self, flags: u32) -> bool {
        self.0 & flags != 0
    }
}

/// Counters of one backend on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct BackendStats {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients: Ethernet header and IP packet as they came, without padding behind and tunnel headers before.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients, counted alike.
    pub bytes_out: u64,
    /// Flows opened.
    pub opened: u64,
    /// Flows that the packet path saw end; those that expire unseen are counted by the controller's sweep.
    pub closed: u64,
}

const _: () = {
    use crate::net::{Addr4, Addr6};
    assert!(size_of::<FlowKey<Addr4>>() == 16);
    assert!(size_of::<FlowKey<Addr6>>() == 40);
    assert!(size_of::<Flow<Addr4>>() == 64);
    assert!(size_of::<Flow<Addr6>>() == 88);
    assert!(size_of::<Link>() == 20);
    assert!(size_of::<ServiceKey<Addr4>>() == 8);
    assert!(size_of::<ServiceKey<Addr6>>() == 20);
    assert!(size_of::<Service>() == 16);
    assert!(size_of::<Previous>() == 16);
    assert!(size_of::<Backend>() == 16 + 4 + 12 + 20 + 8 + 20 + 4 + 4 + 8);
    assert!(size_of::<BackendEntry>() == 8 + 2 * size_of::<Backend>());
    assert!(size_of::<BackendStats>() == 48);
    assert!(size_of::<DirectBucket>() == 64);
    assert!(size_of::<Cursor>() == 64);
    assert!(size_of::<FragmentKey<Addr4>>() == 16);
    assert!(size_of::<FragmentKey<Addr6>>() == 40);
    assert!(size_of::<Datagram>() == 16);
    assert!(size_of::<Active>() == 64);
    assert!(size_of::<AffinityKey<Addr4>>() == 8);
    assert!(size_of::<AffinityKey<Addr6>>() == 20);
    assert!(size_of::<Affinity>() == 8);
};

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya asks for its marker trait on what maps hold")]

    use super::{
        Active, Affinity, AffinityKey, BackendEntry, BackendStats, Cursor, Datagram, DirectBucket, Flow, FlowKey,
        FragmentKey, Previous, Rotation, Service, ServiceKey, SlotPage, VipFlags,
    };
    use crate::net::{Addr4, Addr6};

    macro_rules! pod {
        ($($t:ty),+ $(,)?) => {
            $(
                // SAFETY: repr(C) or transparent over integers, without padding (asserted by size above), so every bit
                // pattern is a value and every byte is initialised.
                unsafe impl aya::Pod for $t {}
            )+
        };
    }

    pod!(
        FlowKey<Addr4>,
        FlowKey<Addr6>,
        Flow<Addr4>,
        Flow<Addr6>,
        ServiceKey<Addr4>,
        ServiceKey<Addr6>,
        Service,
        Rotation,
        Previous,
        SlotPage,
        DirectBucket,
        Cursor,
        Active,
        Affinity,
        AffinityKey<Addr4>,
        AffinityKey<Addr6>,
        BackendEntry,
        BackendStats,
        FragmentKey<Addr4>,
        FragmentKey<Addr6>,
        Datagram,
        Addr4,
        Addr6,
        VipFlags,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishing_never_touches_the_live_side() {
        let v = |port| Backend {
            port: Be16::new(port),
            ..Backend::default()
        };
        let mut entry = BackendEntry::default();
        for port in 1..6 {
            let before = *entry.current();
            let [staged, flipped] = entry.publish(v(port));
            assert_eq!(staged.live, entry.live, "the first write leaves the old version live");
            assert_eq!(*staged.current(), before);
            assert_eq!(flipped.sides, staged.sides, "the second write changes one word");
            assert_eq!(*flipped.current(), v(port));
            entry = flipped;
        }
    }

    #[test]
    fn the_way_back_exchanges_the_addresses() {
        let (remote, local) = (MacAddr::new([1, 2, 3, 4, 5, 6]), MacAddr::new([7, 8, 9, 10, 11, 12]));
        let link = Link::new(remote, local, 3);
        assert_eq!((link.remote(), link.local()), (remote, local));
    }

    #[test]
    fn a_rotation_is_one_word() {
        let r = Rotation::new(0xdead_beef, 0x34_5678, Rule::MAGLEV);
        assert_eq!(
            (r.base(), r.len(), r.rule(), r.is_empty()),
            (0xdead_beef, 0x34_5678, Rule::MAGLEV, false)
        );
        assert!(Rotation::default().is_empty());
    }
}
