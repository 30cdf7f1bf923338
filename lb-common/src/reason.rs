//! Why a packet left the packet path another way than to a backend or a client.
//!
//! The same enums count in the kernel, and name in the CLI, the metrics and the docs.

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// Its name in the CLI, the metrics and the docs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// One sentence for the operator.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Why a packet was handed to the kernel as it came, byte for byte.
    PassReason {
        /// Neither IPv4 nor IPv6: ARP and the like.
        NotIp = "not-ip",
        /// Neither TCP nor UDP, nor an ICMP error: neighbour discovery, echo requests that the kernel answers, and the like.
        NotTcpOrUdp = "not-tcp-or-udp",
        /// Headers that are cut short or contradict themselves; the kernel will discard it.
        Malformed = "malformed",
        /// A fragment other than the first, which names no port, of no packet that lb forwards.
        LaterFragment = "later-fragment",
        /// IPv6 extension headers before the ports that lb does not carry: more than eight, a route still to be followed,
        /// or headers that authenticate addresses.
        Ipv6Extension = "ipv6-extension",
        /// No flow and no service matches.
        NotAService = "not-a-service",
        /// It may not be forwarded any further (TTL or hop limit 1 or 0); the kernel answers.
        TtlExpired = "ttl-expired",
        /// An ICMP error about a packet of no flow: the host's own, most likely.
        IcmpNoFlow = "icmp-no-flow",
        /// A fragment to a VIP that came before the first one of its packet, or long after it.
        FragmentBeforeFirst = "fragment-before-first",
        /// VLAN tags where `vlans` is off, or more than two of them.
        VlanTagged = "vlan-tagged",
    }
}

reasons! {
    /// Why a packet of a service was not forwarded. Where TCP allows, the sender is told by RST.
    DropReason {
        /// TCP flags that no sound stack sends to open a connection; no answer.
        BadTcpFlags = "bad-tcp-flags",
        /// A TCP packet of a connection that is not in the flow table; answered with RST.
        NoFlow = "no-flow",
        /// No backend can take a new flow; TCP is answered with RST.
        NoBackend = "no-backend",
        /// Its backend is down or was removed; answered with RST as `on-down = "reset"` asks.
        BackendDown = "backend-down",
        /// No free source port towards the backend: add source addresses or ports; TCP is answered with RST.
        SourcePortsExhausted = "source-ports-exhausted",
        /// In `nat` mode, another VIP has a connection between the same client and backend ports; TCP is answered with RST.
        TupleInUse = "tuple-in-use",
        /// The flow table refused a new entry; TCP is answered with RST.
        FlowTableFull = "flow-table-full",
        /// UDP without a checksum, from or towards IPv6, where RFC 8200 forbids it.
        UdpChecksumMissing = "udp-checksum-missing",
        /// Larger than the MTU of the way on; the sender is told by ICMP (fragmentation needed, or packet too big).
        ExceedsMtu = "exceeds-mtu",
        /// The interface that it should leave by is gone, or the packet path is not attached to it.
        InterfaceGone = "interface-gone",
        /// The packet path met a state that should not exist, such as a schedule that names no backend; please report.
        Internal = "internal",
        /// More new flows than `limits.new-flows-per-core` allows; no answer, so that the client tries again a little later.
        NewFlowLimit = "new-flow-limit",
        /// The driver leaves too little room before the frame for VLAN tags, a larger IP header, or a tunnel's headers.
        NoHeadroom = "no-headroom",
        /// A fragment that overlaps what came before it of the same packet.
        FragmentOverlap = "fragment-overlap",
        /// The first fragment of a TCP segment for a service ends within the TCP header (RFC 1858).
        FragmentTiny = "fragment-tiny",
        /// No ICMP was sent about a packet, or no echo request answered, because `limits.icmp-per-second` was reached.
        IcmpRateLimited = "icmp-rate-limited",
        /// Every backend that may take a new flow has as many as `max-connections` allows, in the tier that serves and in
        /// the next one; TCP is answered with RST.
        BackendsFull = "backends-full",
        /// A fragment of a flow between IPv4 and IPv6.
        FragmentMixed = "fragment-mixed",
        /// The acknowledgement of a SYN cookie that is wrong, too old, or of another load balancer; answered with RST.
        BadSynCookie = "bad-syn-cookie",
        /// A backend answered the SYN of a client with a cookie by what belongs to another connection; answered with RST, and
        /// the SYN is sent again when the client asks for more.
        SynCookieUnanswered = "syn-cookie-unanswered",
    }
}

reasons! {
    /// What else is counted of packets that were answered or forwarded.
    Note {
        /// A SYN that was answered with a cookie, and not stored.
        SynCookieSent = "syn-cookie-sent",
        /// A client that acknowledged its cookie, and whose flow was opened.
        SynCookieAccepted = "syn-cookie-accepted",
    }
}

/// Counters in the kernel's reason map: pass reasons first, then drop reasons, then notes.
pub const COUNTERS: u32 = PassReason::COUNT + DropReason::COUNT + Note::COUNT;

impl Note {
    /// Its place in the kernel's reason map.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        PassReason::COUNT + DropReason::COUNT + self as u32
    }
}

impl PassReason {
    /// Its place in the kernel's reason map.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        self as u32
    }
}

impl DropReason {
    /// Its place in the kernel's reason map.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        PassReason::COUNT + self as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_counters_are_distinct_and_dense() {
        let names: HashSet<_> = PassReason::ALL
            .iter()
            .map(|r| r.as_str())
            .chain(DropReason::ALL.iter().map(|r| r.as_str()))
            .chain(Note::ALL.iter().map(|r| r.as_str()))
            .collect();
        assert_eq!(names.len(), COUNTERS as usize);
        let counters: Vec<_> = PassReason::ALL
            .iter()
            .map(|r| r.counter())
            .chain(DropReason::ALL.iter().map(|r| r.counter()))
            .chain(Note::ALL.iter().map(|r| r.counter()))
            .collect();
        assert_eq!(counters, (0..COUNTERS).collect::<Vec<_>>());
    }

    #[test]
    fn meanings_are_sentences() {
        for meaning in PassReason::ALL
            .iter()
            .map(|r| r.meaning())
            .chain(DropReason::ALL.iter().map(|r| r.meaning()))
            .chain(Note::ALL.iter().map(|r| r.meaning()))
        {
            assert!(meaning.ends_with('.') && !meaning.starts_with(' '), "{meaning:?}");
        }
    }
}
