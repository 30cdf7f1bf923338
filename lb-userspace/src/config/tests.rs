//! Whole files: what they give, and how their mistakes are told.

use std::{path::PathBuf, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    api::ErrorKind,
    model::{AdminState, ForwardingMode, OnDown, Probe, Protocol, Timeouts, VipAddress, XdpMode},
};

const INTERFACE: &str = "[[interface]]\nname = \"eth0\"\n";
const SERVICE: &str = "[[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\n";
const DIRECT: &str = "mode = \"l2-dsr\"\nscheduler = \"maglev\"\nflow-tracking = \"moved\"\n";
const BACKEND: &str = "[[service.backend]]\naddress = \"10.0.0.11:80\"\n";

fn examples() -> Vec<PathBuf> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect()
}

fn full() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/full.toml")).unwrap()
}

#[test]
fn every_example_is_valid() {
    let examples = examples();
    assert!(examples.len() >= 6, "{examples:?}");
    for example in examples {
        load(&example).unwrap_or_else(|errors| panic!("{errors}"));
    }
}

#[test]
fn defaults() {
    let config = parse("lb.toml", &format!("{INTERFACE}{SERVICE}{BACKEND}")).unwrap();
    assert_eq!(config.instance, "default");
    assert_eq!(config.socket, PathBuf::from("/run/lb/default.sock"));
    assert_eq!(config.bpffs, PathBuf::from("/sys/fs/bpf"));
    assert_eq!(config.limits.flows_ipv4, 1_048_576);
    assert_eq!(config.full_nat.source_ports, 2048..=32767);
    let service = &config.services[0];
    assert_eq!(service.mode, ForwardingMode::FullNat);
    assert_eq!(service.vip_address, VipAddress::Add(None));
    assert_eq!((service.on_down, service.failback), (OnDown::Reset, true));
    assert_eq!(service.timeouts, Timeouts::default());
    assert_eq!(service.health.probe, Probe::Tcp);
    let backend = &service.backends[0];
    assert_eq!(
        (backend.name.as_str(), backend.weight, backend.tier),
        ("10.0.0.11:80", 1, 0)
    );
    assert_eq!(backend.admin, AdminState::Enabled);
}

#[test]
fn everything_that_is_written_arrives() {
    let config = parse("full.toml", &full()).unwrap();
    insta::assert_debug_snapshot!(config);
}

/// Every table lists its keys when it meets one that it does not know; the full example must show each of them.
#[test]
fn the_full_example_has_every_key() {
    let text = full();
    let has = |key: &str| {
        let mut lines = text.lines();
        lines.any(|line| {
            line.starts_with(&format!("{key} ="))
                || line.ends_with(&format!("{key}]"))
                || line.ends_with(&format!("{key}]]"))
        })
    };
    let headers: Vec<&str> = text.lines().filter(|line| line.starts_with('[')).collect();
    assert!(headers.len() >= 8);
    for header in headers {
        let broken = text.replacen(&format!("\n{header}\n"), &format!("\n{header}\n\"\" = 1\n"), 1);
        let problem = parse("full.toml", &broken).unwrap_err().problems.remove(0);
        let keys = problem.expected.unwrap();
        for key in keys.strip_prefix("one of ").unwrap().split(", ") {
            assert!(has(key), "{header} has a key {key}");
        }
    }
}

#[test]
fn udp_moves_flows_and_is_not_checked_by_default() {
    let text = format!("{INTERFACE}{SERVICE}protocol = \"udp\"\n{BACKEND}");
    let config = parse("lb.toml", &text).unwrap();
    let service = &config.services[0];
    assert_eq!(service.id.protocol, Protocol::Udp);
    assert_eq!(service.on_down, OnDown::Move);
    assert_eq!(service.health.probe, Probe::None);
}

