//! Rules about one service, its health check and its backends.

use std::net::{IpAddr, SocketAddr};

use hyper::http::{HeaderValue, uri::PathAndQuery};

use super::{
    super::{
        error::Problem,
        value::{format_duration, quoted},
    },
    bounds, duplicates, duration_within, flow_timeout, interface_names, within,
};
use crate::{
    model::{
        Backend, Config, FlowTracking, ForwardingMode, HealthCheck, HttpProbe, OnDown, Probe, Protocol, Service,
        SynCookies, VipAddress, endpoint_name,
    },
    plan::maglev::{DEFAULT_SIZE, is_prime},
};

pub(super) fn check(path: &str, service: &Service, config: &Config, problems: &mut Vec<Problem>) {
    if !is_name(&service.name) {
        problems.push(bad_name(&format!("{path}.name"), &service.name, NAME));
    }
    endpoint(&format!("{path}.vip"), service.id.vip, problems);
    vip_interface(path, service, config, problems);
    if service.id.protocol == Protocol::Udp && service.on_down == OnDown::Reset {
        problems.push(
            Problem::new(
                format!("{path}.on-down"),
                "a UDP flow cannot be reset: there is no packet that says so",
            )
            .value(service.on_down)
            .expected("\"move\" or \"keep\" for a UDP service"),
        );
    }
    timeouts(path, service, problems);
    scheduling(path, service, problems);
    health(&format!("{path}.health"), service, problems);
    for (index, backend) in service.backends.iter().enumerate() {
        backend_alone(&format!("{path}.backend[{index}]"), path, backend, service, problems);
    }
    unique_backends(path, service, problems);
}

const NAME: &str = "1 to 64 letters, digits, \".\", \"_\" or \"-\"";

/// Service names hold neither ":" nor "/", so that a name is never mistaken for `VIP:PORT/PROTOCOL`.
fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

fn bad_name(key: &str, name: &str, expected: &str) -> Problem {
    Problem::new(key, format!("{} cannot be a name", quoted(name)))
        .value(name)
        .expected(expected)
}

fn endpoint(key: &str, address: SocketAddr, problems: &mut Vec<Problem>) {
    let zone = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
    if let Some((message, expected)) = unusable_address(address.ip()) {
        problems.push(Problem::new(key, message).value(address).expected(expected));
    } else if zone {
        let problem = Problem::new(key, format!("{address} has a zone, which is not yet supported")).value(address);
        problems.push(problem.expected("a global address without \"%…\""));
    }
}

/// Why no packet can go to or come from an address: what is wrong, and what would be right.
pub(super) fn unusable_address(ip: IpAddr) -> Option<(String, &'static str)> {
    const EXPECTED: &str = "the address of one host";
    let kind = match ip {
        IpAddr::V4(v4) if v4.octets().first() == Some(&0) => "an unspecified address",
        IpAddr::V6(v6) if v6.is_unspecified() => "an unspecified address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        _ if ip.is_multicast() => "a multicast address",
        _ if ip.is_loopback() => "a loopback address, which never leaves the host",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            return Some((
                format!("{ip} is link-local, which is not yet supported"),
                "a global or unique local address",
            ));
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            return Some((
                format!("{ip} is an IPv4 address written as IPv6"),
                "the IPv4 address in dotted form",
            ));
        }
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    };
    Some((format!("{ip} is {kind}"), EXPECTED))
}

fn vip_interface(path: &str, service: &Service, config: &Config, problems: &mut Vec<Problem>) {
    let VipAddress::Add(Some(name)) = &service.vip_address else {
        return;
    };
    let Some(names) = interface_names(config) else {
        return;
    };
    // With VLANs it may be a VLAN device on top of one of them.
    if names.contains(name.as_str()) || names.is_empty() || config.vlans == Some(true) {
        return;
    }
    let known = config
        .interfaces
        .iter()
        .map(|i| format!("\"{}\"", i.name))
        .collect::<Vec<_>>()
        .join(" or ");
    problems.push(
        Problem::new(
            format!("{path}.vip-interface"),
            format!("there is no [[interface]] {}", quoted(name)),
        )
        .value(name)
        .expected(known),
    );
}

