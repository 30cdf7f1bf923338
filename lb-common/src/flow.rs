//! The life of a flow: time, TCP phases, and when an entry of the flow table is refreshed.

/// A point in time: the kernel's jiffies in units of 2^20 ns (about 1.05 ms), wrapping after 52 days.
///
/// Comparisons hold for points less than 26 days apart; configured timeouts are at most seven days.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tick(pub u32);

/// The length of a tick as a power of two of nanoseconds.
pub const TICK_SHIFT: u32 = 20;

/// Jiffies are multiplied by a number of ticks with so many binary places.
const SCALE_SHIFT: u32 = 10;

/// What [`Tick::from_jiffies`] multiplies with, from the length of a jiffy.
#[must_use]
pub const fn jiffy_scale(nanoseconds: u64) -> u32 {
    (nanoseconds >> (TICK_SHIFT - SCALE_SHIFT)) as u32
}

impl Tick {
    /// From the kernel's jiffies, and [`jiffy_scale`] of their length.
    #[inline(always)]
    #[must_use]
    pub const fn from_jiffies(jiffies: u64, scale: u32) -> Self {
        Self((jiffies.wrapping_mul(scale as u64) >> SCALE_SHIFT) as u32)
    }

    /// The tick that lies `ticks` ahead.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }

    /// Ticks from `now` until this one; zero or less when it has passed.
    #[inline(always)]
    #[must_use]
    pub const fn remaining(self, now: Self) -> i32 {
        self.0.wrapping_sub(now.0).cast_signed()
    }

    /// Whether this tick has come.
    #[inline(always)]
    #[must_use]
    pub const fn passed(self, now: Self) -> bool {
        self.remaining(now) <= 0
    }
}

/// The TCP flags of a segment, as they stand in the header's fourteenth byte.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// The sender has finished.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Aborts it.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;

    /// Whether any of `flags` is set.
    #[inline(always)]
    #[must_use]
    pub const fn any(self, flags: u8) -> bool {
        self.0 & flags != 0
    }

    /// A SYN that opens a connection: without ACK, FIN and RST.
    #[inline(always)]
    #[must_use]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::FIN | Self::RST) == Self::SYN
    }

    /// A SYN together with FIN or RST, or no flag at all: no sound stack sends it.
    #[inline(always)]
    #[must_use]
    pub const fn nonsense(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::FIN | Self::RST) == 0
            || (self.any(Self::SYN) && self.any(Self::FIN | Self::RST))
    }
}

/// Which way a packet of a flow goes.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Direction(pub u8);

impl Direction {
    /// From the client to the backend.
    pub const TO_BACKEND: Self = Self(0);
    /// From the backend to the client.
    pub const TO_CLIENT: Self = Self(1);

    /// The other way.
    #[inline(always)]
    #[must_use]
    pub const fn opposite(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// Where a flow stands in its life. A number rather than an enum, because it is read from a map.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Phase(pub u8);

impl Phase {
    /// The client sent a SYN.
    pub const SYN_SEEN: Self = Self(0);
    /// The client acknowledged the backend's SYN.
    pub const ESTABLISHED: Self = Self(1);
    /// The client sent FIN; the backend may go on sending.
    pub const CLIENT_FIN: Self = Self(2);
    /// The backend sent FIN; the client may go on sending.
    pub const BACKEND_FIN: Self = Self(3);
    /// Both sent FIN, or one sent RST.
    pub const CLOSING: Self = Self(4);
    /// A UDP flow, which has no phases.
    pub const UDP: Self = Self(5);

    /// The phase after a segment.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, direction: Direction, flags: TcpFlags) -> Self {
        const ENDS: u8 = TcpFlags::FIN | TcpFlags::RST;
        match self {
            Self::UDP | Self::CLOSING => self,
            Self::SYN_SEEN if !flags.any(ENDS) => match direction {
                Direction::TO_BACKEND if flags.any(TcpFlags::ACK) && !flags.any(TcpFlags::SYN) => Self::ESTABLISHED,
                _ => self,
            },
            // A client that gets the acknowledgement of an older connection through the same ports (its server is in
            // TIME-WAIT) answers with RST and repeats its SYN: the handshake goes on (RFC 9293, section 3.10.7.3).
            Self::SYN_SEEN if flags.any(TcpFlags::RST) && matches!(direction, Direction::TO_BACKEND) => self,
            _ if !flags.any(ENDS) => self,
            _ if flags.any(TcpFlags::RST) => Self::CLOSING,
            _ => match (self, direction) {
                (Self::BACKEND_FIN, Direction::TO_BACKEND) | (Self::CLIENT_FIN, Direction::TO_CLIENT) => Self::CLOSING,
                (_, Direction::TO_BACKEND) => Self::CLIENT_FIN,
                _ => Self::BACKEND_FIN,
            },
        }
    }

    /// Its name in `lb flows`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SYN_SEEN => "syn-seen",
            Self::ESTABLISHED => "established",
            Self::CLIENT_FIN => "client-fin",
            Self::BACKEND_FIN => "backend-fin",
            Self::CLOSING => "closing",
            Self::UDP => "udp",
            _ => "unknown",
        }
    }
}

