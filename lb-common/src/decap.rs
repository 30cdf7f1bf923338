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
}

/// How many counters there are.
pub const COUNTERS: u32 = 2;

const _: () = assert!(size_of::<Holder>() == 20);

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya asks for its marker trait on what maps hold")]

    // SAFETY: repr(C) over integers without padding (20 bytes, asserted above).
    unsafe impl aya::Pod for super::Holder {}
    // SAFETY: an integer.
    unsafe impl aya::Pod for super::Role {}
}
