//! The lab itself, with the kernel's own NAT in place of `lb`.

use std::{net::TcpStream, time::Duration};

use lb_tests::{Lab, Topology, client, lab::Family, stand_in};

use crate::common::{even, fetch_file, reuses_port};

#[test]
fn clients_reach_servers_in_every_topology() {
    for topology in [Topology::OneArm, Topology::TwoArm, Topology::Routed] {
        let lab = Lab::new(topology, 2);
        lab.let_kernel_forward();
        let _http = lab.serve_http();
        let _echo = lab.serve_echo();
        for family in Family::ALL {
            lab.client.ns.run(|| {
                let server = &lab.servers[1];
                let seen = client::who(server.address(family, 80)).unwrap();
                assert_eq!(
                    (seen.server.as_str(), seen.client),
                    ("s2", lab.client.address(family, 0).ip())
                );
                let (name, _) = client::Datagrams::to(server.address(family, 7)).echo(b"hello").unwrap();
                assert_eq!(name, "s2");
            });
        }
    }
}

#[test]
fn scenarios_hold_with_the_kernels_nat() {
    let lab = Lab::new(Topology::TwoArm, 4);
    let _nginx = lab.serve_nginx();
    for family in Family::ALL {
        let vip = lab.vip(family, 80);
        lab.lb.ns.sh("nft flush ruleset");
        stand_in::balance(&lab, vip);
        lab.client.ns.run(|| {
            assert_eq!(client::shares(vip, 40), even(&lab, 10));
            assert_eq!(client::all_at_once(vip, 20, 50), even(&lab, 250));
            reuses_port(vip);
        });
        let load = client::Load::start(&lab.client, vip, 2);
        load.wait_for(100);
        assert_eq!(load.stop(), Vec::<String>::new());
    }
}

#[test]
fn transfers_hold_with_the_kernels_nat() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let nginx = lab.serve_nginx();
    let vip = lab.vip(Family::V4, 80);
    stand_in::balance(&lab, vip);
    fetch_file(&lab, &nginx[0], vip, 64);
}

#[test]
fn a_held_connection_answers_and_notices_a_pulled_cable() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let address = lab.servers[0].address(Family::V4, 80);
    let mut held = lab.client.ns.run(|| client::Held::open(address)).unwrap();
    assert_eq!(held.server, "s1");
    assert_eq!(held.say("hello").unwrap(), "s1 hello");
    lab.unplug(&lab.servers[0]);
    lab.client.ns.run(|| held.say("lost")).unwrap_err();
    lab.replug(&lab.servers[0]);
    lab.client.ns.run(|| client::who(address)).unwrap();
}

#[test]
fn the_labs_configurations_are_valid() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let http = lab.web(Family::V6).named("web6").health(lb_tests::config::HTTP_HEALTH);
    let config = lab
        .config()
        .service(
            lab.web(Family::V4)
                .backend(1, "backup = true")
                .set("on-down = \"keep\""),
        )
        .service(http)
        .service(lab.echo(Family::V4));
    let parsed = lb_userspace::config::parse("lb.toml", &config.toml()).unwrap();
    assert_eq!(parsed.instance, lab.instance);
    assert_eq!(parsed.socket, lab.socket());
    assert_eq!(parsed.services.len(), 3);
    assert_eq!(parsed.services[0].backends[1].tier, 1);
}

#[test]
fn a_connection_that_stalls_is_noticed() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let server = lab.servers[0].address(Family::V4, 80);
    lab.client
        .ns
        .sh("nft 'table inet mute { chain out { type filter hook output priority 0; tcp dport 80 counter drop; }; }'");
    lab.client.ns.run(|| {
        let stalled = std::panic::catch_unwind(|| {
            client::at_once(|| TcpStream::connect_timeout(&server, Duration::from_secs(2)))
        });
        assert!(stalled.is_err(), "the first SYN is repeated after a second");
    });
    lab.client.ns.sh("nft delete table inet mute");
    lab.client.ns.run(|| client::at_once(|| client::who(server).unwrap()));
}