fn timeouts(path: &str, service: &Service, problems: &mut Vec<Problem>) {
    let timeouts = &service.timeouts;
    let all = [
        ("tcp-syn", timeouts.tcp_syn),
        ("tcp-established", timeouts.tcp_established),
        ("tcp-fin", timeouts.tcp_fin),
        ("tcp-closing", timeouts.tcp_closing),
        ("udp", timeouts.udp),
    ];
    problems.extend(
        all.iter()
            .filter_map(|(key, timeout)| flow_timeout(&format!("{path}.timeouts.{key}"), *timeout)),
    );
}

fn scheduling(path: &str, service: &Service, problems: &mut Vec<Problem>) {
    let scheduling = &service.scheduling;
    let key = |name: &str| format!("{path}.{name}");
    let spans = [
        ("rehash-window", scheduling.rehash_window),
        ("affinity", scheduling.affinity),
        ("slow-start", scheduling.slow_start),
        ("drain-timeout", scheduling.drain_timeout),
    ];
    for (name, span) in spans {
        duration_within(&key(name), span, &bounds::SPAN, problems);
    }
    if scheduling.one_packet && service.id.protocol == Protocol::Tcp {
        let problem = Problem::new(key("one-packet"), "packets of a TCP connection belong together");
        problems.push(
            problem
                .value(true)
                .expected("protocol = \"udp\" along with it, or false"),
        );
    }
    syn_cookies(&key("syn-cookies"), service, problems);
    flow_tracking(&key("flow-tracking"), service, problems);
    table_size(&key("maglev-table-size"), service, problems);
}

/// Whether packets to a backend change their IP version.
fn crosses(service: &Service, backend: &Backend) -> bool {
    service.id.vip.is_ipv4() != backend.address.is_ipv4()
}

/// Who answers a SYN has to number what the backend says then.
fn syn_cookies(key: &str, service: &Service, problems: &mut Vec<Problem>) {
    let when = service.scheduling.syn_cookies;
    if when == SynCookies::Off {
        return;
    }
    let (message, expected) = if service.id.protocol != Protocol::Tcp {
        ("UDP has no SYN that could be answered".to_owned(), "\"off\"")
    } else if service.mode.direct_return() {
        let message = format!("in mode {} backends answer clients themselves", service.mode);
        (message, "\"off\", or mode = \"full-nat\" or \"nat\"")
    } else if let Some(backend) = service.backends.iter().find(|b| crosses(service, b)) {
        let message = format!("backend {} is not of the VIP's family", backend.address);
        (message, "\"off\", or backends of the VIP's family alone")
    } else {
        return;
    };
    problems.push(Problem::new(key, message).value(when).expected(expected));
}

/// What a flow is stored for besides its backend, only stored flows have.
fn flow_tracking(key: &str, service: &Service, problems: &mut Vec<Problem>) {
    let scheduling = &service.scheduling;
    if scheduling.flow_tracking == FlowTracking::All {
        return;
    }
    let limited = service
        .backends
        .iter()
        .find(|backend| backend.max_connections.is_some());
    let (message, expected) = if !service.scheduler.by_hash() {
        let message = format!(
            "with scheduler {} the packet does not tell its backend",
            service.scheduler
        );
        (message, "\"all\", or scheduler = \"source-hash\" or \"maglev\"")
    } else if !service.mode.direct_return() {
        let message = format!(
            "in mode {} replies come back, which takes a flow for each",
            service.mode
        );
        (message, "\"all\", or mode = \"l2-dsr\", \"ipip\" or \"gue\"")
    } else if !scheduling.affinity.is_zero() {
        let message = "clients with affinity go elsewhere than the table says".to_owned();
        (message, "\"all\", or no `affinity` along with it")
    } else if scheduling.one_packet {
        let message = "datagrams that are scheduled by themselves have no flow".to_owned();
        (message, "\"all\", or no `one-packet` along with it")
    } else if scheduling.rehash_window.is_zero() {
        let message = "with no rehash-window every change would cut connections".to_owned();
        (message, "\"all\", or a `rehash-window` that is not 0")
    } else if let Some(backend) = limited {
        let message = format!(
            "backend {} has max-connections, for which all flows are counted",
            backend.name
        );
        (message, "\"all\", or no `max-connections` along with it")
    } else {
        return;
    };
    let when = scheduling.flow_tracking;
    problems.push(Problem::new(key, message).value(when).expected(expected));
}

