//! What is to be reached, in one place. A measurement names the goal that its figure is for; the bounds are here.

use super::figure::{Target, Unit};

/// What is to be reached, and by which figure.
#[derive(Debug, Clone)]
pub(crate) struct Goal {
    /// The figure's name among goals, which readers see.
    pub(crate) key: String,
    /// The bound.
    pub(crate) target: Target,
    /// How the bound is written.
    pub(crate) unit: Unit,
}

/// Numbers of flows at which goals are set.
const FLOWS: [&str; 3] = ["1,000", "100,000", "1,000,000"];
/// Packets of `full-nat` over those of a bare redirect, at these numbers.
const FULL_NAT: [f64; 3] = [0.80, 0.45, 0.40];
/// Nanoseconds inside Katran's balancer (IPIP), at these numbers, on a machine where a program that does nothing shows 23 ns.
const KATRAN: [f64; 3] = [117.0, 291.0, 349.0];
/// Mebibytes of Katran's maps at its defaults, measured beside `lb`.
const KATRAN_MEMORY: f64 = 1306.0;

/// A rate over another's.
pub(crate) fn ratio(one: &str, other: &str, family: &str, flows: &str) -> String {
    format!("{one} to {other}, {family}, {flows} flows")
}

/// Time inside a program.
pub(crate) fn time(contender: &str, family: &str, flows: &str) -> String {
    format!("program time of {contender}, {family}, {flows} flows")
}

/// Flows opened.
pub(crate) fn opening(contender: &str, traffic: &str) -> String {
    format!("new flows, {contender}, {traffic}")
}

/// Program times over IPv6 and IPv4.
pub(crate) fn families(contender: &str) -> String {
    format!("program time of {contender}, IPv6 to IPv4")
}

/// Instructions above the generator's.
pub(crate) fn instructions(path: &str) -> String {
    format!("instructions on Linux 6.1, {path}")
}

/// Processor time above the direct way's, over HAProxy's.
pub(crate) fn http_cpu(contender: &str, pattern: &str) -> String {
    format!("HTTP, {pattern}: CPU above direct, {contender} to HAProxy")
}

/// Requests a second, over those of plain forwarding.
pub(crate) fn http_rate(contender: &str, pattern: &str) -> String {
    format!("HTTP, {pattern}: requests, {contender} to kernel routing")
}

/// From a weight to the flip.
pub(crate) fn flip(what: &str, quantile: &str) -> String {
    format!("flip, {what}, {quantile}")
}

/// Packets of connections in a flood.
pub(crate) fn flood(kind: &str) -> String {
    format!("flood {kind}: connections, between its bursts to before it")
}

/// A packet among many services.
pub(crate) const MANY_SERVICES: &str = "program time, 1,000 services to one";
/// All maps.
pub(crate) const MEMORY: &str = "memory of the maps by default";

/// All goals, in the order in which they are printed.
pub(crate) fn all() -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut add = |key: String, target, unit| goals.push(Goal { key, target, unit });
    let mut at_least = |key, bound, unit| add(key, Target::AtLeast(bound), unit);
    for (flows, bound) in FLOWS.iter().zip(FULL_NAT) {
        at_least(ratio("lb full-nat", "bare redirect", "IPv4", flows), bound, Unit::Ratio);
    }
    for contender in ["lb l2-dsr, moved", "lb ipip, moved"] {
        for flows in FLOWS {
            at_least(ratio(contender, "bare redirect", "IPv4", flows), 0.80, Unit::Ratio);
        }
    }
    for flows in FLOWS {
        at_least(ratio("lb full-nat", "nftables DNAT", "IPv4", flows), 4.0, Unit::Ratio);
    }
    for traffic in ["UDP over IPv4", "TCP over IPv4"] {
        at_least(opening("lb full-nat", traffic), 1e6, Unit::PerSecond);
    }
    for pattern in ["keep-alive", "a connection per request"] {
        for contender in ["lb full-nat", "lb nat"] {
            at_least(http_rate(contender, pattern), 0.95, Unit::Ratio);
        }
    }
    let mut at_most = |key, bound, unit| add(key, Target::AtMost(bound), unit);
    for (pattern, bound) in [("keep-alive", 1.0 / 3.0), ("a connection per request", 1.0 / 6.0)] {
        for contender in ["lb full-nat", "lb nat"] {
            at_most(http_cpu(contender, pattern), bound, Unit::Ratio);
        }
    }
    for (path, bound) in [("lb full-nat", 850.0), ("lb l2-dsr", 600.0)] {
        let path = format!("{path}, established, UDP over IPv4");
        at_most(instructions(&path), bound, Unit::Instructions);
    }
    for (flows, bound) in FLOWS.iter().zip(KATRAN) {
        for contender in ["lb full-nat", "lb l2-dsr", "lb ipip"] {
            at_most(time(contender, "IPv4", flows), bound, Unit::Nanoseconds);
        }
    }
    for contender in ["lb full-nat", "lb nat", "lb l2-dsr", "lb ipip", "lb gue"] {
        at_most(families(contender), 1.15, Unit::Ratio);
    }
    at_most(MANY_SERVICES.to_owned(), 1.05, Unit::Ratio);
    for kind in ["let through", "beyond new-flows-per-core"] {
        at_most(flood(kind), 1.10, Unit::Ratio);
    }
    for (what, bound) in [
        ("equal weights", 1_000.0),
        ("weights from 1 to 10", 1_000.0),
        ("weights from 1 to 256", 1_000.0),
        ("Maglev, 1 service", 2_000.0),
        ("Maglev, 20 services", 2_000.0),
        ("Maglev, 1,000 services", 2_000.0),
    ] {
        for quantile in ["median", "99th percentile"] {
            at_most(flip(what, quantile), bound, Unit::Microseconds);
        }
    }
    at_most(MEMORY.to_owned(), KATRAN_MEMORY, Unit::Mebibytes);
    goals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_goal_is_set_twice() {
        let goals = all();
        let keys: std::collections::HashSet<_> = goals.iter().map(|goal| &goal.key).collect();
        assert_eq!(keys.len(), goals.len());
    }
}
