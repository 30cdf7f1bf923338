//! Rules that depend on the host, not on the configuration alone.

use std::{fs, io, ops::RangeInclusive};

use super::error::{ConfigErrors, Problem};
use crate::model::Config;

const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Checks that the source ports of `full-nat` are not those that the kernel gives to the host's own connections, for
/// IPv4 and IPv6 alike: the packet path would take such a connection's packets for replies of backends.
///
/// # Errors
/// [`ConfigErrors`] that name the range and how to mend it.
pub fn check_source_ports(config: &Config, ephemeral: &RangeInclusive<u16>) -> Result<(), ConfigErrors> {
    let ports = &config.full_nat.source_ports;
    let (first, last) = (ports.start().max(ephemeral.start()), ports.end().min(ephemeral.end()));
    if first > last {
        return Ok(());
    }
    let written = format!("{}-{}", ports.start(), ports.end());
    let message = format!(
        "{written} overlaps the kernel's own ports {}-{} (net.ipv4.ip_local_port_range) in {first}-{last}",
        ephemeral.start(),
        ephemeral.end()
    );
    let problem = Problem::new("full-nat.source-ports", message)
        .value(written)
        .expected(advice(ports, ephemeral));
    ConfigErrors::check(vec![problem])
}

/// The larger part of the source ports that can stay; else, that the kernel must give way.
fn advice(ports: &RangeInclusive<u16>, ephemeral: &RangeInclusive<u16>) -> String {
    let below = (*ports.start(), ephemeral.start().saturating_sub(1).min(*ports.end()));
    let above = (ephemeral.end().saturating_add(1).max(*ports.start()), *ports.end());
    let size = |(first, last): (u16, u16)| (u32::from(last) + 1).saturating_sub(u32::from(first));
    let above_size = if *ephemeral.end() == u16::MAX { 0 } else { size(above) };
    let (rest, rest_size) = if size(below) >= above_size {
        (below, size(below))
    } else {
        (above, above_size)
    };
    let sysctl = "the kernel's range moved by `sysctl net.ipv4.ip_local_port_range=\"FIRST LAST\"`";
    if rest_size == 0 {
        format!("ports outside of it, or {sysctl}")
    } else {
        format!("source-ports = \"{}-{}\", or {sysctl}", rest.0, rest.1)
    }
}

/// The ports that the kernel gives to the host's own connections.
///
/// # Errors
/// When `/proc` cannot be read, or does not hold two port numbers there.
pub fn ephemeral_ports() -> io::Result<RangeInclusive<u16>> {
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("cannot read {EPHEMERAL}: {error}"));
    parse_ephemeral(&fs::read_to_string(EPHEMERAL).map_err(explain)?).ok_or_else(|| {
        explain(io::Error::new(
            io::ErrorKind::InvalidData,
            "it does not hold two port numbers",
        ))
    })
}

fn parse_ephemeral(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (Some(Ok(first)), Some(Ok(last)), None) = (numbers.next(), numbers.next(), numbers.next()) else {
        return None;
    };
    Some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn config(ports: &str) -> Config {
        let text = format!("[[interface]]\nname = \"eth0\"\n[full-nat]\nsource-ports = \"{ports}\"\n");
        parse("lb.toml", &text).unwrap()
    }

    #[test]
    fn disjoint_ranges_are_fine() {
        for ports in ["2048-32767", "61000-65535", "61000"] {
            check_source_ports(&config(ports), &(32768..=60999)).unwrap();
        }
    }

    #[test]
    fn an_overlap_names_the_range_and_the_way_out() {
        let message = |ports, ephemeral| check_source_ports(&config(ports), &ephemeral).unwrap_err().to_string();
        insta::assert_snapshot!(message("2048-40000", 32768..=60999));
        assert!(message("50000-65535", 32768..=60999).contains("source-ports = \"61000-65535\""));
        assert!(message("2048-65535", 32768..=60999).contains("source-ports = \"2048-32767\""));
        assert!(message("40000-50000", 32768..=60999).contains("expected ports outside of it, or"));
        assert!(message("1024-65535", 1024..=65535).contains("expected ports outside of it, or"));
    }

    #[test]
    fn the_kernels_range_is_read() {
        assert_eq!(parse_ephemeral("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse_ephemeral("32768"), None);
        assert_eq!(parse_ephemeral("32768 99999"), None);
        let range = ephemeral_ports().unwrap();
        assert!(range.start() <= range.end());
    }
}
