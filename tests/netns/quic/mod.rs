//! HTTP/3: connections over UDP that keep a state of their own at both ends.

mod http3;

use http3::{Agreement, Client, Server, content};
use lb_tests::{
    Lab, Service, Topology,
    client::{Seen, Shares, seen},
    lab::Family,
};
use ring::digest::{SHA256, digest};
use tokio::runtime::{Builder, Runtime};

use crate::{backends::set_up_all, common::even};

const PORT: u16 = 443;

/// A runtime, and a server on every host of a lab.
struct Bed {
    runtime: Runtime,
    agreement: Agreement,
    _servers: Vec<Server>,
}

impl Bed {
    fn new(lab: &Lab) -> Self {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        let agreement = Agreement::new().unwrap();
        let servers = lab.servers.iter();
        let servers = servers.map(|host| Server::start(runtime.handle(), host, PORT, &agreement).unwrap());
        Self {
            _servers: servers.collect(),
            runtime,
            agreement,
        }
    }

    /// A client with a connection through the VIP.
    fn connect(&self, lab: &Lab, family: Family) -> Client {
        let connecting = Client::connect(&lab.client, lab.vip(family, PORT), &self.agreement);
        self.runtime.block_on(connecting).unwrap()
    }

    /// Who answers a connection, and whom they see.
    #[track_caller]
    fn ask(&self, client: &mut Client) -> Seen {
        seen(&self.runtime.block_on(client.ask()).unwrap()).unwrap()
    }
}

/// Every server as a backend, in a mode.
fn service(lab: &Lab, family: Family, mode: &str) -> Service {
    Service::new("quic", lab.vip(family, PORT), "udp")
        .health("type = \"none\"")
        .backends(lab.backends(family, PORT))
        .set(&format!("mode = {mode:?}"))
}

#[test]
fn connections_are_shared_and_downloads_arrive_whole() {
    const LENGTH: usize = 16 << 20;
    let lab = Lab::new(Topology::OneArm, 2);
    let bed = Bed::new(&lab);
    let expected = digest(&SHA256, &content(LENGTH));
    for mode in ["full-nat", "l2-dsr"] {
        for family in Family::ALL {
            let _backends = (mode == "l2-dsr").then(|| set_up_all(&lab, mode, family));
            let lb = lab.start(&lab.config().service(service(&lab, family, mode)));
            let mut clients: Vec<Client> = (0..8).map(|_| bed.connect(&lab, family)).collect();
            let mut shares = Shares::new();
            for client in &mut clients {
                *shares.entry(bed.ask(client).server).or_default() += 1;
            }
            assert_eq!(shares, even(&lab, 4), "{mode}, {family:?}");
            let (came, hash) = bed.runtime.block_on(clients[0].download(LENGTH)).unwrap();
            assert_eq!((came, hash.as_ref()), (LENGTH, expected.as_ref()), "{mode}, {family:?}");
            let counters = lb.service("quic").counters;
            assert_eq!(counters.new_flows, 8, "{mode}, {family:?}: a connection is one flow");
            assert_eq!(counters.packets_out > 0, mode == "full-nat", "{counters:?}");
            drop(clients);
            lb.detach();
        }
    }
}

#[test]
fn connections_outlive_the_daemon() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let bed = Bed::new(&lab);
    let both = lab
        .config()
        .service(service(&lab, Family::V4, "full-nat"))
        .service(service(&lab, Family::V6, "full-nat").named("quic6"));
    let mut lb = lab.start(&both);
    let mut clients = Vec::new();
    for family in [Family::V4, Family::V6].repeat(4) {
        let mut client = bed.connect(&lab, family);
        let server = bed.ask(&mut client).server;
        clients.push((client, server));
    }
    let mut all_answer = || {
        for (client, server) in &mut clients {
            assert_eq!(&bed.ask(client).server, server);
        }
    };
    lb.kill();
    all_answer();
    lb.restart();
    lb.wait_ready();
    all_answer();
    assert!(lb.status().adopted);
    assert_eq!(lb.service("quic").counters.new_flows, 4, "no connection was made anew");
}

/// A client that moves to another port, as a NAT in front of it would make it, keeps its connection: by source address, its
/// packets go to the server that knows it.
#[test]
fn by_address_a_connection_stays_when_the_clients_port_changes() {
    let lab = Lab::new(Topology::OneArm, 2);
    let bed = Bed::new(&lab);
    for family in Family::ALL {
        let hashed = service(&lab, family, "l2-dsr").set("scheduler = \"source-hash\"\nmaglev-table-size = 1021");
        let _backends = set_up_all(&lab, "l2-dsr", family);
        let lb = lab.start(&lab.config().service(hashed));
        let mut client = bed.connect(&lab, family);
        let before = bed.ask(&mut client);
        let inside = bed.runtime.enter();
        client.move_to_another_port(&lab.client, lab.vip(family, PORT)).unwrap();
        drop(inside);
        let after = bed.ask(&mut client);
        assert_eq!((&after.server, after.client), (&before.server, before.client));
        assert_ne!(after.port, before.port);
        assert_eq!(lb.service("quic").counters.new_flows, 2);
        lb.detach();
    }
}

/// A connection over UDP goes on while its backend is drained, though nothing was known of it before.
#[test]
fn connections_that_are_not_stored_outlive_a_drain() {
    let lab = Lab::new(Topology::OneArm, 3);
    let bed = Bed::new(&lab);
    for family in Family::ALL {
        let hashed = service(&lab, family, "l2-dsr")
            .set("scheduler = \"maglev\"\nmaglev-table-size = 1021\nflow-tracking = \"moved\"");
        let _backends = set_up_all(&lab, "l2-dsr", family);
        let mut lb = lab.start(&lab.config().service(hashed));
        let mut clients: Vec<(Client, String)> = Vec::new();
        for _ in 0..8 {
            let mut client = bed.connect(&lab, family);
            let server = bed.ask(&mut client).server;
            clients.push((client, server));
        }
        let flows = || {
            lab.lb(&["--json", "flows"]).success().json()["flows"]
                .as_array()
                .unwrap()
                .len()
        };
        assert_eq!(flows(), 0, "{family:?}");
        let _done = lab.lb(&["backend", "drain", "quic", "s1"]).success();
        for (client, server) in &mut clients {
            assert_eq!(&bed.ask(client).server, server, "{family:?}");
        }
        lb.kill();
        for (client, server) in &mut clients {
            assert_eq!(&bed.ask(client).server, server, "{family:?}");
        }
        lb.restart();
        lb.wait_status("the packet path to be adopted", |status| status.adopted);
        for (client, server) in &mut clients {
            assert_eq!(&bed.ask(client).server, server, "{family:?}");
        }
        let of_first = clients.iter().filter(|(_, server)| server == "s1").count();
        assert!(
            flows() >= of_first && flows() < 8,
            "{family:?}: those of slots that moved"
        );
        drop(clients);
        lb.detach();
    }
}
