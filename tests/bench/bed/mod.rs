//! The test bed: a chain of devices with a generator at its head, and what can be put in the middle of it.

pub(crate) mod balancer;
pub(crate) mod chain;
pub(crate) mod ipvs;
pub(crate) mod lanes;
pub(crate) mod nftables;
pub(crate) mod routing;
pub(crate) mod traffic;