#[test]
fn datagrams_by_themselves_free_their_ports_soon() {
    let udp = format!("{INTERFACE}{SERVICE}protocol = \"udp\"\none-packet = true\n");
    let timeout = |text: &str| parse("lb.toml", text).unwrap().services[0].timeouts.udp;
    assert_eq!(timeout(&udp), Duration::from_secs(5));
    assert_eq!(
        timeout(&format!("{udp}timeouts = {{ udp = \"9s\" }}\n")),
        Duration::from_secs(9)
    );
}

#[test]
fn services_inherit_timeouts_key_by_key() {
    let text =
        format!("{INTERFACE}[timeouts]\ntcp-syn = \"5s\"\nudp = \"9s\"\n{SERVICE}timeouts = {{ udp = \"3s\" }}\n");
    let timeouts = parse("lb.toml", &text).unwrap().services[0].timeouts;
    assert_eq!(timeouts.tcp_syn, Duration::from_secs(5));
    assert_eq!(timeouts.udp, Duration::from_secs(3));
    assert_eq!(timeouts.tcp_closing, Timeouts::default().tcp_closing);
}

#[test]
fn a_shorter_interval_shortens_the_fast_one() {
    let text = format!("{INTERFACE}{SERVICE}health = {{ interval = \"100ms\" }}\n");
    let health = parse("lb.toml", &text).unwrap().services.remove(0).health;
    assert_eq!(health.fast_interval, Duration::from_millis(100));
}

#[test]
fn ports_and_protocols_may_be_many() {
    let service = |vip: &str, protocol: &str| {
        let text = format!("{INTERFACE}[[service]]\nname = \"web\"\nvip = {vip:?}\nprotocol = {protocol:?}\n");
        parse("lb.toml", &text).unwrap().services.remove(0)
    };
    let keys = |service: &crate::model::Service| service.keys().map(|k| k.to_string()).collect::<Vec<_>>();
    let one = service("192.0.2.10:80", "udp");
    assert_eq!(
        (keys(&one), one.address().as_str()),
        (vec!["192.0.2.10:80/udp".into()], "192.0.2.10:80/udp")
    );
    let range = service("[2001:db8::10]:65534-65535", "tcp+udp");
    assert_eq!(range.address(), "[2001:db8::10]:65534-65535/tcp+udp");
    let expected = ["65534/tcp", "65534/udp", "65535/tcp", "65535/udp"].map(|k| format!("[2001:db8::10]:{k}"));
    assert_eq!(keys(&range), expected);
    assert_eq!(Some(range.id), range.keys().next());
    let all = service("192.0.2.10:*", "tcp+udp");
    assert_eq!((keys(&all).len(), all.address().as_str()), (2, "192.0.2.10:*/tcp+udp"));
    assert!(all.covers_port(1) && all.covers_port(65535) && !range.covers_port(65533));
}

#[test]
fn a_backend_without_a_port_has_the_services_or_the_clients() {
    let backends = |vip: &str| {
        let text = format!(
            "{INTERFACE}[[service]]\nname = \"web\"\nvip = {vip:?}\nhealth = {{ port = 80 }}\n\
             [[service.backend]]\naddress = \"10.0.0.11\"\n[[service.backend]]\naddress = \"10.0.0.12:81\"\n"
        );
        let service = parse("lb.toml", &text).unwrap().services.remove(0);
        service
            .backends
            .into_iter()
            .map(|b| (b.name, b.address.port()))
            .collect::<Vec<_>>()
    };
    let named = |name: &str, port| (name.to_owned(), port);
    assert_eq!(
        backends("192.0.2.10:8080"),
        [named("10.0.0.11:8080", 8080), named("10.0.0.12:81", 81)]
    );
    assert_eq!(
        backends("192.0.2.10:1-9"),
        [named("10.0.0.11", 0), named("10.0.0.12:81", 81)]
    );
    assert_eq!(
        backends("192.0.2.10:*"),
        [named("10.0.0.11", 0), named("10.0.0.12:81", 81)]
    );
}

