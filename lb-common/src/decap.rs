//! What backends share with the program that unwraps tunnelled packets there (`lb backend-setup`): a program of its own,
//! never part of the packet path.

use crate::net::AnyAddr;

/// An address of the backend.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Holder {
    /// The address.
    pub address: AnyAddr,
    /// IP version, 4 or 6.
    pub family: u32,
}

/// What an address is to the backend, a bit each.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Role(pub u32);

impl Role {
    /// Its own: tunnels end here.
    pub const HOST: u32 = 1;
    /// A VIP: what comes out of a tunnel may be addressed to it.
    pub const VIP: u32 = 2;

    /// Whether it has a role.
    #[inline(always)]
    #[must_use]
    pub const fn is(self, role: u32) -> bool {
        self.0 & role != 0
    }
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Counter {
    /// Packets that were unwrapped.
    Unwrapped,
    /// Tunnelled packets to this host that were left alone, because what they carry is for no VIP of it.
    NotForVip,
    /// Packets that were dropped, because a router marked congestion on one whose sender would not understand that.
    Congested,
}

/// How many counters there are.
pub const COUNTERS: u32 = 3;

/// Bits of the ECN field in the DSCP and ECN byte (RFC 3168).
const ECN: u8 = 3;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const CONGESTED: u8 = 3;

/// DSCP and ECN of a packet that comes out of a tunnel, from those of the outer header and its own: the marks that routers made
/// on the way are kept (RFC 6040, section 4.2). `None`: to be dropped, which is how a sender that does not know ECN learns of
/// congestion.
#[inline(always)]
#[must_use]
pub const fn class(outer: u8, inner: u8) -> Option<u8> {
    match (outer & ECN, inner & ECN) {
        (CONGESTED, NOT_ECT) => None,
        (_, NOT_ECT) => Some(inner),
        (CONGESTED, _) => Some(inner | CONGESTED),
        (ECT_1, ecn) if ecn != CONGESTED => Some(inner & !ECN | ECT_1),
        _ => Some(inner),
    }
}

const _: () = assert!(size_of::<Holder>() == 20);

#[cfg(test)]
mod tests {
    use super::*;

    /// Figure 4 of RFC 6040: rows are inner fields, columns outer ones, each in the order Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn it_is_the_table_of_the_rfc() {
        const ORDER: [u8; 4] = [0b00, 0b10, 0b01, 0b11];
        const DROP: Option<u8> = None;
        let table = [
            [Some(0b00), Some(0b00), Some(0b00), DROP],
            [Some(0b10), Some(0b10), Some(0b01), Some(0b11)],
            [Some(0b01), Some(0b01), Some(0b01), Some(0b11)],
            [Some(0b11), Some(0b11), Some(0b11), Some(0b11)],
        ];
        for (inner, row) in ORDER.into_iter().zip(table) {
            for (outer, expected) in ORDER.into_iter().zip(row) {
                for dscp in [0, 0b1010_1000, 0b1111_1100] {
                    let out = class(!dscp & !3 | outer, dscp | inner);
                    assert_eq!(out, expected.map(|ecn| dscp | ecn), "{outer:02b} around {inner:02b}");
                }
            }
        }
    }
}

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya asks for its marker trait on what maps hold")]

    // SAFETY: repr(C) over integers without padding (20 bytes, asserted above).
    unsafe impl aya::Pod for super::Holder {}
    // SAFETY: an integer.
    unsafe impl aya::Pod for super::Role {}
}
