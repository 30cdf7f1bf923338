//! The life of a flow: time, TCP phases, and when an entry of the flow table is refreshed.

use crate::abi::Mode;

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
    /// The handshake is complete.
    pub const ESTABLISHED: Self = Self(1);
    /// The client sent FIN; the backend may go on sending.
    pub const CLIENT_FIN: Self = Self(2);
    /// The backend sent FIN; the client may go on sending.
    pub const BACKEND_FIN: Self = Self(3);
    /// Both sent FIN, or one sent RST.
    pub const CLOSING: Self = Self(4);
    /// A UDP flow of several datagrams.
    pub const UDP: Self = Self(5);
    /// The backend answered the client's SYN.
    pub const SYN_ANSWERED: Self = Self(6);
    /// A UDP flow of one datagram so far.
    pub const UDP_NEW: Self = Self(7);

    /// Whether the flow is not known to be real yet: one forged packet can have made it.
    #[inline(always)]
    #[must_use]
    pub const fn is_half_open(self) -> bool {
        matches!(self, Self::SYN_SEEN | Self::SYN_ANSWERED | Self::UDP_NEW)
    }

    /// The phase of a flow that is taken up by a segment in the middle of its connection.
    #[inline(always)]
    #[must_use]
    pub const fn taken_up(flags: TcpFlags) -> Self {
        Self::ESTABLISHED.after(Direction::TO_BACKEND, flags)
    }

    /// The phase of an established flow after a segment.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, direction: Direction, flags: TcpFlags) -> Self {
        const ENDS: u8 = TcpFlags::FIN | TcpFlags::RST;
        match self {
            Self::UDP | Self::CLOSING => self,
            _ if !flags.any(ENDS) => self,
            _ if flags.any(TcpFlags::RST) => Self::CLOSING,
            _ => match (self, direction) {
                (Self::BACKEND_FIN, Direction::TO_BACKEND) | (Self::CLIENT_FIN, Direction::TO_CLIENT) => Self::CLOSING,
                (_, Direction::TO_BACKEND) => Self::CLIENT_FIN,
                _ => Self::BACKEND_FIN,
            },
        }
    }

    /// Whether a client's SYN begins another flow. Where the backend's FIN is not seen, the client's has to do: a client that
    /// uses its port again has done with the connection.
    #[inline(always)]
    #[must_use]
    pub const fn replaceable(self, mode: Mode) -> bool {
        match self {
            Self::CLOSING => true,
            Self::CLIENT_FIN => !mode.sees_replies(),
            _ => false,
        }
    }

    /// Its name in `lb flows`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SYN_SEEN => "syn-seen",
            Self::SYN_ANSWERED => "syn-answered",
            Self::ESTABLISHED => "established",
            Self::CLIENT_FIN => "client-fin",
            Self::BACKEND_FIN => "backend-fin",
            Self::CLOSING => "closing",
            Self::UDP_NEW => "udp-new",
            Self::UDP => "udp",
            _ => "unknown",
        }
    }

    /// Every phase, in the order of a flow's life.
    pub const ALL: [Self; 8] = [
        Self::SYN_SEEN,
        Self::SYN_ANSWERED,
        Self::ESTABLISHED,
        Self::CLIENT_FIN,
        Self::BACKEND_FIN,
        Self::CLOSING,
        Self::UDP_NEW,
        Self::UDP,
    ];
}

/// Where the opening of a flow stands.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opening {
    /// The flow's phase.
    pub phase: Phase,
    /// In [`Phase::SYN_ANSWERED`], what the client acknowledges next: the number after the backend's SYN.
    pub answer: u32,
}

/// What of a packet counts while its flow opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Which way it goes.
    pub direction: Direction,
    /// TCP flags; none of UDP.
    pub flags: TcpFlags,
    /// TCP's sequence number.
    pub seq: u32,
    /// TCP's acknowledgement number.
    pub ack: u32,
}

/// A client's first acknowledgement is less than this beyond the backend's SYN: with TCP Fast Open a server sends data, an
/// initial window of it, before it comes (RFC 7413).
const EARLY_DATA: u32 = 1 << 16;