#[test]
fn a_service_on_all_ports_takes_what_others_leave() {
    let all = "[[service]]\nname = \"rest\"\nvip = \"192.0.2.10:*\"\n";
    let range = "[[service]]\nname = \"range\"\nvip = \"192.0.2.10:81-90\"\n";
    parse("lb.toml", &format!("{INTERFACE}{all}{SERVICE}{range}")).unwrap();
}

#[test]
fn an_ipv4_vip_may_have_backends_behind_ipv6_tunnels() {
    let backend = "[[service.backend]]\naddress = \"[2001:db8::11]:80\"\n";
    for mode in ["ipip", "gue"] {
        parse(
            "lb.toml",
            &format!("{INTERFACE}{SERVICE}mode = {mode:?}\n{BACKEND}{backend}"),
        )
        .unwrap();
    }
}

#[test]
fn a_tunnels_sources_are_spread_over_no_more_than_16_bits() {
    let text = format!("{INTERFACE}[tunnel]\nsources = [\"172.16.0.0/20\", \"fd64::/64\"]\n");
    let tunnel = parse("lb.toml", &text).unwrap().tunnel;
    assert_eq!(tunnel.port, 6080);
    let spread: Vec<_> = tunnel.sources.iter().map(|s| (s.to_string(), s.spread())).collect();
    assert_eq!(
        spread,
        [("172.16.0.0/20".to_owned(), 4096), ("fd64::/64".to_owned(), 65536)]
    );
    let address = crate::model::TunnelSource::address("10.0.0.2".parse().unwrap());
    assert_eq!((address.to_string(), address.spread()), ("10.0.0.2".to_owned(), 1));
}

#[test]
fn backup_is_tier_1_and_an_empty_pool_is_allowed() {
    let text =
        format!("{INTERFACE}{SERVICE}{BACKEND}backup = true\n[[service]]\nname = \"empty\"\nvip = \"192.0.2.10:81\"\n");
    let config = parse("lb.toml", &text).unwrap();
    assert_eq!(config.services[0].backends[0].tier, 1);
    assert!(config.services[1].backends.is_empty());
}

#[test]
fn the_socket_follows_state_dir_and_instance() {
    let text = format!("instance = \"edge-2\"\nstate-dir = \"/var/run/x\"\n{INTERFACE}xdp = \"native\"\n");
    let config = parse("lb.toml", &text).unwrap();
    assert_eq!(config.socket, PathBuf::from("/var/run/x/edge-2.sock"));
    assert_eq!(config.interfaces[0].xdp, XdpMode::Native);
}

#[test]
fn next_hops_are_asked_twice_a_second_or_never() {
    let poll = |line: &str| parse("lb.toml", &format!("{line}{INTERFACE}")).unwrap().neighbour_poll;
    assert_eq!(poll(""), Duration::from_millis(500));
    assert_eq!(poll("neighbour-poll = \"0s\"\n"), Duration::ZERO);
}

