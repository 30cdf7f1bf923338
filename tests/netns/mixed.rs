//! Clients of one IP version, servers of the other.

use lb_tests::{
    Lab, Topology,
    client::{self, Datagrams},
    config::Service,
    lab::Family,
};

use crate::common::{even, fetch_file, reuses_port};

pub(crate) const fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

/// The web service of a family with backends of the other.
fn web(lab: &Lab, family: Family, name: &str) -> Service {
    Service::new(name, lab.vip(family, 80), "tcp").backends(lab.backends(other(family), 80))
}

#[test]
fn clients_reach_servers_of_the_other_family_in_every_topology() {
    for topology in [Topology::OneArm, Topology::TwoArm, Topology::Routed] {
        let lab = Lab::new(topology, 2);
        let _nginx = lab.serve_nginx();
        let config = lab
            .config()
            .service(web(&lab, Family::V4, "web4"))
            .service(web(&lab, Family::V6, "web6"));
        let _lb = lab.start(&config);
        for family in Family::ALL {
            lab.client.ns.run(|| {
                let vip = lab.vip(family, 80);
                assert_eq!(
                    client::who(vip).unwrap().client,
                    lab.source(other(family)),
                    "{topology:?}"
                );
                assert_eq!(client::shares(vip, 19).values().sum::<u32>(), 19);
                reuses_port(vip);
            });
        }
    }
}

#[test]
fn a_pool_of_both_families_spreads_evenly() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let [first, second] = [Family::V4, Family::V6].map(|family| lab.backends(family, 80));
    let pool = first.into_iter().take(1).chain(second.into_iter().skip(1)).collect();
    let service = Service::new("web", lab.vip(Family::V6, 80), "tcp").backends(pool);
    let _lb = lab.start(&lab.config().service(service));
    lab.client.ns.run(|| {
        assert_eq!(client::shares(lab.vip(Family::V6, 80), 40), even(&lab, 20));
    });
}

/// Full packets of IPv6 clients are 1500 bytes, and 1480 as IPv4: exactly what the servers' links take.
#[test]
fn large_transfers_arrive_unharmed_where_mtus_differ_by_the_headers() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let nginx = lab.serve_nginx();
    let config = lab
        .config()
        .service(web(&lab, Family::V4, "web4"))
        .service(web(&lab, Family::V6, "web6"));
    set_mtu(&lab, 1480);
    let lb = lab.start(&config);
    for family in Family::ALL {
        fetch_file(&lab, &nginx[0], lab.vip(family, 80), 128);
    }
    assert_eq!(lb.reason("exceeds-mtu"), 0);
    // Down to the smallest that IPv6 allows.
    set_mtu(&lab, 1280);
    for family in Family::ALL {
        fetch_file(&lab, &nginx[0], lab.vip(family, 80), 16);
    }
}

fn set_mtu(lab: &Lab, mtu: u32) {
    lab.lb.ns.sh(&format!("ip link set servers0 mtu {mtu}"));
    for server in &lab.servers {
        server.ns.sh(&format!("ip link set eth0 mtu {mtu}"));
    }
}

#[test]
fn datagrams_go_both_ways_as_long_as_they_fit() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _echo = lab.serve_echo();
    let echo = |family: Family, name: &str| {
        Service::new(name, lab.vip(family, 7), "udp")
            .health("type = \"none\"")
            .backends(lab.backends(other(family), 7))
    };
    let config = lab
        .config()
        .service(echo(Family::V4, "echo4"))
        .service(echo(Family::V6, "echo6"));
    let lb = lab.start(&config);
    for family in Family::ALL {
        lab.client.ns.run(|| {
            let flow = Datagrams::to(lab.vip(family, 7));
            let (server, seen) = flow.echo(b"first").unwrap();
            assert_eq!(seen, lab.source(other(family)));
            for payload in [b"".as_slice(), b"x", &[0; 1401], &[7; 1430]] {
                assert_eq!(
                    flow.echo(payload).unwrap().0,
                    server,
                    "{family:?}, {} bytes",
                    payload.len()
                );
            }
        });
    }
    let flow = lab.client.ns.run(|| Datagrams::to(lab.vip(Family::V4, 7)));
    lab.client.ns.run(|| flow.echo(&[0; 1472])).unwrap_err();
    assert!(lb.reason("exceeds-mtu") > 0);
}