impl Opening {
    /// Where it stands after a packet. A handshake is complete when the client shows that it got the backend's SYN, by
    /// acknowledging its number, which the sender of a forged SYN does not know. `sees_replies` is false where the backend
    /// answers the client itself; there the client's acknowledgement alone counts.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, step: Step, sees_replies: bool) -> Self {
        if matches!(self.phase, Phase::UDP_NEW) {
            return self.to(Phase::UDP);
        }
        match step.direction {
            Direction::TO_CLIENT => self.after_backend(step),
            _ => self.after_client(step, sees_replies),
        }
    }

    #[inline(always)]
    const fn after_backend(self, step: Step) -> Self {
        const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;
        match (self.phase, step.flags.0 & (SYN_ACK | TcpFlags::RST)) {
            (Phase::SYN_SEEN | Phase::SYN_ANSWERED, SYN_ACK) => Self {
                phase: Phase::SYN_ANSWERED,
                answer: step.seq.wrapping_add(1),
            },
            (_, flags) if flags & TcpFlags::RST != 0 => self.to(Phase::CLOSING),
            _ => self,
        }
    }

    #[inline(always)]
    const fn after_client(self, step: Step, sees_replies: bool) -> Self {
        let rst = step.flags.any(TcpFlags::RST);
        let acknowledges = step.flags.0 & (TcpFlags::ACK | TcpFlags::SYN | TcpFlags::RST) == TcpFlags::ACK;
        let complete = match self.phase {
            Phase::SYN_ANSWERED => step.ack.wrapping_sub(self.answer) < EARLY_DATA,
            Phase::SYN_SEEN => !sees_replies,
            _ => false,
        };
        match self.phase {
            _ if acknowledges && complete && step.flags.any(TcpFlags::FIN) => self.to(Phase::CLIENT_FIN),
            _ if acknowledges && complete => self.to(Phase::ESTABLISHED),
            // One that gets the acknowledgement of an older connection through the same ports (its server is in TIME-WAIT)
            // answers with RST and repeats its SYN: the handshake goes on (RFC 9293, section 3.10.7.3).
            Phase::SYN_ANSWERED if rst => self.to(Phase::CLOSING),
            Phase::SYN_SEEN if rst && !sees_replies => self.to(Phase::CLOSING),
            _ => self,
        }
    }

    #[inline(always)]
    const fn to(self, phase: Phase) -> Self {
        Self { phase, ..self }
    }
}

/// Idle timeouts, in ticks.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// [`Phase::SYN_SEEN`] and [`Phase::SYN_ANSWERED`].
    pub syn: u32,
    /// [`Phase::ESTABLISHED`].
    pub established: u32,
    /// The half-closed phases. As long as `established` where both directions are seen, since one side may still send
    /// for long.
    pub fin: u32,
    /// [`Phase::CLOSING`].
    pub closing: u32,
    /// [`Phase::UDP`] and [`Phase::UDP_NEW`].
    pub udp: u32,
}

impl Timeouts {
    /// How long a flow may be idle in a phase.
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, phase: Phase) -> u32 {
        match phase {
            Phase::SYN_SEEN | Phase::SYN_ANSWERED => self.syn,
            Phase::CLOSING => self.closing,
            Phase::UDP | Phase::UDP_NEW => self.udp,
            Phase::CLIENT_FIN | Phase::BACKEND_FIN => self.fin,
            _ => self.established,
        }
    }
}

/// An entry is refreshed at least this often if packets come: about 17 seconds. An LRU map takes entries that were not
/// looked up for long for idle ones.
pub const LONGEST_STEP: u32 = 1 << 14;

/// How long packets leave the expiry of a flow as it is, after one that moved it: a quarter of the timeout, or less, so that most
/// packets write nothing, and need nothing of the flow but a copy ([`crate::flow_cache`]).
#[inline(always)]
#[must_use]
pub const fn refresh_step(timeout: u32) -> u32 {
    if timeout >> 2 < LONGEST_STEP {
        timeout >> 2
    } else {
        LONGEST_STEP
    }
}