/// Every rule: a file that breaks it, and what the operator reads.
#[test]
fn mistakes_are_told() {
    let head = format!("{INTERFACE}{SERVICE}");
    let with_backend = |line: &str| format!("{head}{BACKEND}{line}\n");
    let with_address = |address: &str| format!("{head}[[service.backend]]\naddress = \"{address}\"\n");
    let with_vip = |vip: &str| format!("{INTERFACE}[[service]]\nname = \"web\"\nvip = \"{vip}\"\n");
    let with_health = |lines: &str| format!("{head}[service.health]\n{lines}\n");
    let udp = format!("{head}protocol = \"udp\"\n");
    let with_source = |lines: &str| format!("{INTERFACE}[full-nat]\n{lines}\n{SERVICE}");
    let cases = [
        // The shape of the file.
        ("broken_toml", "[[interface]\nname = \"eth0\"\n".to_owned()),
        (
            "broken_toml_twice",
            "[[interface]]\nname = eth0\n[[service]]\nname = \"web\nvip = \"192.0.2.10:80\"\n".to_owned(),
        ),
        ("duplicate_key", with_backend("weight = 1\nweight = 2")),
        ("unknown_key_near", with_backend("wieght = 2")),
        (
            "unknown_key_underscore",
            format!("{INTERFACE}[limits]\nflows_ipv4 = 2048\n"),
        ),
        ("unknown_key_far", with_backend("color = \"red\"")),
        ("unknown_section", format!("{INTERFACE}[[servcie]]\nname = \"web\"\n")),
        (
            "unknown_key_with_escape_sequence",
            format!("\"\\u001b[31mred\" = 1\n{INTERFACE}"),
        ),
        ("missing_keys", format!("{INTERFACE}[[service]]\n[[service.backend]]\n")),
        (
            "wrong_types",
            format!("interface = \"eth0\"\n{SERVICE}failback = \"yes\"\n{BACKEND}weight = \"1\"\n"),
        ),
        (
            "table_instead_of_array",
            format!("{INTERFACE}[service]\nname = \"web\"\n"),
        ),
        ("item_of_wrong_type", format!("service = [1]\n{INTERFACE}")),
        ("duration_without_unit", with_health("interval = \"2\"\ntimeout = 1")),
        ("choice_near", format!("{head}mode = \"fullnat\"\n")),
        (
            "choice_far",
            format!("{head}mode = \"dsr\"\nscheduler = \"least-conn\"\n"),
        ),
        // The host.
        ("no_interface", SERVICE.to_owned()),
        ("duplicate_interface", format!("{INTERFACE}{INTERFACE}")),
        (
            "interface_name",
            "[[interface]]\nname = \"a-very-long-interface-name\"\n[[interface]]\nname = \"\"\n".to_owned(),
        ),
        ("instance_name", format!("instance = \"My LB\"\n{INTERFACE}")),
        (
            "relative_paths",
            format!("state-dir = \"run\"\nbpffs = \"bpf\"\n{INTERFACE}"),
        ),
        (
            "socket_too_long",
            format!("socket = \"/{}\"\n{INTERFACE}", "s".repeat(120)),
        ),
        (
            "neighbour_poll_too_often",
            format!("neighbour-poll = \"99ms\"\n{INTERFACE}"),
        ),
        (
            "limits_out_of_range",
            format!(
                "{INTERFACE}[limits]\nflows-ipv4 = 1000\nflows-ipv6 = 17_000_000\nservices = 0\nbackends = 99999999999999999999\n"
            ),
        ),
        (
            "more_than_the_limits",
            format!(
                "{INTERFACE}[limits]\nservices = 1\nbackends = 1\n{SERVICE}{BACKEND}[[service.backend]]\naddress = \"10.0.0.12:80\"\n[[service]]\nname = \"b\"\nvip = \"192.0.2.11:80\"\n"
            ),
        ),
        (
            "tables_larger_than_the_arena",
            format!("{INTERFACE}[limits]\nslots = 100000\n{SERVICE}scheduler = \"maglev\"\n{BACKEND}"),
        ),
        (
            "table_size_not_prime",
            format!("{INTERFACE}{SERVICE}maglev-table-size = 65536\n{BACKEND}"),
        ),
        (
            "scheduler_near",
            format!("{INTERFACE}{SERVICE}scheduler = \"leastconn\"\n{BACKEND}"),
        ),
        (
            "one_packet_of_tcp",
            format!("{INTERFACE}{SERVICE}one-packet = true\naffinity = \"8d\"\n{BACKEND}"),
        ),
        (
            "syn_cookies_unseen",
            format!(
                "{INTERFACE}{SERVICE}mode = \"ipip\"\nsyn-cookies = \"always\"\n[[service.backend]]\naddress = \"10.0.0.11\"\n"
            ),
        ),
        (
            "syn_cookies_between_families",
            format!(
                "{INTERFACE}{SERVICE}syn-cookies = \"always\"\n[[service.backend]]\naddress = \"[2001:db8::11]:80\"\n"
            ),
        ),
        (
            "flow_tracking_of_turns",
            format!("{INTERFACE}{SERVICE}mode = \"l2-dsr\"\nflow-tracking = \"moved\"\n{BACKEND}"),
        ),
        (
            "flow_tracking_of_replies",
            format!("{INTERFACE}{SERVICE}scheduler = \"maglev\"\nflow-tracking = \"moved\"\n{BACKEND}"),
        ),
        (
            "flow_tracking_with_affinity",
            format!("{INTERFACE}{SERVICE}{DIRECT}affinity = \"1m\"\n{BACKEND}"),
        ),
        (
            "flow_tracking_of_single_packets",
            format!("{INTERFACE}{SERVICE}{DIRECT}protocol = \"udp\"\none-packet = true\n{BACKEND}"),
        ),
        (
            "flow_tracking_without_a_window",
            format!("{INTERFACE}{SERVICE}{DIRECT}rehash-window = \"0s\"\n{BACKEND}"),
        ),
        (
            "flow_tracking_with_limits",
            format!("{INTERFACE}{SERVICE}{DIRECT}{BACKEND}max-connections = 5\n"),
        ),
        (
            "syn_cookies_of_udp",
            format!("{INTERFACE}{SERVICE}protocol = \"udp\"\nsyn-cookies = \"under-flood\"\n{BACKEND}"),
        ),
        (
            "syn_cookies_never",
            format!("{INTERFACE}{SERVICE}syn-cookies = true\n{BACKEND}[limits]\nsyn-cookies-above = 0\n"),
        ),
        (
            "no_connections",
            format!("{INTERFACE}{SERVICE}{BACKEND}max-connections = 0\n"),
        ),
        ("source_ports_reversed", with_source("source-ports = \"5000-4000\"")),
        ("source_ports_too_low", with_source("source-ports = \"80-4000\"")),
        (
            "source_address_is_a_vip",
            with_source("source-addresses = [\"192.0.2.10\"]").replace(":80", ":8080"),
        ),
        (
            "source_addresses_wrong",
            with_source("source-addresses = [\"10.0.0.2\", \"10.0.0.2\", \"127.0.0.1\", \"nat1\", 7]"),
        ),
        (
            "source_addresses_of_other_family",
            with_source("source-addresses = [\"2001:db8::2\"]") + BACKEND,
        ),
        // Services.
        (
            "duplicate_service_name",
            format!("{head}[[service]]\nname = \"web\"\nvip = \"192.0.2.11:80\"\n"),
        ),
        (
            "duplicate_service_vip",
            format!("{head}[[service]]\nname = \"shop\"\nvip = \"192.0.2.10:80\"\nprotocol = \"tcp\"\n"),
        ),
        (
            "service_name",
            format!("{INTERFACE}[[service]]\nname = \"a/b\"\nvip = \"192.0.2.10:80\"\n"),
        ),
        ("vip_without_port", with_vip("192.0.2.10")),
        ("vip_port_zero", with_vip("192.0.2.10:0")),
        ("vip_is_a_name", with_vip("www.example.org:80")),
        ("vip_without_brackets", with_vip("2001:db8::10:80")),
        ("vip_unspecified", with_vip("0.0.0.0:80")),
        ("vip_multicast", with_vip("224.0.0.1:80")),
        ("vip_loopback", with_vip("[::1]:80")),
        ("vip_link_local", with_vip("[fe80::1]:80")),
        ("vip_mapped", with_vip("[::ffff:192.0.2.10]:80")),
        ("vip_interface_unknown", format!("{head}vip-interface = \"eth7\"\n")),
        (
            "vip_interface_without_effect",
            format!("{head}vip-address = \"manual\"\nvip-interface = \"eth0\"\n"),
        ),
        ("reset_for_udp", format!("{udp}on-down = \"reset\"\n")),
        (
            "timeout_zero_and_too_long",
            format!("{INTERFACE}[timeouts]\ntcp-syn = \"0s\"\n{SERVICE}timeouts = {{ udp = \"8days\" }}\n"),
        ),
        // Health checks.
        (
            "check_of_udp_without_port",
            format!("{udp}health = {{ type = \"tcp\" }}\n"),
        ),
        (
            "check_intervals",
            with_health("interval = \"0s\"\nfast-interval = \"5s\"\ntimeout = \"0s\""),
        ),
        (
            "fast_interval_too_long",
            with_health("interval = \"1s\"\nfast-interval = \"5s\""),
        ),
        ("rise_and_fall", with_health("rise = 0\nfall = -1")),
        ("check_port_zero", with_health("port = 0")),
        (
            "http_keys_for_tcp",
            with_health("type = \"tcp\"\npath = \"/\"\nexpect-status = \"200\""),
        ),
        (
            "keys_without_check",
            with_health("type = \"none\"\nport = 80\nexpect-body = \"ok\""),
        ),
        (
            "http_probe",
            with_health(
                "type = \"http\"\npath = \"healthz\"\nhost = \"a b\"\nexpect-status = \"2xx\"\nexpect-body = \"\"",
            ),
        ),
        (
            "http_path_with_blank",
            with_health("type = \"http\"\npath = \"/a b\"\nexpect-status = \"200-700\""),
        ),
        // Backends.
        (
            "duplicate_backend",
            format!("{head}{BACKEND}name = \"a\"\n{BACKEND}name = \"a\"\n"),
        ),
        ("backend_is_its_vip", with_address("192.0.2.10:80")),
        (
            "backend_is_another_vip",
            format!(
                "{}[[service]]\nname = \"b\"\nvip = \"10.0.0.11:80\"\n",
                with_backend("")
            ),
        ),
        ("backend_port_zero", with_address("10.0.0.11:0")),
        (
            "backend_of_other_family",
            with_address("[2001:db8::11]:80").replace("vip = ", "mode = \"nat\"\nvip = "),
        ),
        (
            "backend_ipv4_for_ipv6_vip",
            format!("{}{BACKEND}", with_vip("[2001:db8::10]:80")).replace("vip = ", "mode = \"nat\"\nvip = "),
        ),
        ("backend_loopback", with_address("127.0.0.1:80")),
        ("vip_range_reversed", with_vip("192.0.2.10:90-80")),
        ("vip_range_from_zero", with_vip("192.0.2.10:0-80")),
        ("vip_range_of_a_name", with_vip("www.example.org:80-90")),
        (
            "range_overlaps_a_port",
            format!("{head}[[service]]\nname = \"many\"\nvip = \"192.0.2.10:70-90\"\nprotocol = \"tcp+udp\"\n"),
        ),
        (
            "all_ports_twice",
            format!(
                "{}[[service]]\nname = \"b\"\nvip = \"192.0.2.10:*\"\nprotocol = \"tcp+udp\"\n",
                with_vip("192.0.2.10:*")
            ),
        ),
        (
            "more_ports_than_the_limit",
            format!(
                "{INTERFACE}[limits]\nservice-ports = 100\n[[service]]\nname = \"many\"\nvip = \"192.0.2.10:1-51\"\nprotocol = \"tcp+udp\"\n"
            ),
        ),
        (
            "backend_is_a_vip_on_all_ports",
            format!(
                "{}[[service.backend]]\naddress = \"192.0.2.10:8080\"\n",
                with_vip("192.0.2.10:*")
            ),
        ),
        (
            "check_of_a_backend_without_port",
            format!(
                "{}[[service.backend]]\naddress = \"10.0.0.11\"\n",
                with_vip("192.0.2.10:80-90")
            ),
        ),
        (
            "direct_return_of_a_range_to_one_port",
            format!(
                "{}mode = \"gue\"\nhealth = {{ type = \"none\" }}\n{BACKEND}",
                with_vip("192.0.2.10:80-90")
            ),
        ),
        (
            "direct_return_to_another_port",
            format!("{head}mode = \"l2-dsr\"\n[[service.backend]]\naddress = \"10.0.0.11:8080\"\n"),
        ),
        (
            "l2_dsr_to_another_family",
            format!("{head}mode = \"l2-dsr\"\n[[service.backend]]\naddress = \"[2001:db8::11]:80\"\n"),
        ),
        (
            "ipv6_in_an_ipv4_tunnel",
            format!("{}mode = \"ipip\"\n{BACKEND}", with_vip("[2001:db8::10]:80")),
        ),
        (
            "tunnel_wrong",
            format!(
                "{INTERFACE}[tunnel]\nsources = [\"172.16.1.0/16\", \"172.17.0.1\", \"ff02::/64\", \"10.0.0.1/33\"]\nport = 0\n"
            ),
        ),
        ("backend_name", with_backend("name = \"10.0.0.99:80\"")),
        ("weight_out_of_range", with_backend("weight = 300")),
        ("weight_negative", with_backend("weight = -1")),
        ("tier_out_of_range", with_backend("tier = 10")),
        ("backup_and_tier", with_backend("backup = true\ntier = 2")),
        ("state_near", with_backend("state = \"enable\"")),
    ];
    for (name, text) in cases {
        let errors = parse("lb.toml", &text)
            .err()
            .unwrap_or_else(|| panic!("{name} was accepted:\n{text}"));
        insta::assert_snapshot!(name, errors, &text);
    }
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let text = "instance = \"A\"\n[[interface]]\nname = \"eth0\"\nmtu = 9000\n[[service]]\nname = \"web\"\n\
                vip = \"nonsense\"\nprotocol = \"sctp\"\n[[service.backend]]\naddress = \"10.0.0.300\"\nweight = 999\n";
    let errors = parse("lb.toml", text).unwrap_err();
    let keys: Vec<&str> = errors.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "instance",
            "interface[0].mtu",
            "service[0].vip",
            "service[0].protocol",
            "service[0].backend[0].address",
            "service[0].backend[0].weight"
        ]
    );
    insta::assert_snapshot!(errors);
}

