//! Many services over many backends with many flows: that all of it works, and what it takes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Backend, Balancer, Config, HttpServer, Lab, Outcome, Service, Topology, balancer::program, client,
    control::resident, lab::Family, patience,
};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Services, in turn of IPv4 and IPv6, and in turn of every scheduler.
    pub services: u16,
    /// Backends of each.
    pub backends: u16,
    /// Flows of them all.
    pub flows: u32,
}

/// What it took.
#[derive(Debug)]
pub struct Taken {
    /// From the start of the daemon until all backends take flows.
    pub start: Duration,
    /// From the command that changes a weight to its end, by scheduler; the change is published by then.
    pub changes: Vec<(&'static str, Duration)>,
    /// `lb status` of everything.
    pub status: Duration,
    /// `lb flows --count`.
    pub count: Duration,
    /// Flows that it counted.
    pub flows: u64,
    /// The daemon's memory with all flows, in bytes.
    pub resident: u64,
    /// The maps' memory, in bytes.
    pub maps: u64,
}

const SCHEDULERS: [&str; 4] = ["round-robin", "least-conn", "source-hash", "maglev"];
/// Services of one VIP, on ports one after the other.
const PORTS: u16 = 100;
const FIRST_PORT: u16 = 1000;
/// A weight that shows, among many of one.
const HEAVY: u16 = 50;
/// How often the flows are sent through, when some get lost on the way.
const PASSES: u32 = 6;
/// As many addresses of services as the generator takes are sent to.
const DESTINATIONS: usize = 250;

impl Size {
    /// The services that are asked whether they work: some of each kind.
    fn probed(self) -> impl Iterator<Item = u16> {
        (0..self.services).step_by(usize::from(self.services / 24).max(1) | 1)
    }

    fn config(self, lab: &Lab) -> Config {
        let entries = (self.flows + self.flows / 4).next_power_of_two();
        let config = lab.config().flows(entries).half_open(entries).limit(&format!(
            "backends = {}",
            u32::from(self.services) * u32::from(self.backends)
        ));
        (0..self.services).fold(config, |config, n| config.service(self.service(lab, n)))
    }

    fn service(self, lab: &Lab, number: u16) -> Service {
        let first = u32::from(number) * u32::from(self.backends) + 1;
        let backend = |n| Backend::new(&format!("b{n}"), backend(family(number), first + u32::from(n)));
        Service::new(&name(number), vip(lab, number), "tcp+udp")
            .health("type = \"none\"")
            .set(&format!(
                "scheduler = {:?}\nmaglev-table-size = 1021\ntimeouts = {{ udp = \"10m\" }}",
                scheduler(number)
            ))
            .backends((0..self.backends).map(backend).collect())
    }
}

fn name(number: u16) -> String {
    format!("service-{number}")
}

fn family(number: u16) -> Family {
    if number.is_multiple_of(2) {
        Family::V4
    } else {
        Family::V6
    }
}

fn scheduler(number: u16) -> &'static str {
    SCHEDULERS[usize::from(number / 2) % SCHEDULERS.len()]
}

fn vip(lab: &Lab, number: u16) -> SocketAddr {
    let plain = lab.vip(family(number), FIRST_PORT + number % PORTS);
    let offset = number / PORTS;
    let ip: IpAddr = match plain.ip() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() + u32::from(offset)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() + u128::from(offset)).into(),
    };
    SocketAddr::new(ip, plain.port())
}

/// Addresses that are all the server's.
fn backend(family: Family, number: u32) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + number).into(),
        Family::V6 => {
            Ipv6Addr::from_bits(Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 0, 0).to_bits() + u128::from(number)).into()
        }
    };
    SocketAddr::new(ip, 80)
}

