//! Forwarding modes and topologies: who sees whom, and large transfers.

use lb_tests::{Lab, Topology, client, lab::Family};

use crate::common::{fetch_file, reuses_port};

#[test]
fn full_nat_shows_the_load_balancers_address_in_every_topology() {
    for topology in [Topology::OneArm, Topology::TwoArm, Topology::Routed] {
        let lab = Lab::new(topology, 2);
        let _http = lab.serve_http();
        let config = lab.config_for_both();
        let _lb = lab.start(&config);
        for family in Family::ALL {
            for _ in 0..4 {
                let seen = lab.client.ns.run(|| client::who(lab.vip(family, 80))).unwrap();
                assert_eq!(seen.client, lab.source(family), "{topology:?}");
                assert!((2048..=32767).contains(&seen.port), "{seen:?} is not in source-ports");
            }
        }
    }
}

#[test]
fn nat_shows_the_clients_address() {
    for topology in [Topology::TwoArm, Topology::Routed] {
        let lab = Lab::new(topology, 2);
        let _nginx = lab.serve_nginx();
        let config = lab
            .config()
            .service(lab.web(Family::V4).set("mode = \"nat\""))
            .service(lab.web(Family::V6).named("web6").set("mode = \"nat\""));
        let _lb = lab.start(&config);
        for family in Family::ALL {
            for _ in 0..4 {
                let seen = lab.client.ns.run(|| client::who(lab.vip(family, 80))).unwrap();
                assert_eq!(seen.client, lab.client.address(family, 0).ip(), "{topology:?}");
            }
        }
    }
}

#[test]
fn a_gibibyte_arrives_unharmed() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let nginx = lab.serve_nginx();
    let _lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    fetch_file(&lab, &nginx[0], lab.vip(Family::V4, 80), 1024);
}

#[test]
fn large_transfers_arrive_unharmed_in_other_modes() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let nginx = lab.serve_nginx();
    let config = lab
        .config()
        .service(lab.web(Family::V4).set("mode = \"nat\""))
        .service(lab.web(Family::V6).named("web6"));
    let _lb = lab.start(&config);
    fetch_file(&lab, &nginx[0], lab.vip(Family::V4, 80), 128);
    fetch_file(&lab, &nginx[0], lab.vip(Family::V6, 80), 128);
}

#[test]
fn a_large_transfer_arrives_unharmed_through_gateways() {
    let lab = Lab::new(Topology::Routed, 1);
    let nginx = lab.serve_nginx();
    let _lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    fetch_file(&lab, &nginx[0], lab.vip(Family::V4, 80), 64);
}

#[test]
fn a_port_that_is_used_again_does_not_stall() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _nginx = lab.serve_nginx();
    for mode in ["full-nat", "nat"] {
        let mode = format!("mode = {mode:?}");
        let config = lab
            .config()
            .service(lab.web(Family::V4).set(&mode))
            .service(lab.web(Family::V6).named("web6").set(&mode));
        let lb = lab.start(&config);
        for family in Family::ALL {
            lab.client.ns.run(|| reuses_port(lab.vip(family, 80)));
        }
        lb.detach();
    }
}

#[test]
fn a_repeated_syn_stays_on_its_backend() {
    let lab = Lab::new(Topology::TwoArm, 4);
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    let vip = lab.vip(Family::V4, 80);
    // The client does not hear the first SYN-ACKs, so its SYN goes out again.
    lab.client
        .ns
        .sh("nft 'table inet deaf { chain in { type filter hook input priority 0;
        tcp sport 80 tcp flags & (syn | ack) == syn | ack counter drop; }; }'");
    let answer = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| lab.client.ns.run(|| client::who(vip)));
        std::thread::sleep(std::time::Duration::from_millis(1500));
        lab.client.ns.sh("nft delete table inet deaf");
        waiting.join().unwrap()
    });
    let server = answer.unwrap().server;
    for backend in lb.service("web").backends {
        assert_eq!(
            backend.counters.new_flows,
            u64::from(backend.name == server),
            "{backend:?}"
        );
    }
}