#[test]
fn problems_carry_place_value_and_expectation() {
    let text = format!("{INTERFACE}{SERVICE}{BACKEND}weight = 300\n");
    let problem = parse("lb.toml", &text).unwrap_err().problems.remove(0);
    let place = problem.place.unwrap();
    assert_eq!((place.line, place.column, place.width), (8, 10, 3));
    assert_eq!(problem.value.unwrap(), "300");
    assert_eq!(problem.expected.unwrap(), "an integer from 0 to 256");
}

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.toml");
    let message = || {
        load(&path)
            .unwrap_err()
            .to_string()
            .replace(directory.path().to_str().unwrap(), "/etc/lb")
    };
    insta::assert_snapshot!("file_missing", message());
    fs::write(&path, b"[[interface]]\nname = \"eth\xff\"\n").unwrap();
    insta::assert_snapshot!("file_not_utf8", message());
}

#[test]
fn services_added_later_obey_the_same_rules() {
    let config = parse("lb.toml", &format!("{INTERFACE}{SERVICE}{BACKEND}")).unwrap();
    let other = |vip: &str, name: &str| {
        let mut service = config.services[0].clone();
        service.id.vip = vip.parse().unwrap();
        name.clone_into(&mut service.name);
        service
    };
    validate_service(&other("192.0.2.11:80", "shop"), &config).unwrap();
    let same_name = validate_service(&other("192.0.2.11:80", "web"), &config).unwrap_err();
    assert_eq!(same_name.kind(), ErrorKind::Conflict);
    assert_eq!(
        same_name.to_string(),
        "name: there is another service `web`; expected a unique name"
    );
    let same_vip = validate_service(&other("192.0.2.10:80", "shop"), &config).unwrap_err();
    assert_eq!(same_vip.problems[0].key, "vip");
    let looped = validate_service(&other("10.0.0.11:80", "shop"), &config).unwrap_err();
    assert!(looped.to_string().contains("loop"), "{looped}");
    let mut heavy = other("192.0.2.11:80", "shop");
    heavy.backends[0].weight = 257;
    let heavy = validate_service(&heavy, &config).unwrap_err();
    assert_eq!(heavy.kind(), ErrorKind::Invalid);
    assert_eq!(heavy.problems[0].key, "backend[0].weight");
}

