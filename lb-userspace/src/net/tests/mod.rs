//! The network side against the real kernel, in network namespaces of the tests' own. They need root.

mod lab;
mod links;
mod next_hops;
mod vips;