/// Idle timeouts, in ticks.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// [`Phase::SYN_SEEN`].
    pub syn: u32,
    /// [`Phase::ESTABLISHED`].
    pub established: u32,
    /// The half-closed phases. As long as `established` where both directions are seen, since one side may still send
    /// for long.
    pub fin: u32,
    /// [`Phase::CLOSING`].
    pub closing: u32,
    /// [`Phase::UDP`].
    pub udp: u32,
}

impl Timeouts {
    /// How long a flow may be idle in a phase.
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, phase: Phase) -> u32 {
        match phase {
            Phase::SYN_SEEN => self.syn,
            Phase::CLOSING => self.closing,
            Phase::UDP => self.udp,
            Phase::CLIENT_FIN | Phase::BACKEND_FIN => self.fin,
            _ => self.established,
        }
    }
}

/// An entry is not refreshed more often than this: about four seconds.
const REFRESH_AT_MOST_EVERY: u32 = 4096;

/// Whether a packet at `now` should move the expiry of a flow on: when an eighth of the timeout or four seconds have
/// gone by since the last time, so that most packets write nothing.
#[inline(always)]
#[must_use]
pub const fn refresh_due(expires: Tick, now: Tick, timeout: u32) -> bool {
    let step = if timeout >> 3 < REFRESH_AT_MOST_EVERY {
        timeout >> 3
    } else {
        REFRESH_AT_MOST_EVERY
    };
    let remaining = expires.remaining(now).cast_unsigned();
    remaining > timeout || timeout - remaining >= step
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: Direction = Direction::TO_BACKEND;
    const BACKEND: Direction = Direction::TO_CLIENT;

    fn walk(steps: &[(Direction, u8)]) -> Phase {
        steps.iter().fold(Phase::SYN_SEEN, |phase, (direction, flags)| {
            phase.after(*direction, TcpFlags(*flags))
        })
    }

    #[test]
    fn a_connection_opens_and_closes() {
        use TcpFlags as F;
        let open = [(BACKEND, F::SYN | F::ACK), (CLIENT, F::ACK)];
        assert_eq!(walk(&open[..1]), Phase::SYN_SEEN);
        assert_eq!(walk(&open), Phase::ESTABLISHED);
        assert_eq!(walk(&[open[0], open[1], (CLIENT, F::FIN | F::ACK)]), Phase::CLIENT_FIN);
        assert_eq!(
            walk(&[open[0], open[1], (BACKEND, F::FIN | F::ACK)]),
            Phase::BACKEND_FIN
        );
        assert_eq!(
            walk(&[
                open[0],
                open[1],
                (CLIENT, F::FIN | F::ACK),
                (BACKEND, F::FIN | F::ACK),
                (CLIENT, F::ACK)
            ]),
            Phase::CLOSING
        );
        assert_eq!(walk(&[(BACKEND, F::RST | F::ACK)]), Phase::CLOSING);
    }

    #[test]
    fn a_handshake_survives_the_leftovers_of_an_older_connection() {
        use TcpFlags as F;
        let challenged = [(BACKEND, F::ACK), (CLIENT, F::RST), (CLIENT, F::SYN)];
        assert_eq!(walk(&challenged), Phase::SYN_SEEN);
        assert_eq!(walk(&[(CLIENT, F::ACK), (CLIENT, F::RST)]), Phase::CLOSING);
    }

    #[test]
    fn a_retransmitted_fin_does_not_close_the_other_side() {
        assert_eq!(
            walk(&[
                (CLIENT, TcpFlags::ACK),
                (CLIENT, TcpFlags::FIN),
                (CLIENT, TcpFlags::FIN)
            ]),
            Phase::CLIENT_FIN
        );
    }

    #[test]
    fn only_a_lone_syn_opens() {
        assert!(TcpFlags(TcpFlags::SYN).opens());
        assert!(TcpFlags(TcpFlags::SYN | 0xc0).opens(), "ECN bits do not matter");
        assert!(!TcpFlags(TcpFlags::SYN | TcpFlags::ACK).opens());
        assert!(TcpFlags(TcpFlags::SYN | TcpFlags::FIN).nonsense());
        assert!(TcpFlags(0).nonsense());
        assert!(!TcpFlags(TcpFlags::ACK).nonsense());
    }

    proptest! {
        /// Nothing leads back: phases only ever advance.
        #[test]
        fn phases_advance(steps in proptest::collection::vec((0u8..2, any::<u8>()), 0..40)) {
            let rank = |p: Phase| match p { Phase::SYN_SEEN => 0, Phase::ESTABLISHED => 1, Phase::CLOSING => 3, _ => 2 };
            let mut phase = Phase::SYN_SEEN;
            for (direction, flags) in steps {
                let next = phase.after(Direction(direction), TcpFlags(flags));
                prop_assert!(rank(next) >= rank(phase));
                phase = next;
            }
        }

        #[test]
        fn udp_has_no_phases(direction in 0u8..2, flags: u8) {
            prop_assert_eq!(Phase::UDP.after(Direction(direction), TcpFlags(flags)), Phase::UDP);
        }

        /// A flow with traffic at least every half timeout never expires, wherever the clock stands.
        #[test]
        fn traffic_keeps_a_flow_alive(start: u32, timeout in 8u32..1 << 29, gaps in proptest::collection::vec(1u32..100, 1..50)) {
            let mut now = Tick(start);
            let mut expires = now.plus(timeout);
            for gap in gaps {
                now = now.plus(gap * (timeout / 200).max(1) % (timeout / 2).max(1));
                prop_assert!(!expires.passed(now));
                if refresh_due(expires, now, timeout) {
                    expires = now.plus(timeout);
                }
            }
        }

        #[test]
        fn refreshes_are_rare(start: u32, timeout in 16u32..1 << 29) {
            let now = Tick(start);
            prop_assert!(!refresh_due(now.plus(timeout), now, timeout));
            prop_assert!(refresh_due(now.plus(timeout), now.plus((timeout >> 3).min(4096)), timeout));
        }
    }

    #[test]
    fn jiffies_become_ticks() {
        for hz in [100, 250, 300, 1000] {
            let scale = jiffy_scale(1_000_000_000 / hz);
            let start = Tick::from_jiffies(1 << 33, scale);
            let hour = Tick::from_jiffies((1 << 33) + 3600 * hz, scale);
            let ticks = f64::from(hour.remaining(start)) * f64::from(1 << TICK_SHIFT) / 1e9;
            assert!((ticks - 3600.0).abs() < 5.0, "{ticks} s at {hz} Hz");
        }
    }

    #[test]
    fn a_shorter_timeout_takes_effect_at_once() {
        assert!(refresh_due(Tick(1_000_000), Tick(0), 10_000));
    }
}