/// Starts a daemon with all of it, changes weights, and fills the flow tables.
///
/// # Panics
/// When something does not work: a service that does not forward, a change that has no effect, flows that are missing.
#[must_use]
pub fn measure(size: Size) -> Taken {
    let lab = Lab::new(Topology::OneArm, 1);
    let server = &lab.servers[0];
    server
        .ns
        .sh("ip route add local 10.128.0.0/9 dev lo; ip route add local fd90::/16 dev lo");
    lab.lb.ns.sh(&format!(
        "ip route add 10.128.0.0/9 via {}; ip route add fd90::/16 via {}",
        server.v4, server.v6
    ));
    let _http = HttpServer::start(server, 80);
    // Takes what comes, and is never asked for it.
    let _sink = server
        .ns
        .run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 80)))
        .expect("a port");
    let config = size.config(&lab);

    let (balancer, start) = timed(|| lab.start(&config));
    for number in size.probed() {
        let answer = lab.client.ns.run(|| client::who(vip(&lab, number)));
        answer.unwrap_or_else(|e| panic!("{}: {e}", name(number)));
    }
    let changes = (0..).step_by(2).zip(SCHEDULERS).map(|(number, scheduler)| {
        let (name, weight) = (name(number), HEAVY.to_string());
        let set = ["backend", "set", &name, "b0", "--weight", &weight];
        let (_done, took) = timed(|| lab.lb(&set).success());
        (scheduler, took)
    });
    let changes = changes.collect();
    check_share(&lab, &balancer, size);

    let flows = fill(&lab, size);
    let (_, count) = timed(|| count(&lab));
    let (status, took) = timed(|| balancer.status());
    Taken {
        start,
        changes,
        status: took,
        count,
        flows,
        resident: resident(balancer.pid()),
        maps: status.maps.iter().map(|map| map.bytes).sum(),
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let done = work();
    (done, begin.elapsed())
}

/// Opens as many connections as a round has turns, of which the heavy backend gets what it should.
fn check_share(lab: &Lab, balancer: &Balancer<'_>, size: Size) {
    let opened = || balancer.backend(&name(0), "b0").counters.new_flows;
    let before = opened();
    let round = u32::from(size.backends - 1 + HEAVY);
    let _all = lab.client.ns.run(|| client::shares(vip(lab, 0), round));
    assert_eq!(opened() - before, u64::from(HEAVY), "of {round} connections");
}

/// Sends all flows through until they are there. Two datagrams establish one.
fn fill(lab: &Lab, size: Size) -> u64 {
    let mut found = 0;
    for _ in 0..PASSES {
        for family_of in Family::ALL {
            send(lab, size, family_of);
        }
        found = count(lab);
        if found >= u64::from(size.flows) {
            break;
        }
    }
    let enough = u64::from(size.flows) * 99 / 100;
    assert!(found >= enough, "{found} flows of {}", size.flows);
    found
}

fn send(lab: &Lab, size: Size, wanted: Family) {
    let vips = (0..size.services)
        .filter(|n| family(*n) == wanted)
        .map(|n| vip(lab, n).to_string());
    let source = if wanted == Family::V4 {
        "10.81.0.0/20"
    } else {
        "fd81::/116"
    };
    let flows = size.flows / 2;
    let mut command = lab.client.ns.command("timeout");
    command
        .arg(patience(Duration::from_mins(1)).as_secs().to_string())
        .arg(program())
        .args([
            "bench",
            "traffic",
            "udp",
            "--json",
            "--interface",
            "eth0",
            "--source",
            source,
        ])
        .args(["--flows", &flows.to_string(), "--count", &(2 * flows).to_string()])
        .arg("--to")
        .arg(vips.take(DESTINATIONS).collect::<Vec<_>>().join(","));
    let _told = Outcome::of(&mut command).success();
}

/// Flows of more than one datagram, as `lb flows --count` has them.
fn count(lab: &Lab) -> u64 {
    let counts = lab
        .lb(&["--json", "flows", "--count", "--state", "udp"])
        .success()
        .json();
    let flows = |row: &Value| row["flows"].as_u64().unwrap_or_default();
    counts.as_array().map_or(0, |rows| rows.iter().map(flows).sum())
}
