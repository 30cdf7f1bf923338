//! A SYN flood while real connections go on.

use std::{
    fmt,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_tests::{
    HttpServer, Lab, Outcome, Topology,
    balancer::program,
    client::{self, Held},
    lab::{Family, Host},
};

/// Connections that go on.
const HELD: usize = 1000;
/// Threads that ask on them.
const CLIENTS: usize = 4;

/// How long answers took, in order.
struct Latencies(Vec<Duration>);

impl Latencies {
    /// Asks once on every connection, or again and again until the flood is over. Every answer must come.
    fn of(held: &mut [Held], over: Option<&AtomicBool>) -> Self {
        let share = held.len() / CLIENTS;
        let mut all: Vec<Duration> = thread::scope(|scope| {
            let client = |part| scope.spawn(move || ask_all(part, over));
            let clients: Vec<_> = held.chunks_mut(share).map(client).collect();
            clients.into_iter().flat_map(|c| c.join().unwrap()).collect()
        });
        all.sort();
        Self(all)
    }

    fn quantile(&self, hundredths: usize) -> Duration {
        self.0[(self.0.len() - 1) * hundredths / 100]
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, p99) = (self.quantile(50), self.quantile(99));
        write!(
            f,
            "{} answers, median {median:?}, 99th percentile {p99:?}",
            self.0.len()
        )
    }
}

/// What one client does: how long each answer took.
fn ask_all(held: &mut [Held], over: Option<&AtomicBool>) -> Vec<Duration> {
    let ask = |held: &mut Held| {
        let begin = Instant::now();
        assert_eq!(held.say("still there").unwrap(), format!("{} still there", held.server));
        begin.elapsed()
    };
    let mut all: Vec<_> = held.iter_mut().map(ask).collect();
    while over.is_some_and(|over| !over.load(Ordering::Relaxed)) {
        all.extend(held.iter_mut().map(ask));
    }
    all
}

/// A flood of SYNs from a host to its end, and how many were sent. By a count it is a flood on a busy machine, too.
fn flood(from: &Host, vip: SocketAddr, further: &[&str]) -> u64 {
    let mut command = from.ns.command(program());
    command
        .args(["bench", "traffic", "syn", "--json", "--interface", "eth0", "--to"])
        .arg(vip.to_string())
        .args(["--flows", "20000"])
        .args(further);
    let told = Outcome::of(&mut command).success().json();
    told["figures"]["sent"].as_u64().unwrap()
}

/// As many SYNs as the generator makes, from a host beside; many times as many as there is room for half-open flows.
#[test]
fn a_syn_flood_ends_none_of_a_thousand_connections() {
    let lab = Lab::new(Topology::OneArm, 3);
    let _servers: Vec<_> = lab.servers[..2].iter().map(|s| HttpServer::start(s, 80)).collect();
    for family in Family::ALL {
        let mut web = lab.web(family);
        web = web.backends(lab.backends(family, 80).into_iter().take(2).collect());
        let lb = lab.start(&lab.config().half_open(1024).service(web));
        let vip = lab.vip(family, 80);
        let mut held: Vec<Held> = lab
            .client
            .ns
            .run(|| (0..HELD).map(|_| Held::open(vip).unwrap()).collect());
        let quiet = Latencies::of(&mut held, None);
        let over = AtomicBool::new(false);
        let (sent, busy) = thread::scope(|scope| {
            let flooding = scope.spawn(|| {
                let sent = flood(&lab.servers[2], vip, &["--count", "3000000", "--duration", "2s"]);
                over.store(true, Ordering::Relaxed);
                sent
            });
            let busy = Latencies::of(&mut held, Some(&over));
            (flooding.join().unwrap(), busy)
        });
        println!("{family:?}: {quiet}; in a flood of {sent} SYNs: {busy}");
        let after = Latencies::of(&mut held, None);
        assert_eq!(after.0.len(), HELD);
        let counted = lb.service("web").counters.new_flows;
        assert!(counted > 20_000, "there was a flood: {counted} flows");
        lb.detach();
    }
}

/// Several times as many SYNs as there is room for half-open flows. A handshake has half a second until the flood has pushed it
/// out, which is long enough on a busy machine, too.
#[test]
fn a_syn_flood_keeps_no_new_connection_out() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _servers = lab.serve_http();
    for family in Family::ALL {
        let lb = lab.start(&lab.config().half_open(2048).service(lab.web(family)));
        let vip = lab.vip(family, 80);
        let over = AtomicBool::new(false);
        let mut fresh = 0;
        thread::scope(|scope| {
            let flooding = scope.spawn(|| {
                flood(&lab.client, vip, &["--rate", "4k", "--count", "12000"]);
                over.store(true, Ordering::Relaxed);
            });
            while !over.load(Ordering::Relaxed) {
                lab.client.ns.run(|| client::who(vip)).unwrap();
                fresh += 1;
                thread::sleep(Duration::from_millis(20));
            }
            flooding.join().unwrap();
        });
        let counted = lb.service("web").counters.new_flows;
        assert!(counted > 10_000, "there was a flood: {counted} flows");
        assert!(fresh > 0, "some connections were opened in it");
        lb.detach();
    }
}

#[test]
fn flows_are_listed_counted_and_ended_by_filters() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _servers = lab.serve_http();
    let _lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    let vip = lab.vip(Family::V4, 80);
    let mut held: Vec<Held> = lab.client.ns.run(|| (0..4).map(|_| Held::open(vip).unwrap()).collect());
    let total = |arguments: &[&str]| {
        let flows = lab.lb(&[&["--json", "flows"], arguments].concat()).success().json();
        (
            flows["total"].as_u64().unwrap(),
            flows["flows"].as_array().unwrap().len(),
        )
    };
    let client = held[0].local;
    let network = format!("{}/24", client.ip());
    assert_eq!(total(&["--state", "established"]), (4, 4));
    assert_eq!(total(&["--state", "half-open"]), (0, 0));
    assert_eq!(total(&["--state", "established", "--limit", "3"]), (4, 3));
    assert_eq!(total(&["--client", &network, "--state", "established"]), (4, 4));
    assert_eq!(total(&["--client", "203.0.113.0/24"]), (0, 0));
    assert_eq!(total(&["--client", &client.to_string()]), (1, 1));
    let counts = lab
        .lb(&["--json", "flows", "--count", "--state", "established"])
        .success()
        .json();
    let counts: Vec<u64> = counts
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["flows"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [2, 2], "of each backend");
    assert_eq!(lab.lb(&["flows", "kill"]).code, 2, "which?");
    let killed = lab.lb(&["flows", "kill", "--client", &client.to_string()]).success();
    assert_eq!(killed.stdout, "1 flow ended\n");
    held.remove(0).say("still there?").unwrap_err();
    for one in &mut held {
        one.say("still there?").unwrap();
    }
    let killed = lab.lb(&["--json", "flows", "kill", "--all"]).success().json();
    assert!(killed["killed"].as_u64().unwrap() >= 3, "{killed}");
}