#[test]
fn backends_added_later_obey_the_same_rules() {
    let mut config = parse("lb.toml", &format!("{INTERFACE}{SERVICE}{BACKEND}")).unwrap();
    let check = |address: &str, config: &Config| {
        let mut backend = config.services[0].backends[0].clone();
        backend.address = address.parse().unwrap();
        "new".clone_into(&mut backend.name);
        validate_backend(&backend, &config.services[0], config)
    };
    check("10.0.0.12:80", &config).unwrap();
    let same = check("10.0.0.11:80", &config).unwrap_err();
    assert_eq!(
        (same.kind(), same.problems[0].key.as_str()),
        (ErrorKind::Conflict, "address")
    );
    check("[2001:db8::1]:80", &config).unwrap();
    config.services[0].mode = ForwardingMode::Nat;
    let other_family = check("[2001:db8::1]:80", &config).unwrap_err().to_string();
    assert!(other_family.contains("stay in their family"), "{other_family}");
    config.limits.backends = 1;
    let full = check("10.0.0.12:80", &config).unwrap_err();
    assert_eq!(full.problems[0].key, "limits.backends");
    // What was wrong before is not blamed on the newcomer: the last interface may have been detached.
    config.limits.backends = 2;
    config.interfaces.clear();
    check("10.0.0.12:80", &config).unwrap();
}

