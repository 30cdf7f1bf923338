//! Rules about the instance, its interfaces, limits and source addresses.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use super::{
    super::{error::Problem, value::quoted},
    bounds, duplicates, duration_as_expected,
    pool::unusable_address,
    within,
};
use crate::model::{Backend, Config, ForwardingMode, FullNat, TunnelSource};

pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    instance(&config.instance, problems);
    for (key, path) in [
        ("state-dir", &config.state_dir),
        ("socket", &config.socket),
        ("bpffs", &config.bpffs),
    ] {
        absolute(key, path, problems);
    }
    socket_length(&config.socket, problems);
    if !config.neighbour_poll.is_zero() {
        let expected = "0s, which turns it off, or 100ms to 7days";
        duration_as_expected(
            "neighbour-poll",
            config.neighbour_poll,
            &bounds::NEIGHBOUR_POLL,
            expected,
            problems,
        );
    }
    interfaces(config, problems);
    limits(config, problems);
    source_ports(&config.full_nat, problems);
    source_addresses(config, problems);
    tunnel(config, problems);
}

fn instance(name: &str, problems: &mut Vec<Problem>) {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=32).contains(&name.len()) && name.chars().all(fits) {
        return;
    }
    let problem = Problem::new("instance", format!("{} is not a name for an instance", quoted(name))).value(name);
    problems.push(problem.expected("1 to 32 of a-z, 0-9 and \"-\""));
}

fn absolute(key: &str, path: &Path, problems: &mut Vec<Problem>) {
    // The default of the socket follows from the state directory.
    let inherited = |p: &Problem| p.key == "state-dir";
    if path.is_absolute() || (key == "socket" && problems.iter().any(inherited)) {
        return;
    }
    let message = format!("{} is not an absolute path", quoted(path.display()));
    problems.push(
        Problem::new(key, message)
            .value(path.display())
            .expected("a path that begins with \"/\""),
    );
}

fn socket_length(path: &Path, problems: &mut Vec<Problem>) {
    let length = path.as_os_str().len();
    if length > bounds::SOCKET_PATH_BYTES {
        let message = format!("the path of the socket has {length} bytes");
        let expected = format!("at most {} bytes, a limit of the kernel", bounds::SOCKET_PATH_BYTES);
        problems.push(Problem::new("socket", message).value(path.display()).expected(expected));
    }
}

fn interfaces(config: &Config, problems: &mut Vec<Problem>) {
    if config.interfaces.is_empty() {
        let problem = Problem::new("interface", "there is no interface to attach to");
        problems.push(problem.expected("at least one [[interface]] with a name, such as name = \"eth0\""));
    }
    let key_of = |index| format!("interface[{index}].name");
    for (index, interface) in config.interfaces.iter().enumerate() {
        let name = interface.name.as_str();
        let fits = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
        let sized = (1..=bounds::INTERFACE_NAME_BYTES).contains(&name.len());
        if sized && name != "." && name != ".." && name.chars().all(fits) {
            continue;
        }
        let problem = Problem::new(
            key_of(index),
            format!("{} cannot be the name of an interface", quoted(name)),
        );
        let expected = "a name as `ip link` shows it, of 1 to 15 bytes";
        problems.push(problem.value(name).expected(expected));
    }
    let names = config.interfaces.iter().map(|interface| interface.name.as_str());
    duplicates(names, key_of, "given twice", problems);
}

fn limits(config: &Config, problems: &mut Vec<Problem>) {
    let limits = &config.limits;
    within("limits.flows-ipv4", &limits.flows_ipv4, &bounds::FLOWS, problems);
    within("limits.flows-ipv6", &limits.flows_ipv6, &bounds::FLOWS, problems);
    within("limits.flows-mixed", &limits.flows_mixed, &bounds::FLOWS, problems);
    let (ipv4, ipv6) = (&limits.half_open_ipv4, &limits.half_open_ipv6);
    within("limits.half-open-ipv4", ipv4, &bounds::FLOWS, problems);
    within("limits.half-open-ipv6", ipv6, &bounds::FLOWS, problems);
    within("limits.services", &limits.services, &bounds::SERVICES, problems);
    within(
        "limits.service-ports",
        &limits.service_ports,
        &bounds::SERVICE_PORTS,
        problems,
    );
    within("limits.backends", &limits.backends, &bounds::BACKENDS, problems);
    let new_flows = &limits.new_flows_per_core;
    within("limits.new-flows-per-core", new_flows, &bounds::NEW_FLOWS, problems);
    let above = &limits.syn_cookies_above;
    within("limits.syn-cookies-above", above, &bounds::SYN_COOKIES_ABOVE, problems);
    within(
        "limits.icmp-per-second",
        &limits.icmp_per_second,
        &bounds::ICMP_PER_SECOND,
        problems,
    );
}

