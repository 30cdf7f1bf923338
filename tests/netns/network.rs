//! Interfaces, neighbours and addresses that change while the daemon runs, and traffic that is not its business.

use std::{
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use lb_tests::{
    Lab, Topology,
    balancer::PATIENCE,
    client::{self, Held},
    eventually,
    lab::{Family, Host},
    poll::patience,
};

use crate::common::even;

/// Waits until a client is served.
#[track_caller]
fn wait_served(lab: &Lab, family: Family) {
    eventually("a client to be served", PATIENCE, || {
        let who = lab.client.ns.run(|| client::who(lab.vip(family, 80)));
        who.map(drop).map_err(|e| e.to_string())
    });
}

#[test]
fn an_interface_that_goes_down_and_up_serves_again() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    let vip = lab.vip(Family::V4, 80);
    let mut held = lab.client.ns.run(|| Held::open(vip)).unwrap();
    for device in lab.interfaces() {
        lab.lb.ns.sh(&format!(
            "ip link set {device} down; sleep 0.2; ip link set {device} up"
        ));
        wait_served(&lab, Family::V4);
        lb.wait_ready();
        held.say("still there").unwrap();
    }
    assert_eq!(lab.client.ns.run(|| client::shares(vip, 10)), even(&lab, 5));
}

#[test]
fn an_interface_that_is_made_anew_is_attached_again() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    for device in ["client0", "servers0"] {
        lab.lb.ns.sh(&format!("ip link del {device}"));
        let report = |s: &lb_userspace::api::Status| s.interfaces.iter().find(|i| i.name == device).cloned().unwrap();
        let status = lb.wait_status("the interface to be missed", |s| report(s).index.is_none());
        assert_eq!(report(&status).xdp, "missing");
        assert!(
            status.warnings.iter().any(|w| w.contains(device)),
            "{:?}",
            status.warnings
        );
        lab.rebuild_interface(device);
        lb.wait_status("the interface to be attached", |s| report(s).xdp == "native");
        wait_served(&lab, Family::V4);
    }
    lb.wait_ready();
    assert_eq!(
        lab.client.ns.run(|| client::shares(lab.vip(Family::V4, 80), 10)),
        even(&lab, 5)
    );
}

#[test]
fn a_backends_new_mac_address_is_followed() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let _http = lab.serve_http();
    let server = &lab.servers[0];
    // As a host does that takes an address over: it tells its neighbours.
    server
        .ns
        .sh("echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_notify; echo 1 >/proc/sys/net/ipv6/conf/eth0/ndisc_notify");
    for (family, mac) in [(Family::V4, "02:00:00:00:00:41"), (Family::V6, "02:00:00:00:00:61")] {
        let lb = lab.start(&lab.config().service(lab.web(family)));
        let mut held = lab.client.ns.run(|| Held::open(lab.vip(family, 80))).unwrap();
        server.ns.sh(&format!("ip link set eth0 address {mac}"));
        lb.wait_backend("web", "s1", "at its new MAC address", |b| {
            b.in_rotation && b.next_hop.as_deref().is_some_and(|hop| hop.contains(mac))
        });
        held.say("over the new address").unwrap();
        wait_served(&lab, family);
        lb.detach();
    }
}

/// Gives a server another MAC address as if it were another host: it announces nothing, and has no need to ask either.
fn replace_silently(server: &Host, mac: &str) {
    // The entries go with the address.
    server.ns.sh(&format!(
        "entries=$(ip neigh | awk '$5 ~ /:/ {{print $1, \"lladdr\", $5, \"dev\", $3}}')
         ip link set eth0 address {mac}
         echo \"$entries\" | while read -r entry; do ip neigh replace $entry nud permanent; done"
    ));
}

#[test]
fn a_backend_that_is_replaced_without_a_word_is_followed_by_asking() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let _http = lab.serve_http();
    let server = &lab.servers[0];
    for family in Family::ALL {
        // Nothing asks about its health: that next hops are asked decides, as it does by default.
        let lb = lab.start(&lab.config().service(lab.web(family).health("type = \"none\"")));
        let vip = lab.vip(family, 80);
        let mut held = lab.client.ns.run(|| Held::open(vip)).unwrap();
        let mut slowest = Duration::ZERO;
        // The kernel does not follow twice within a second (`locktime`); and each time at another moment between two questions.
        let rest = |round: u64| std::thread::sleep(Duration::from_millis(1100 + 90 * round));
        for round in 0..5 {
            rest(round);
            let mac = format!("02:00:00:00:0{round}:{:02x}", vip.is_ipv6() as u8 + 0x70);
            let (replaced, attempt) = (Instant::now(), Duration::from_millis(30));
            replace_silently(server, &mac);
            // Attempts of their own: a SYN that is repeated would be so after a second.
            let served = || TcpStream::connect_timeout(&vip, attempt).and_then(|s| client::request(&s, "/"));
            while let Err(error) = lab.client.ns.run(served) {
                // lb asks several times a second; by itself, the kernel waits for half a minute.
                assert!(
                    replaced.elapsed() < patience(Duration::from_secs(10)),
                    "{family:?}: {error}"
                );
            }
            slowest = slowest.max(replaced.elapsed());
            assert!(lb.backend("web", "s1").next_hop.is_some_and(|hop| hop.contains(&mac)));
            held.say("at another host").unwrap();
        }
        println!("{family:?}: served again within {} ms", slowest.as_millis());
        lb.detach();
    }
}

