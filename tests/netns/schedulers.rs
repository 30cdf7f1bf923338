//! A backend dies and returns under every scheduler: whom it concerns, and whom not.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use lb_tests::{
    Balancer, Lab, Service, Topology,
    client::{self, Held},
    eventually,
    lab::Family,
    patience,
};

use crate::common::{even, shares_of};

/// With the port that its services have.
const SCHEDULERS: [(&str, u16); 4] = [
    ("round-robin", 8001),
    ("least-conn", 8002),
    ("source-hash", 8003),
    ("maglev", 8004),
];
/// A client is an address and a port, the same every time it asks: what hashes go by.
const CLIENTS: u8 = 24;
const SERVERS: u8 = 4;

/// A service of the test.
struct Subject {
    name: String,
    scheduler: &'static str,
    vip: SocketAddr,
    /// The server that each client's probe found at first.
    homes: Vec<String>,
    /// A connection of each client.
    held: Vec<Held>,
}

impl Subject {
    fn by_hash(&self) -> bool {
        self.scheduler == "source-hash" || self.scheduler == "maglev"
    }

    fn service(&self, lab: &Lab, family: Family) -> Service {
        Service::new(&self.name, self.vip, "tcp")
            .backends(lab.backends(family, 80))
            .set(&format!(
                "scheduler = {:?}\nmaglev-table-size = 65537\non-down = \"reset\"",
                self.scheduler
            ))
    }

    /// Which server answers each client.
    fn probe(&self, lab: &Lab) -> Vec<String> {
        let ask = |client| {
            // What a client's own kernel still remembers of the last time keeps its port for a moment.
            let stream = eventually("the client's port to be free", Duration::from_secs(10), || {
                client::open_between(address(self.vip, client, 30_000), self.vip).map_err(|e| e.to_string())
            });
            client::reset_on_close(&stream).unwrap();
            client::seen(&client::request(&stream, "/").unwrap()).unwrap().server
        };
        lab.client.ns.run(|| (0..CLIENTS).map(ask).collect())
    }

    /// A connection of each client, from another port.
    fn hold(&self, lab: &Lab) -> io::Result<Vec<Held>> {
        let open = |client| Held::over(client::open_between(address(self.vip, client, 20_000), self.vip)?);
        lab.client.ns.run(|| (0..CLIENTS).map(open).collect())
    }
}

/// A client's address in a service's family, and its port for the service.
fn address(vip: SocketAddr, client: u8, port: u16) -> SocketAddr {
    let host = 130 + client;
    let ip: IpAddr = match vip.ip() {
        IpAddr::V4(vip) => Ipv4Addr::from_bits(vip.to_bits() & !0xff | u32::from(host)).into(),
        IpAddr::V6(vip) => Ipv6Addr::from_bits(vip.to_bits() & !0xffff | 0x1000 | u128::from(host)).into(),
    };
    SocketAddr::new(ip, port + vip.port())
}

fn subjects(lab: &Lab) -> Vec<(Family, Subject)> {
    let both = |(scheduler, port)| {
        Family::ALL.map(|family| {
            let subject = Subject {
                name: format!("{scheduler}-{family:?}").to_lowercase(),
                scheduler,
                vip: lab.vip(family, port),
                homes: Vec::new(),
                held: Vec::new(),
            };
            (family, subject)
        })
    };
    SCHEDULERS.into_iter().flat_map(both).collect()
}

/// Gives the client's host the addresses of all clients.
fn add_addresses(lab: &Lab) {
    for family in Family::ALL {
        let mask = if family == Family::V4 { "24" } else { "64 nodad" };
        let add = |client| {
            let ip = address(lab.vip(family, 0), client, 0).ip();
            format!("ip addr add {ip}/{mask} dev eth0\n")
        };
        lab.client.ns.sh(&(0..CLIENTS).map(add).collect::<String>());
    }
}

/// Talks on connections over and over, until the flag is set. Returns how many answers came.
fn talk(connections: &mut [Held], over: &AtomicBool) -> u64 {
    let mut answers = 0;
    while !over.load(Ordering::Relaxed) {
        for held in connections.iter_mut() {
            let answer = held.say("untouched").unwrap();
            assert_eq!(answer, format!("{} untouched", held.server));
            answers += 1;
        }
        thread::sleep(patience(Duration::from_millis(20)));
    }
    answers
}

#[test]
fn a_death_concerns_only_the_clients_of_the_dead() {
    let lab = Lab::new(Topology::OneArm, SERVERS);
    let _http = lab.serve_http();
    add_addresses(&lab);
    let mut subjects = subjects(&lab);
    let config = subjects.iter().fold(lab.config(), |config, (family, s)| {
        config.service(s.service(&lab, *family))
    });
    let lb = lab.start(&config);
    for (_, subject) in &mut subjects {
        subject.homes = subject.probe(&lab);
        subject.held = subject.hold(&lab).unwrap();
        let servers: BTreeSet<_> = subject.held.iter().map(|held| &held.server).collect();
        assert_eq!(servers.len(), usize::from(SERVERS), "{}: {servers:?}", subject.name);
    }

    let dead = &lab.servers[1];
    let (mut lost, mut others): (Vec<Held>, Vec<Held>) = subjects
        .iter_mut()
        .flat_map(|(_, subject)| std::mem::take(&mut subject.held))
        .partition(|held| held.server == dead.name);
    let over = AtomicBool::new(false);
    let twice = 2 * others.len() as u64;
    thread::scope(|scope| {
        let talking = scope.spawn(|| talk(&mut others, &over));
        // Whatever fails ends the talk, too.
        let _end = SetOnDrop(&over);
        lab.unplug(dead);
        for (_, subject) in &subjects {
            lb.wait_out(&subject.name, &dead.name);
        }
        for held in &mut lost {
            let error = held.say("still there?").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        for (_, subject) in &subjects {
            moved_and_stayed(&lab, subject, &dead.name);
        }

        lab.replug(dead);
        for (_, subject) in &subjects {
            lb.wait_in(&subject.name, &dead.name);
        }
        for (_, subject) in &subjects {
            returned(&lab, &lb, subject, &dead.name);
        }
        over.store(true, Ordering::Relaxed);
        let answers = talking.join().unwrap();
        assert!(answers >= twice, "the others were under load: {answers} answers");
    });
}

/// New connections, while a server is down.
fn moved_and_stayed(lab: &Lab, subject: &Subject, dead: &str) {
    let name = &subject.name;
    let now = subject.probe(lab);
    assert!(now.iter().all(|server| server != dead), "{name}: {now:?}");
    if subject.by_hash() {
        let clients = subject.homes.iter().zip(&now);
        // A Maglev table may move a few more; of these, whose addresses are always the same, it moves none.
        let strays = clients.filter(|(home, now)| *home != dead && home != now).count();
        assert_eq!(strays, 0, "{name}: moved from {:?} to {now:?}", subject.homes);
    }
}

/// New connections, once it is back.
fn returned(lab: &Lab, lb: &Balancer<'_>, subject: &Subject, dead: &str) {
    let name = &subject.name;
    let share = |n| lab.client.ns.run(|| client::shares(subject.vip, n));
    match subject.scheduler {
        "round-robin" => assert_eq!(share(8), even(lab, 2), "{name}"),
        // All others have connections.
        "least-conn" => assert_eq!(share(3), shares_of(&[(dead, 3)]), "{name}: {:#?}", lb.service(name)),
        _ => assert_eq!(subject.probe(lab), subject.homes, "{name}"),
    }
}

struct SetOnDrop<'flag>(&'flag AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