fn source_ports(full_nat: &FullNat, problems: &mut Vec<Problem>) {
    let (first, last) = (*full_nat.source_ports.start(), *full_nat.source_ports.end());
    let value = format!("{first}-{last}");
    let problem = |message: String, expected: &str| {
        Problem::new("full-nat.source-ports", message)
            .value(&value)
            .expected(expected)
    };
    if first > last {
        problems.push(problem(format!("{value} holds no port"), "the lowest port first"));
    } else if first < bounds::LOWEST_SOURCE_PORT {
        let message = format!("{value} reaches below port {}", bounds::LOWEST_SOURCE_PORT);
        problems.push(problem(message, "ports from 1024 on, such as \"2048-32767\""));
    }
}

fn source_addresses(config: &Config, problems: &mut Vec<Problem>) {
    let addresses = &config.full_nat.source_addresses;
    let key_of = |index| format!("full-nat.source-addresses[{index}]");
    for (index, address) in addresses.iter().enumerate() {
        if let Some((message, expected)) = unusable_address(*address) {
            problems.push(Problem::new(key_of(index), message).value(address).expected(expected));
        }
    }
    duplicates(addresses.iter(), key_of, "given twice", problems);
    missing_family(config, problems);
    for (index, service) in config.services.iter().enumerate() {
        let vip = service.id.vip;
        let Some(place) = addresses.iter().position(|address| *address == vip.ip()) else {
            continue;
        };
        let ports = &config.full_nat.source_ports;
        let Some(port) = ports.clone().find(|port| service.covers_port(*port)) else {
            continue;
        };
        let name = &service.name;
        let message = format!(
            "{} is also the VIP of service `{name}`, whose port {port} lies within source-ports {}-{}: \
             replies of backends could not be told from requests of clients",
            vip.ip(),
            ports.start(),
            ports.end()
        );
        problems.push(
            Problem::new(key_of(place), message)
                .value(vip.ip())
                .expected("another address, or source-ports without that port")
                .related(format!("service[{index}].vip"), "the VIP"),
        );
    }
}

/// Outer sources of tunnels: one for each family, and never a VIP.
fn tunnel(config: &Config, problems: &mut Vec<Problem>) {
    let tunnel = &config.tunnel;
    within("tunnel.port", &tunnel.port, &bounds::PORT, problems);
    for (index, source) in tunnel.sources.iter().enumerate() {
        let key = format!("tunnel.sources[{index}]");
        let problem = |message: String, expected: String| Problem::new(&key, message).value(source).expected(expected);
        if let Some((message, expected)) = unusable_address(source.base) {
            problems.push(problem(message, expected.to_owned()));
        } else if let Some(base) = first_of(source).filter(|base| *base != source.base) {
            let message = format!("{source} has bits set behind its prefix");
            problems.push(problem(message, format!("{base}/{}", source.prefix)));
        }
        let same_family = |other: &TunnelSource| other.base.is_ipv4() == source.base.is_ipv4();
        let first = tunnel.sources.iter().position(same_family).unwrap_or(index);
        if first != index {
            let problem = problem(
                format!("{source} is a second source of its family"),
                "one for IPv4 and one for IPv6".to_owned(),
            );
            problems.push(
                problem
                    .related(format!("tunnel.sources[{first}]"), "the first one")
                    .conflict(),
            );
        }
    }
}

/// The first address of a prefix.
fn first_of(source: &TunnelSource) -> Option<IpAddr> {
    let host_bits = u32::from(TunnelSource::bits(source.base).checked_sub(source.prefix)?);
    Some(match source.base {
        IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() & u32::MAX.checked_shl(host_bits).unwrap_or(0)).into(),
        IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() & u128::MAX.checked_shl(host_bits).unwrap_or(0)).into(),
    })
}

/// A list that has addresses, but none of the family of some backends; told once, for the first such service.
fn missing_family(config: &Config, problems: &mut Vec<Problem>) {
    let addresses = &config.full_nat.source_addresses;
    if addresses.is_empty() || addresses.iter().any(IpAddr::is_unspecified) {
        return;
    }
    let lacks = |backend: &Backend| {
        let to = backend.address.ip();
        !to.is_unspecified() && addresses.iter().all(|address| address.is_ipv6() != to.is_ipv6())
    };
    let services = config.services.iter().enumerate();
    let mut full_nat = services.filter(|(_, service)| service.mode == ForwardingMode::FullNat);
    let lacking = full_nat.find_map(|(index, service)| {
        let place = service.backends.iter().position(lacks)?;
        Some((index, service, place, service.backends.get(place)?))
    });
    let Some((index, service, place, backend)) = lacking else {
        return;
    };
    let (family, other) = if backend.address.is_ipv6() {
        ("IPv6", "IPv4")
    } else {
        ("IPv4", "IPv6")
    };
    let message = format!(
        "service `{}` has {family} backends, and the source addresses are all {other}",
        service.name
    );
    problems.push(
        Problem::new("full-nat.source-addresses", message)
            .expected(format!(
                "an {family} address as well, or no list: then the kernel's route decides"
            ))
            .related(format!("service[{index}].backend[{place}].address"), "this backend"),
    );
}