#[test]
fn a_backend_that_is_replaced_without_a_word_is_found_by_its_health_check() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let _http = lab.serve_http();
    for (family, mac) in [(Family::V4, "02:00:00:00:00:42"), (Family::V6, "02:00:00:00:00:62")] {
        let lb = lab.start(&lab.config().top("neighbour-poll = \"0s\"").service(lab.web(family)));
        replace_silently(&lab.servers[0], mac);
        lb.wait_backend("web", "s1", "at its new MAC address", |b| {
            b.in_rotation && b.next_hop.as_deref().is_some_and(|hop| hop.contains(mac))
        });
        wait_served(&lab, family);
        lb.detach();
    }
}

#[test]
fn a_changed_route_is_followed() {
    let lab = Lab::new(Topology::Routed, 1);
    let _http = lab.serve_http();
    let link_local = |mac: &str| {
        let bytes: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
        let text = format!(
            "fe80::{:02x}{:02x}:{:02x}ff:fe{:02x}:{:02x}{:02x}",
            bytes[0] ^ 2,
            bytes[1],
            bytes[2],
            bytes[3],
            bytes[4],
            bytes[5]
        );
        text.parse::<std::net::Ipv6Addr>().unwrap().to_string()
    };
    for family in Family::ALL {
        let lb = lab.start(&lab.config().service(lab.web(family)));
        let mut held = lab.client.ns.run(|| Held::open(lab.vip(family, 80))).unwrap();
        let hop = lb.backend("web", "s1").next_hop.unwrap();
        let (gateway, rest) = hop.split_once(" (").unwrap();
        let (mac, _) = rest.split_once(')').unwrap();
        // The same router under another address: for IPv6, that of the link alone.
        let (subnet, other) = match family {
            Family::V4 => ("10.80.9.0/24", "10.80.2.99".to_owned()),
            Family::V6 => ("fd80:9::/64", link_local(mac)),
        };
        assert_ne!(gateway, other);
        if family == Family::V4 {
            lab.lb.ns.sh(&format!(
                "ip neigh replace {other} lladdr {mac} dev servers0 nud permanent"
            ));
        }
        lab.lb
            .ns
            .sh(&format!("ip route replace {subnet} via {other} dev servers0"));
        lb.wait_backend("web", "s1", "behind the other gateway", |b| {
            b.in_rotation && b.next_hop.as_deref().is_some_and(|hop| hop.starts_with(&other))
        });
        held.say("by another way").unwrap();
        wait_served(&lab, family);
        lb.detach();
    }
}

#[test]
fn a_backend_that_calls_the_vip_is_served_in_full_nat() {
    for topology in [Topology::OneArm, Topology::TwoArm, Topology::Routed] {
        let lab = Lab::new(topology, 2);
        let _http = lab.serve_http();
        for family in Family::ALL {
            let lb = lab.start(&lab.config().service(lab.web(family)));
            // In turn, and so to itself, too.
            let shares = lab.servers[0].ns.run(|| client::shares(lab.vip(family, 80), 10));
            assert_eq!(shares, even(&lab, 5), "{topology:?}, {family:?}");
            lb.detach();
        }
    }
}

#[test]
fn a_client_on_lbs_own_host_is_refused() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    // The VIP is this host's own, and nothing listens here.
    let refused = lab.lb.ns.run(|| client::open(lab.vip(Family::V4, 80))).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(lb.service("web").counters.new_flows, 0);
}

#[test]
fn a_backend_without_a_next_hop_is_out_of_rotation() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let absent = "10.80.2.77:80";
    let mut backends = lab.backends(Family::V4, 80);
    backends.push(lb_tests::Backend::new("absent", absent));
    // Nothing asks it for its health: the next hop alone decides.
    let service = lab.web(Family::V4).backends(backends).health("type = \"none\"");
    let lb = lb_tests::Balancer::start(&lab, &lab.config().service(service));
    lb.wait_in("web", "s1");
    lb.wait_in("web", "s2");
    let out = lb.wait_backend("web", "absent", "out, and why", |b| {
        !b.in_rotation && b.why_not.is_some()
    });
    let why = out.why_not.unwrap();
    assert!(why.contains("no next hop") && why.contains("10.80.2.77"), "{why}");
    assert_eq!(
        lab.client.ns.run(|| client::shares(lab.vip(Family::V4, 80), 10)),
        [("s1".into(), 5), ("s2".into(), 5)].into()
    );
    lab.servers[0].ns.sh("ip addr add 10.80.2.77/24 dev eth0");
    lb.wait_in("web", "absent");
}

