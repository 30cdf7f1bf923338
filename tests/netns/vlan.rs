//! Clients and servers in VLANs of their own, on one cable of the load balancer.

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
};

use lb_tests::{
    Lab, Topology, client,
    config::{Backend, Service},
    lab::{Family, Host},
};

use crate::common::fetch_file;

/// Host number of the VIP in the clients' VLAN.
const VIP: u8 = 100;

/// A VLAN of the lab: its device, how that is made, and the third byte of its IPv4 subnet.
struct Vlan {
    device: &'static str,
    commands: &'static str,
    subnet: u8,
}

const CLIENTS: Vlan = Vlan {
    device: "vlan10",
    commands: "ip link add link eth0 name vlan10 type vlan id 10",
    subnet: 10,
};
const SERVERS: Vlan = Vlan {
    device: "vlan20",
    commands: "ip link add link eth0 name vlan20 type vlan id 20",
    subnet: 20,
};
/// In a provider's VLAN.
const INNER_SERVERS: Vlan = Vlan {
    device: "inner",
    commands: "ip link add link eth0 name outer type vlan proto 802.1ad id 200; ip link set outer up; \
               ip link add link outer name inner type vlan id 30",
    subnet: 30,
};

impl Vlan {
    fn address(&self, family: Family, host: u8) -> IpAddr {
        match family {
            Family::V4 => [10, 81, self.subnet, host].into(),
            Family::V6 => format!("fd81:{}::{host}", self.subnet).parse::<IpAddr>().unwrap(),
        }
    }

    fn join(&self, host: &Host, number: u8) {
        host.ns.sh(&format!(
            "{}; ip addr add {}/24 dev {device}; ip addr add {}/64 dev {device} nodad; ip link set {device} up",
            self.commands,
            self.address(Family::V4, number),
            self.address(Family::V6, number),
            device = self.device,
        ));
    }
}

/// A lab with VLAN devices, or none where the kernel has no VLANs.
fn lab(servers_in: &Vlan) -> Option<Lab> {
    let lab = Lab::new(Topology::OneArm, 2);
    let try_it = "ip link add link eth0 name trial type vlan id 1 2>/dev/null && ip link del trial && echo yes || true";
    if lab.client.ns.sh(try_it).trim() != "yes" {
        let guest = std::env::var_os("LB_TEST_GUEST").is_some();
        assert!(!guest, "this guest should have VLAN devices");
        say("not tried here but in guests: this kernel has no VLAN devices");
        return None;
    }
    lab.leave_tags_in_frames();
    CLIENTS.join(&lab.client, 2);
    CLIENTS.join(&lab.lb, 5);
    servers_in.join(&lab.lb, 5);
    for (number, server) in (11..).zip(&lab.servers) {
        servers_in.join(server, number);
    }
    Some(lab)
}

/// Past the test runner, which shows nothing of tests that pass.
#[expect(clippy::explicit_write, reason = "`eprintln!` is what the runner keeps to itself")]
fn say(what: &str) {
    writeln!(io::stderr(), "{what}").unwrap();
}

fn web(lab: &Lab, servers_in: &Vlan, vip: Family, backends: Family, name: &str) -> Service {
    let backends = (11..).zip(&lab.servers).map(|(number, server)| {
        let address = servers_in.address(backends, number);
        Backend::new(&server.name, SocketAddr::new(address, 80))
    });
    Service::new(name, SocketAddr::new(CLIENTS.address(vip, VIP), 80), "tcp").backends(backends.collect())
}

fn serves(servers_in: &Vlan) {
    let Some(lab) = lab(servers_in) else { return };
    let nginx = lab.serve_nginx();
    let config = lab
        .config()
        .service(web(&lab, servers_in, Family::V4, Family::V4, "web4"))
        .service(web(&lab, servers_in, Family::V6, Family::V6, "web6"));
    let lb = lab.start(&config);
    for family in Family::ALL {
        let vip = SocketAddr::new(CLIENTS.address(family, VIP), 80);
        lab.client.ns.run(|| {
            assert_eq!(client::who(vip).unwrap().client, servers_in.address(family, 5));
            assert_eq!(client::shares(vip, 19).values().sum::<u32>(), 19);
        });
        assert_eq!(lb.reason("vlan-tagged"), 0);
    }
    for other in &lab.servers[1..] {
        lab.unplug(other);
        lb.wait_out("web4", &other.name);
    }
    fetch_file(
        &lab,
        &nginx[0],
        SocketAddr::new(CLIENTS.address(Family::V4, VIP), 80),
        8,
    );
}

#[test]
fn clients_and_servers_may_be_in_vlans_on_one_cable() {
    serves(&SERVERS);
}

#[test]
fn servers_may_be_in_a_providers_vlan() {
    serves(&INNER_SERVERS);
}
