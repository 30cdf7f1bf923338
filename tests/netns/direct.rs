//! Backends that answer clients themselves: `l2-dsr`, and tunnels of IP and UDP, end to end.

use std::net::IpAddr;

use lb_tests::{
    Backend, Lab, Topology,
    client::{self, Held},
    lab::Family,
};

use crate::{
    backends::{SetUp, set_up_all},
    common::{even, fetch_file},
};

const MODES: [&str; 3] = ["l2-dsr", "ipip", "gue"];

/// Every server as a backend of the service's own port, in a mode.
fn web(lab: &Lab, family: Family, mode: &str) -> lb_tests::Service {
    lab.web(family).set(&format!("mode = {mode:?}"))
}

#[test]
fn backends_see_clients_and_answer_them_by_themselves() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _http = lab.serve_http();
    for mode in MODES {
        for family in Family::ALL {
            let _backends = set_up_all(&lab, mode, family);
            let lb = lab.start(&lab.config().service(web(&lab, family, mode)));
            let vip = lab.vip(family, 80);
            assert_eq!(lab.client.ns.run(|| client::shares(vip, 10)), even(&lab, 5), "{mode}");
            let seen = lab.client.ns.run(|| client::who(vip)).unwrap();
            assert_eq!(seen.client, lab.client.address(family, 0).ip(), "{mode}");
            let mut held = lab.client.ns.run(|| Held::open(vip)).unwrap();
            held.say("still there").unwrap();
            let service = lb.service("web");
            assert!(service.counters.packets_in > 40, "{service:#?}");
            assert_eq!(service.counters.packets_out, 0, "{mode}: answers do not pass lb");
            lb.detach();
        }
    }
}

#[test]
fn datagrams_are_answered_from_the_vip() {
    let lab = Lab::new(Topology::OneArm, 2);
    for mode in MODES {
        for family in Family::ALL {
            let _backends = set_up_all(&lab, mode, family);
            // An echo server that is bound to any address would answer from another one.
            let vip = lab.vip(family, 7);
            let _echo: Vec<_> = lab.servers.iter().map(|s| lb_tests::UdpEcho::bind(s, vip)).collect();
            let lb = lab.start(&lab.config().service(lab.echo(family).set(&format!("mode = {mode:?}"))));
            let flow = lab.client.ns.run(|| client::Datagrams::to(vip));
            for _ in 0..3 {
                flow.echo(b"are you there").unwrap();
            }
            lb.detach();
        }
    }
}

#[test]
fn large_transfers_arrive_unharmed_without_the_way_back() {
    let lab = Lab::new(Topology::OneArm, 1);
    let nginx = lab.serve_nginx();
    for mode in MODES {
        for family in Family::ALL {
            let _backends = set_up_all(&lab, mode, family);
            let lb = lab.start(&lab.config().service(web(&lab, family, mode)));
            fetch_file(&lab, &nginx[0], lab.vip(family, 80), 64);
            lb.detach();
        }
    }
}

#[test]
fn all_ports_reach_backends_in_every_mode() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _http: Vec<_> = lab
        .servers
        .iter()
        .map(|s| lb_tests::HttpServer::start(s, 8080))
        .collect();
    let _other: Vec<_> = lab
        .servers
        .iter()
        .map(|s| lb_tests::HttpServer::start(s, 9090))
        .collect();
    for mode in ["full-nat", "l2-dsr", "ipip", "gue"] {
        for family in Family::ALL {
            let _backends = (mode != "full-nat").then(|| set_up_all(&lab, mode, family));
            // Without their ports.
            let portless = |address: String| address.trim_end_matches(":80").to_owned();
            let backends = lab.servers.iter();
            let backends = backends.map(|s| Backend::new(&s.name, portless(s.address(family, 80).to_string())));
            let every_port = portless(lab.vip(family, 80).to_string()) + ":*";
            let service = lb_tests::Service::new("web", every_port, "tcp+udp")
                .set(&format!("mode = {mode:?}"))
                .health("port = 8080\ninterval = \"500ms\"\nfast-interval = \"100ms\"\nstart-jitter = \"0s\"")
                .backends(backends.collect());
            let lb = lab.start(&lab.config().service(service));
            for port in [8080, 9090] {
                let vip = lab.vip(family, port);
                assert_eq!(
                    lab.client.ns.run(|| client::shares(vip, 4)),
                    even(&lab, 2),
                    "{mode}, port {port}"
                );
            }
            lb.detach();
        }
    }
}