#[test]
fn the_vip_answers_only_while_it_is_lbs() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let _http = lab.serve_http();
    for family in Family::ALL {
        let ip = lab.vip(family, 80).ip();
        let reachable = || lab.client.ns.try_sh(&format!("ping -c 1 -W 2 {ip}")).status.success();
        assert!(!reachable());
        let lb = lab.start(&lab.config().service(lab.web(family)));
        assert_eq!(lb.service("web").vip_interface.as_deref(), Some("client0"));
        let mask = if family == Family::V4 { 32 } else { 128 };
        assert!(lab.lb.ns.sh("ip addr show client0").contains(&format!("{ip}/{mask}")));
        lab.client.ns.sh("ip neigh flush all");
        assert!(reachable());
        let _done = lab.lb(&["service", "remove", "web"]).success();
        assert!(!lab.lb.ns.sh("ip addr show client0").contains(&format!("{ip}/")));
        lb.detach();
        lab.client.ns.sh("ip neigh flush all");
    }
}

#[test]
fn a_vip_that_the_operator_manages_is_left_alone() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let _http = lab.serve_http();
    let vip = lab.vip(Family::V4, 80);
    let addresses = || {
        lab.lb
            .ns
            .sh("ip -oneline addr show dev client0 scope global | awk '{print $4}'")
    };
    let before = addresses();
    let lb = lab.start(
        &lab.config()
            .service(lab.web(Family::V4).set("vip-address = \"manual\"")),
    );
    assert_eq!(addresses(), before);
    assert_eq!(lb.service("web").vip_interface, None);
    lab.lb.ns.sh(&format!("ip addr add {}/32 dev client0", vip.ip()));
    lab.client.ns.run(|| client::who(vip)).unwrap();
    let with_vip = addresses();
    lb.detach();
    assert_eq!(addresses(), with_vip);
}

#[test]
fn traffic_that_is_not_a_services_reaches_the_kernel() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let _http = lab.serve_http();
    let config = lab.config_for_both();
    let lb = lab.start(&config);
    let local = lb_tests::HttpServer::start(&lab.lb, 2222);
    for family in Family::ALL {
        let vip = lab.vip(family, 2222);
        let _echo = lb_tests::UdpEcho::bind(&lab.lb, lab.vip(family, 80));
        // Another port of the VIP, the same port over another protocol, and ping with fragments.
        assert_eq!(lab.client.ns.run(|| client::who(vip)).unwrap().server, "lb");
        assert_eq!(
            lab.client
                .ns
                .run(|| client::Datagrams::to(lab.vip(family, 80)).echo(b"udp"))
                .unwrap()
                .0,
            "lb"
        );
        for size in [56, 4000] {
            lab.client
                .ns
                .sh(&format!("ping -c 2 -i 0.2 -W 2 -s {size} {}", vip.ip()));
        }
    }
    assert_eq!(local.served(), 2);
    assert!(lb.reason("not-a-service") > 0 && lb.reason("not-tcp-or-udp") > 0);
    // The host's own connections towards a backend come back to it.
    let seen = lab
        .lb
        .ns
        .run(|| client::who(lab.servers[0].address(Family::V4, 80)))
        .unwrap();
    assert_eq!(seen.client, lab.source(Family::V4));
}

#[test]
fn a_long_datagram_in_fragments_reaches_the_kernel() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let _lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    let _echo = lb_tests::UdpEcho::start(&lab.lb, 7);
    let flow = lab
        .client
        .ns
        .run(|| client::Datagrams::to(lab.lb.address(Family::V4, 7)));
    assert_eq!(flow.echo(&[7; 5000]).unwrap().0, "lb");
}

#[test]
fn the_hosts_own_listeners_work_beside_lb() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let _lb = lab.start(&lab.config().service(lab.web(Family::V6)));
    let listener = lab.lb.ns.run(|| TcpListener::bind("[::]:22")).unwrap();
    let socket = lab.lb.ns.run(|| UdpSocket::bind("[::]:53")).unwrap();
    lab.client.ns.run(|| {
        for family in Family::ALL {
            client::open(lab.lb.address(family, 22)).unwrap();
        }
    });
    drop((listener, socket));
}