fn table_size(key: &str, service: &Service, problems: &mut Vec<Problem>) {
    let size = service.scheduling.maglev_table_size;
    within(key, &size, &bounds::TABLE, problems);
    if !bounds::TABLE.contains(&size) {
        return;
    }
    if !is_prime(size) {
        let next = (size..).find(|n| is_prime(*n)).unwrap_or(DEFAULT_SIZE);
        let problem = Problem::new(key, format!("{size} is not a prime number")).value(size);
        problems.push(problem.expected(format!("a prime number such as {next}")));
    } else if service.scheduler.by_hash() && service.backends.len() > size as usize {
        let problem = Problem::new(key, format!("{size} slots are too few for the backends")).value(size);
        problems.push(problem.expected("a prime number a hundred times the number of backends, or larger"));
    }
}

fn health(path: &str, service: &Service, problems: &mut Vec<Problem>) {
    let check = &service.health;
    let key = |name: &str| format!("{path}.{name}");
    duration_within(&key("interval"), check.interval, &bounds::CHECK_INTERVAL, problems);
    duration_within(
        &key("fast-interval"),
        check.fast_interval,
        &bounds::CHECK_INTERVAL,
        problems,
    );
    duration_within(&key("timeout"), check.timeout, &bounds::CHECK_TIMEOUT, problems);
    duration_within(
        &key("start-jitter"),
        check.start_jitter,
        &bounds::START_JITTER,
        problems,
    );
    within(&key("rise"), &check.rise, &bounds::RISE_FALL, problems);
    within(&key("fall"), &check.fall, &bounds::RISE_FALL, problems);
    if let Some(port) = &check.port {
        within(&key("port"), port, &bounds::PORT, problems);
    }
    fast_interval(path, check, problems);
    let asks_nowhere = check.probe != Probe::None && check.port.is_none();
    let portless = || service.backends.iter().find(|b| b.address.port() == 0);
    if let Some(backend) = portless().filter(|_| asks_nowhere) {
        problems.push(
            Problem::new(
                key("port"),
                format!(
                    "this key is missing: backend `{}` has no port of its own, as the client chooses it",
                    backend.name
                ),
            )
            .expected("a TCP port of the backends that tells their health, or type = \"none\""),
        );
    } else if service.id.protocol == Protocol::Udp && asks_nowhere {
        problems.push(
            Problem::new(
                key("port"),
                "this key is missing: the check talks TCP, and the service is UDP",
            )
            .expected("a TCP port of the backends that tells their health, or type = \"none\""),
        );
    }
    if let Probe::Http(http) = &check.probe {
        http_probe(path, http, problems);
    }
}

fn fast_interval(path: &str, check: &HealthCheck, problems: &mut Vec<Problem>) {
    if check.fast_interval <= check.interval || !bounds::CHECK_INTERVAL.contains(&check.interval) {
        return;
    }
    let (fast, interval) = (format_duration(check.fast_interval), format_duration(check.interval));
    problems.push(
        Problem::new(
            format!("{path}.fast-interval"),
            format!("{fast} is longer than the interval of {interval}"),
        )
        .value(fast)
        .expected(format!("at most {interval}"))
        .related(format!("{path}.interval"), "the interval"),
    );
}

fn http_probe(path: &str, http: &HttpProbe, problems: &mut Vec<Problem>) {
    let key = |name: &str| format!("{path}.{name}");
    if !http.path.starts_with('/') {
        let problem = Problem::new(key("path"), format!("{} does not begin with \"/\"", quoted(&http.path)));
        problems.push(problem.value(&http.path).expected("a path such as \"/healthz\""));
    } else if http.path.contains('#') || PathAndQuery::try_from(http.path.as_str()).is_err() {
        let problem = Problem::new(key("path"), format!("{} is not a path of a URL", quoted(&http.path)));
        problems.push(
            problem
                .value(&http.path)
                .expected("no blanks or \"#\"; other characters as %XX"),
        );
    }
    if let Some(host) = &http.host
        && (host.is_empty() || host.contains(char::is_whitespace) || HeaderValue::from_str(host).is_err())
    {
        let problem = Problem::new(key("host"), format!("{} is not a host name", quoted(host))).value(host);
        problems.push(problem.expected("a name such as \"www.example.org\""));
    }
    let (first, last) = (*http.status.start(), *http.status.end());
    if first > last || first < 100 || last > 599 {
        let problem = Problem::new(
            key("expect-status"),
            format!("{first}-{last} are not HTTP status codes"),
        );
        problems.push(
            problem
                .value(format!("{first}-{last}"))
                .expected("codes such as \"200\" or \"200-399\""),
        );
    }
    if let Some(body) = &http.body
        && !bounds::BODY_BYTES.contains(&body.len())
    {
        let problem = Problem::new(key("expect-body"), format!("the text has {} bytes", body.len())).value(body);
        problems.push(problem.expected(format!(
            "{} to {} bytes",
            bounds::BODY_BYTES.start(),
            bounds::BODY_BYTES.end()
        )));
    }
}

