//! What is refused before a packet is sent.

use lb_tests::{Lab, Topology, lab::Family};

use crate::rig::{Sink, traffic};

#[test]
fn load_goes_to_other_hosts_by_the_named_interface_only() {
    let lab = Lab::new(Topology::OneArm, 1);
    lab.client.ns.sh(
        "ip link add other type veth peer name far; ip address add 10.99.0.1/24 dev other
                      ip link set far up; ip link set other up",
    );
    for (to, says) in [
        ("127.0.0.1:80", "address of this host"),
        ("10.80.1.2:80", "address of this host"),
        ("224.0.0.1:80", "multicast"),
        ("255.255.255.255:80", "broadcast"),
        ("10.80.1.255:80", "broadcast"),
        ("10.99.0.2:80", "other"),
        ("192.0.2.1:80", "192.0.2.1"),
        ("10.80.1.99:80", "10.80.1.99 to answer ARP"),
    ] {
        let refused = traffic(&lab.client, "udp", to, &["--count", "1"]);
        assert_ne!(refused.code, 0, "{to}: {refused:?}");
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(said.contains(says), "{to}: {said}");
    }
}

#[test]
fn a_program_that_is_there_stays() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _lb = lab.start(&lab.config().service(lab.echo(Family::V4)));
    let before = lab.lb.ns.sh("ip -oneline link show eth0");
    let to = lab.servers[0].address(Family::V4, 9).to_string();
    let refused = traffic(&lab.lb, "udp", &to, &["--count", "1"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(
        format!("{}{}", refused.stdout, refused.stderr).contains("lb detach"),
        "{refused:?}"
    );
    assert_eq!(lab.lb.ns.sh("ip -oneline link show eth0"), before);

    let sink = Sink::start(&lab.servers[0], &["--port", "9"]);
    let second = lab.servers[0].ns.try_sh(&format!(
        "{} bench sink --interface eth0 --port 9 --duration 1s",
        lb_tests::balancer::program().display()
    ));
    assert_eq!(second.status.code(), Some(4));
    drop(sink);
}
