//! UDP: flows without a handshake.

use lb_tests::{
    Lab, Topology,
    balancer::PATIENCE,
    client::{Datagrams, Shares},
    eventually,
    lab::Family,
};

use crate::common::even;

#[test]
fn a_flow_stays_on_its_backend_and_new_flows_spread() {
    let lab = Lab::new(Topology::TwoArm, 4);
    let _echo = lab.serve_echo();
    let config = lab
        .config()
        .service(lab.echo(Family::V4))
        .service(lab.echo(Family::V6).named("echo6"));
    let _lb = lab.start(&config);
    for family in Family::ALL {
        let (vip, source) = (lab.vip(family, 7), lab.source(family));
        lab.client.ns.run(|| {
            let mut shares = Shares::new();
            for _ in 0..40 {
                let flow = Datagrams::to(vip);
                let (server, seen) = flow.echo(b"first").unwrap();
                assert_eq!(seen, source, "full-nat shows lb's address");
                // Odd lengths and an empty payload are other checksums.
                for payload in [b"".as_slice(), b"x", &[0; 1401]] {
                    assert_eq!(flow.echo(payload).unwrap().0, server);
                }
                *shares.entry(server).or_default() += 1;
            }
            assert_eq!(shares, even(&lab, 10), "{family:?}");
        });
    }
}

#[test]
fn an_expired_flow_is_decided_anew() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _echo = lab.serve_echo();
    let lb = lab.start(
        &lab.config()
            .service(lab.echo(Family::V4).set("timeouts = { udp = \"1s\" }")),
    );
    let flow = lab.client.ns.run(|| Datagrams::to(lab.vip(Family::V4, 7)));
    let (first, _) = flow.echo(b"one").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let (second, _) = flow.echo(b"two").unwrap();
    assert_ne!(first, second, "round-robin gives the new flow to the other backend");
    assert_eq!(lb.service("echo").counters.new_flows, 2);
}

#[test]
fn flows_of_a_dead_backend_move() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _echo = lab.serve_echo();
    let mut health = lab.serve_http();
    let service = lab
        .echo(Family::V4)
        .health(&format!("{}\nport = 80", lb_tests::config::TCP_HEALTH));
    let lb = lab.start(&lab.config().service(service));
    let flow = lab.client.ns.run(|| Datagrams::to(lab.vip(Family::V4, 7)));
    let (first, _) = flow.echo(b"before").unwrap();
    let dead = lab.servers.iter().position(|s| s.name == first).unwrap();
    lab.unplug(&lab.servers[dead]);
    health[dead].stop();
    lb.wait_out("echo", &first);
    eventually("the flow to move", PATIENCE, || match flow.echo(b"after") {
        Ok((server, _)) if server != first => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