/// Whether a packet at `now` should move the expiry of a flow on.
#[inline(always)]
#[must_use]
pub const fn refresh_due(expires: Tick, now: Tick, timeout: u32) -> bool {
    let step = refresh_step(timeout);
    let remaining = expires.remaining(now).cast_unsigned();
    remaining > timeout || timeout - remaining >= step
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: Direction = Direction::TO_BACKEND;
    const BACKEND: Direction = Direction::TO_CLIENT;

    /// Sequence numbers of the two sides' SYNs.
    const OURS: u32 = 0x0102_0304;
    const THEIRS: u32 = u32::MAX;

    /// The phase after segments with the numbers of a sound handshake.
    fn walk(steps: &[(Direction, u8)]) -> Phase {
        let numbers = |direction| match direction {
            CLIENT => (OURS.wrapping_add(1), THEIRS.wrapping_add(1)),
            _ => (THEIRS, OURS.wrapping_add(1)),
        };
        let step = |direction, flags| {
            let (seq, ack) = numbers(direction);
            Step {
                direction,
                flags: TcpFlags(flags),
                seq,
                ack,
            }
        };
        let steps = steps.iter().map(|(direction, flags)| step(*direction, *flags));
        follow(NEW, steps, true).phase
    }

    const NEW: Opening = Opening {
        phase: Phase::SYN_SEEN,
        answer: 0,
    };

    fn follow(opening: Opening, steps: impl IntoIterator<Item = Step>, sees_replies: bool) -> Opening {
        steps.into_iter().fold(opening, |at, step| {
            if at.phase.is_half_open() {
                at.after(step, sees_replies)
            } else {
                at.to(at.phase.after(step.direction, step.flags))
            }
        })
    }

    #[test]
    fn a_connection_opens_and_closes() {
        use TcpFlags as F;
        let open = [(BACKEND, F::SYN | F::ACK), (CLIENT, F::ACK)];
        assert_eq!(walk(&open[..1]), Phase::SYN_ANSWERED);
        assert_eq!(
            walk(&[open[0], open[0], (CLIENT, F::SYN)]),
            Phase::SYN_ANSWERED,
            "repeated"
        );
        assert_eq!(walk(&open), Phase::ESTABLISHED);
        assert_eq!(
            walk(&[open[0], (CLIENT, F::FIN | F::ACK)]),
            Phase::CLIENT_FIN,
            "at once"
        );
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
        assert_eq!(
            walk(&[open[0], (CLIENT, F::RST)]),
            Phase::CLOSING,
            "it wants no connection"
        );
    }

    #[test]
    fn what_a_forger_can_send_completes_no_handshake() {
        use TcpFlags as F;
        assert_eq!(walk(&[(CLIENT, F::ACK), (CLIENT, F::ACK | F::PSH)]), Phase::SYN_SEEN);
        assert_eq!(walk(&[(BACKEND, F::ACK), (CLIENT, F::ACK)]), Phase::SYN_SEEN);
        let answered = NEW.after(
            Step {
                direction: BACKEND,
                flags: TcpFlags(F::SYN | F::ACK),
                seq: THEIRS,
                ack: 0,
            },
            true,
        );
        let guess = |ack| {
            let step = Step {
                direction: CLIENT,
                flags: TcpFlags(F::ACK),
                seq: OURS,
                ack,
            };
            answered.after(step, true).phase
        };
        assert_eq!(guess(THEIRS), Phase::SYN_ANSWERED);
        assert_eq!(guess(THEIRS.wrapping_add(1)), Phase::ESTABLISHED);
        assert_eq!(
            guess(THEIRS.wrapping_add(14_600)),
            Phase::ESTABLISHED,
            "data before the handshake's end"
        );
        assert_eq!(guess(THEIRS.wrapping_add(1 << 20)), Phase::SYN_ANSWERED);
    }

    #[test]
    fn without_replies_the_clients_acknowledgement_counts() {
        let ack = |flags| Step {
            direction: CLIENT,
            flags: TcpFlags(flags),
            seq: 0,
            ack: 0,
        };
        assert_eq!(NEW.after(ack(TcpFlags::ACK), false).phase, Phase::ESTABLISHED);
        assert_eq!(NEW.after(ack(TcpFlags::SYN), false).phase, Phase::SYN_SEEN);
        assert_eq!(NEW.after(ack(TcpFlags::RST), false).phase, Phase::CLOSING);
    }

    #[test]
    fn a_handshake_survives_the_leftovers_of_an_older_connection() {
        use TcpFlags as F;
        let challenged = [(BACKEND, F::ACK), (CLIENT, F::RST), (CLIENT, F::SYN)];
        assert_eq!(walk(&challenged), Phase::SYN_SEEN);
    }

    #[test]
    fn a_retransmitted_fin_does_not_close_the_other_side() {
        use TcpFlags as F;
        let fin = (CLIENT, F::FIN | F::ACK);
        assert_eq!(
            walk(&[(BACKEND, F::SYN | F::ACK), (CLIENT, F::ACK), fin, fin]),
            Phase::CLIENT_FIN
        );
    }

    #[test]
    fn phases_have_names() {
        let names: std::collections::HashSet<_> = Phase::ALL.iter().map(|phase| phase.as_str()).collect();
        assert_eq!(names.len(), Phase::ALL.len());
        assert!(!names.contains("unknown"));
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
        fn phases_advance(
            steps in proptest::collection::vec((0u8..2, any::<u8>(), 0u32..3, 0u32..3), 0..40),
            sees_replies: bool,
        ) {
            let rank = |p: Phase| match p {
                Phase::SYN_SEEN => 0,
                Phase::SYN_ANSWERED => 1,
                Phase::ESTABLISHED => 2,
                Phase::CLOSING => 4,
                _ => 3,
            };
            let mut at = NEW;
            for (direction, flags, seq, ack) in steps {
                let step = Step { direction: Direction(direction), flags: TcpFlags(flags), seq, ack };
                let next = follow(at, [step], sees_replies);
                prop_assert!(rank(next.phase) >= rank(at.phase));
                at = next;
            }
        }

        /// A second datagram, either way, shows that there is a flow.
        #[test]
        fn udp_has_two_phases(direction in 0u8..2, flags: u8, sees_replies: bool) {
            let step = Step { direction: Direction(direction), flags: TcpFlags(flags), seq: 0, ack: 0 };
            let new = Opening { phase: Phase::UDP_NEW, answer: 0 };
            prop_assert_eq!(new.after(step, sees_replies).phase, Phase::UDP);
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
            prop_assert!(refresh_due(now.plus(timeout), now.plus((timeout >> 2).min(1 << 14)), timeout));
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