fn backend_alone(path: &str, service_path: &str, backend: &Backend, service: &Service, problems: &mut Vec<Problem>) {
    // An address as the name of another backend would be ambiguous on the command line.
    if !is_name(&backend.name) && backend.name != endpoint_name(backend.address) {
        problems.push(bad_name(
            &format!("{path}.name"),
            &backend.name,
            &format!("{NAME}; or no name"),
        ));
    }
    let key = format!("{path}.address");
    endpoint(&key, backend.address, problems);
    let vip = service.id.vip;
    direct_return_port(&key, service_path, backend, service, problems);
    let crosses = backend.address.is_ipv6() != vip.is_ipv6();
    if crosses && service.mode.tunnels() && vip.is_ipv6() {
        problems.push(
            Problem::new(key, format!("mode {} does not carry IPv6 in IPv4", service.mode))
                .value(backend.address)
                .expected("an IPv6 address; an IPv4 VIP may have backends of either family")
                .related(format!("{service_path}.vip"), "the VIP"),
        );
    } else if crosses && !service.mode.tunnels() && service.mode != ForwardingMode::FullNat {
        let family = if vip.is_ipv6() { "IPv6" } else { "IPv4" };
        let message = format!(
            "in mode {} packets stay in their family, and the VIP is {family}",
            service.mode
        );
        problems.push(
            Problem::new(key, message)
                .value(backend.address)
                .expected(format!("an {family} address, or mode = \"full-nat\""))
                .related(format!("{service_path}.vip"), "the VIP"),
        );
    }
    within(&format!("{path}.weight"), &backend.weight, &bounds::WEIGHT, problems);
    within(&format!("{path}.tier"), &backend.tier, &bounds::TIER, problems);
}

/// A backend that answers clients itself has the VIP's port: nothing translates its answers.
fn direct_return_port(
    key: &str,
    service_path: &str,
    backend: &Backend,
    service: &Service,
    problems: &mut Vec<Problem>,
) {
    let port = backend.address.port();
    let (right, wanted) = if service.has_one_port() {
        let wanted = service.id.vip.port();
        (port == wanted, format!("port {wanted}, or none"))
    } else {
        (port == 0, "no port".to_owned())
    };
    if !service.mode.direct_return() || right {
        return;
    }
    let message = format!(
        "port {port}, where mode {} keeps the client's port: backends answer clients themselves, and nobody translates",
        service.mode
    );
    problems.push(
        Problem::new(key, message)
            .value(backend.address)
            .expected(wanted)
            .related(format!("{service_path}.vip"), "the VIP"),
    );
}

fn unique_backends(path: &str, service: &Service, problems: &mut Vec<Problem>) {
    let addresses = service.backends.iter().map(|backend| backend.address);
    let address_key = |index| format!("{path}.backend[{index}].address");
    duplicates(addresses, address_key, "a backend of this service already", problems);
    // Names made from addresses are duplicates only where the addresses are.
    let named: Vec<(usize, &Backend)> = service
        .backends
        .iter()
        .enumerate()
        .filter(|(_, b)| b.name != endpoint_name(b.address))
        .collect();
    let names = named.iter().map(|(_, backend)| format!("`{}`", backend.name));
    let name_key = |index: usize| {
        let place = named.get(index).map_or(index, |(place, _)| *place);
        format!("{path}.backend[{place}].name")
    };
    duplicates(names, name_key, "the name of another backend of this service", problems);
}