/// The client is behind a default route of the backend, which tells it of segments that fit into the tunnel.
#[test]
fn clients_are_asked_for_segments_that_fit_the_tunnel() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let far: IpAddr = "10.99.0.1".parse().unwrap();
    let vip = lab.vip(Family::V4, 80);
    let client = lab.client.address(Family::V4, 0).ip();
    lab.client.ns.sh(&format!(
        "ip addr add {far}/32 dev lo; ip route add {} dev eth0 src {far}",
        vip.ip()
    ));
    lab.lb.ns.sh(&format!("ip route add {far} via {client}"));
    lab.servers[0].ns.sh(&format!("ip route add default via {client}"));
    for (mode, segment) in [("ipip", 1440), ("gue", 1432)] {
        let _backend = SetUp::apply(&lab, &lab.servers[0], mode, vip.ip());
        let lb = lab.start(&lab.config().service(web(&lab, Family::V4, mode)));
        let mut held = lab.client.ns.run(|| Held::open(vip)).unwrap();
        // More than a segment at once: what does not fit would be dropped.
        held.say(&"x".repeat(4000)).unwrap();
        let sockets = lab.client.ns.sh(&format!("ss -Htin dst {}", vip.ip()));
        let mss = |line: &str| {
            line.split(' ')
                .find_map(|w| w.strip_prefix("mss:")?.parse::<u32>().ok())
        };
        let found = sockets.lines().find_map(mss).unwrap_or_else(|| panic!("{sockets}"));
        // Of the segment size, timestamps take twelve bytes.
        assert_eq!(found, segment - 12, "{mode}: {sockets}");
        drop(held);
        lb.detach();
    }
}

#[test]
fn ipv4_goes_through_tunnels_of_ipv6_and_outer_sources_may_vary() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _http = lab.serve_http();
    let vip = lab.vip(Family::V4, 80);
    for mode in ["ipip", "gue"] {
        let _backends = set_up_all(&lab, mode, Family::V4);
        for family in Family::ALL {
            let service = web(&lab, Family::V4, mode).backends(lab.backends(family, 80));
            let config = lab.config().service(service);
            let lb = lab.start(&config.tail("[tunnel]\nsources = [\"172.16.0.0/16\", \"fd64::/64\"]"));
            assert_eq!(
                lab.client.ns.run(|| client::shares(vip, 20)),
                even(&lab, 10),
                "{mode}, {family:?}"
            );
            lb.detach();
        }
    }
}

/// What `lb backend-test` finds at each server, and whether it claims the VIP.
fn findings(lab: &Lab) -> Vec<(String, bool)> {
    let report = lab.lb(&["--json", "backend-test", "web"]).success().json();
    assert_eq!(report["strangers"], serde_json::json!([]), "{report:#}");
    let rows = report["backends"].as_array().unwrap().iter();
    let finding = |row: &serde_json::Value| {
        (
            row["result"].as_str().unwrap().to_owned(),
            row["claims_vip"].as_bool().unwrap(),
        )
    };
    rows.map(finding).collect()
}

#[test]
fn the_self_test_tells_what_a_backend_lacks() {
    let lab = Lab::new(Topology::OneArm, 2);
    let mut http = lab.serve_http();
    let found = |what: &str, claims| (what.to_owned(), claims);
    for mode in MODES {
        for family in Family::ALL {
            let vip = lab.vip(family, 80).ip();
            let server = &lab.servers[0].ns;
            let set_up = SetUp::apply(&lab, &lab.servers[0], mode, vip);
            let lb = lab.start(&lab.config().service(web(&lab, family, mode)));
            // The second was never set up. Where nothing unwraps, the kernel says so.
            let bare = if mode == "l2-dsr" {
                "vip-missing"
            } else {
                "not-unwrapped"
            };
            assert_eq!(
                findings(&lab),
                [found("works", false), found(bare, false)],
                "{mode}, {family:?}"
            );
            server.sh(&format!("ip addr del {vip} dev lo"));
            assert_eq!(findings(&lab)[0], found("vip-missing", false), "{mode}, {family:?}");
            // On the link's own interface, it is spoken for.
            let nodad = if family == Family::V4 { "" } else { "nodad" };
            server.sh(&format!("ip addr add {vip} dev eth0 {nodad}"));
            assert_eq!(findings(&lab)[0], found("works", true), "{mode}, {family:?}");
            server.sh(&format!("ip addr del {vip} dev eth0"));
            set_up.run(&["--apply"]);
            assert_eq!(findings(&lab)[0], found("works", false), "{mode}, {family:?}");
            lb.detach();
        }
    }
    let set_up = set_up_all(&lab, "gue", Family::V4);
    let lb = lab.start(
        &lab.config()
            .service(web(&lab, Family::V4, "gue").health("type = \"none\"")),
    );
    http[1].stop();
    assert_eq!(findings(&lab), [found("works", false), found("nothing-listens", false)]);
    lb.detach();
    drop(set_up);
}
