//! The file as a whole, and its sections other than services.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use toml::de::DeTable;

use super::{
    DEFAULT_STATE_DIR,
    rules::{self, bounds},
    section::{Section, Sink},
    service, value,
};
use crate::model::{Config, FullNat, Interface, Limits, Timeouts, Tunnel, TunnelSource, XdpMode};

/// Stands in for an address that could not be read; rules about it are not reported.
pub(super) const NO_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

const DURATION: &str = "a duration such as \"500ms\", \"2s\" or \"1h 30m\"";

/// Reads a whole document. What is wrong goes to the sink; what could not be read has its default or a stand-in.
pub(super) fn read<'a>(document: &'a DeTable<'a>, sink: &'a Sink) -> Config {
    let mut root = Section::root(document, sink);
    let instance = root.string("instance", "a name").unwrap_or("default").to_owned();
    let state_dir = path(&mut root, "state-dir").unwrap_or_else(|| DEFAULT_STATE_DIR.into());
    let socket = path(&mut root, "socket").unwrap_or_else(|| state_dir.join(format!("{instance}.sock")));
    let bpffs = path(&mut root, "bpffs").unwrap_or_else(|| "/sys/fs/bpf".into());
    let vlans = root.boolean("vlans");
    let neighbour_poll = duration(&mut root, "neighbour-poll").unwrap_or(Config::NEIGHBOUR_POLL);
    let interfaces = root.tables("interface").into_iter().map(interface).collect();
    let limits = limits(root.table("limits"));
    let full_nat = full_nat(root.table("full-nat"));
    let tunnel = tunnel(root.table("tunnel"));
    let timeouts = timeouts(root.table("timeouts"), Timeouts::default());
    let services = root
        .tables("service")
        .into_iter()
        .map(|s| service::read(s, timeouts))
        .collect();
    root.finish();
    Config {
        instance,
        socket,
        bpffs,
        state_dir,
        vlans,
        interfaces,
        limits,
        full_nat,
        tunnel,
        neighbour_poll,
        services,
    }
}

fn path(root: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    root.string(key, "an absolute path in quotation marks")
        .map(PathBuf::from)
}

fn interface(mut section: Section<'_>) -> Interface {
    let interface = Interface {
        name: required_string(
            &mut section,
            "name",
            "the name of a network interface, such as \"eth0\"",
        ),
        xdp: section
            .choice(
                "xdp",
                &[
                    ("auto", XdpMode::Auto),
                    ("native", XdpMode::Native),
                    ("generic", XdpMode::Generic),
                ],
            )
            .unwrap_or_default(),
    };
    section.finish();
    interface
}

fn limits(mut section: Section<'_>) -> Limits {
    let default = Limits::default();
    let services = section
        .integer("services", &bounds::SERVICES)
        .unwrap_or(default.services);
    let limits = Limits {
        flows_ipv4: section
            .integer("flows-ipv4", &bounds::FLOWS)
            .unwrap_or(default.flows_ipv4),
        flows_ipv6: section
            .integer("flows-ipv6", &bounds::FLOWS)
            .unwrap_or(default.flows_ipv6),
        flows_mixed: section
            .integer("flows-mixed", &bounds::FLOWS)
            .unwrap_or(default.flows_mixed),
        half_open_ipv4: section
            .integer("half-open-ipv4", &bounds::FLOWS)
            .unwrap_or(default.half_open_ipv4),
        half_open_ipv6: section
            .integer("half-open-ipv6", &bounds::FLOWS)
            .unwrap_or(default.half_open_ipv6),
        services,
        // Room for more services alone is not to be an error about a key that nobody wrote.
        service_ports: section
            .integer("service-ports", &bounds::SERVICE_PORTS)
            .unwrap_or(default.service_ports.max(services)),
        backends: section
            .integer("backends", &bounds::BACKENDS)
            .unwrap_or(default.backends),
        new_flows_per_core: section
            .integer("new-flows-per-core", &bounds::NEW_FLOWS)
            .unwrap_or(default.new_flows_per_core),
        syn_cookies_above: section
            .integer("syn-cookies-above", &bounds::SYN_COOKIES_ABOVE)
            .unwrap_or(default.syn_cookies_above),
        icmp_per_second: section
            .integer("icmp-per-second", &bounds::ICMP_PER_SECOND)
            .unwrap_or(default.icmp_per_second),
        slots: section.integer("slots", &bounds::SLOTS).unwrap_or(default.slots),
        affinity: section
            .integer("affinity", &bounds::AFFINITY)
            .unwrap_or(default.affinity),
    };
    section.finish();
    limits
}

fn full_nat(mut section: Section<'_>) -> FullNat {
    let address = |text: &str| text.parse().ok();
    let full_nat = FullNat {
        source_addresses: section.list(
            "source-addresses",
            "an IP address such as \"10.0.0.2\"",
            NO_ADDRESS,
            address,
        ),
        source_ports: section
            .parsed(
                "source-ports",
                "a range of ports such as \"2048-32767\"",
                value::port_range,
            )
            .unwrap_or(FullNat::default().source_ports),
    };
    section.finish();
    full_nat
}

/// `[tunnel]`.
fn tunnel(mut section: Section<'_>) -> Tunnel {
    let tunnel = Tunnel {
        sources: section.list(
            "sources",
            "an IP address or a prefix, such as \"10.0.0.2\" or \"172.16.0.0/16\"",
            TunnelSource::address(NO_ADDRESS),
            value::tunnel_source,
        ),
        port: section.integer("port", &bounds::PORT).unwrap_or(Tunnel::PORT),
    };
    section.finish();
    tunnel
}

/// `[timeouts]`, and what a service says over it.
pub(super) fn timeouts(mut section: Section<'_>, default: Timeouts) -> Timeouts {
    let mut timeout = |key, default| flow_timeout(&mut section, key).unwrap_or(default);
    let timeouts = Timeouts {
        tcp_syn: timeout("tcp-syn", default.tcp_syn),
        tcp_established: timeout("tcp-established", default.tcp_established),
        tcp_fin: timeout("tcp-fin", default.tcp_fin),
        tcp_closing: timeout("tcp-closing", default.tcp_closing),
        udp: timeout("udp", default.udp),
    };
    section.finish();
    timeouts
}

/// The range is looked at here already, so that services do not inherit, and report again, what is wrong in `[timeouts]`.
fn flow_timeout(section: &mut Section<'_>, key: &'static str) -> Option<Duration> {
    let duration = duration(section, key)?;
    match rules::flow_timeout(&section.path_of(key), duration) {
        None => Some(duration),
        Some(problem) => {
            section.push(problem);
            None
        }
    }
}

pub(super) fn duration(section: &mut Section<'_>, key: &'static str) -> Option<Duration> {
    section.parsed(key, DURATION, value::duration)
}

/// An empty string stands in for a name that is missing or no string.
pub(super) fn required_string(section: &mut Section<'_>, key: &'static str, expected: &str) -> String {
    section.require(key, expected);
    section.string(key, expected).unwrap_or_default().to_owned()
}