proptest! {
    #[test]
    fn garbage_does_not_panic(text in any::<String>()) {
        let _ = parse("lb.toml", &text).map_err(|errors| errors.to_string());
    }

    #[test]
    fn mutilated_files_do_not_panic(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..12, "[\\PC\\n\\t\"\\[\\]=.]{0,6}"), 1..8),
    ) {
        let mut text: Vec<char> = full().chars().collect();
        for (at, length, new) in cuts {
            let start = at.index(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, new.chars());
        }
        let text: String = text.into_iter().collect();
        let _ = parse("lb.toml", &text).map_err(|errors| errors.to_string());
    }

    /// Whatever value a key has: an error, or a valid configuration.
    #[test]
    fn any_value_is_refused_or_valid(
        line in any::<prop::sample::Index>(),
        value in prop_oneof![
            Just("0".to_owned()), Just("-1".to_owned()), Just("[]".to_owned()), Just("{}".to_owned()), Just("nan".to_owned()),
            Just("\"\"".to_owned()), Just("1979-05-27".to_owned()), Just("true".to_owned()), Just("[[1]]".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()), "\"[a-z0-9.:/-]{0,40}\"",
        ],
    ) {
        let text = full();
        let keys: Vec<usize> = text.lines().enumerate().filter(|(_, l)| !l.starts_with('#') && l.contains(" = ")).map(|(n, _)| n).collect();
        let changed = keys[line.index(keys.len())];
        let lines = text.lines().enumerate().map(|(number, line)| match line.split_once(" = ") {
            Some((key, _)) if number == changed => format!("{key} = {value}\n"),
            _ => format!("{line}\n"),
        });
        let text: String = lines.collect();
        match parse("lb.toml", &text) {
            Ok(config) => prop_assert!(validate(&config).is_ok()),
            Err(errors) => prop_assert!(errors.problems.iter().all(|problem| problem.place.is_some()), "{errors}"),
        }
    }
}
