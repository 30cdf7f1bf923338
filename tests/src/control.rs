//! A daemon with thousands of backends and as many checks: that it works, and what it takes.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use crate::{Backend, Balancer, Config, Lab, Nginx, Service, Topology, lab::Family, patience};

/// For how long the processor time of a daemon at rest is counted.
const WATCHED: Duration = Duration::from_secs(10);
/// Changes by the command line, of which the median counts.
const CHANGES: u16 = 9;
/// Kernel ticks in a second (`USER_HZ`).
const TICKS: u64 = 100;

/// How backends are checked, at the default intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Not at all.
    None,
    /// A connection is opened.
    Tcp,
    /// A page is asked for.
    Http,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no checks",
            Self::Tcp => "checks over TCP",
            Self::Http => "checks over HTTP",
        })
    }
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Services.
    pub services: u16,
    /// Backends of each; every backend has an address of its own.
    pub backends: u16,
    /// How they are checked.
    pub check: Check,
    /// Whether each backend is a next hop by itself; else all are behind one router. The kernel has room for a thousand
    /// neighbours unless told otherwise, on the whole machine.
    pub on_link: bool,
}

/// What it took.
#[derive(Debug)]
pub struct Taken {
    /// From the start of the daemon until all backends take flows, and the processor time of that.
    pub start: (Duration, Duration),
    /// The daemon's memory, in bytes.
    pub resident: u64,
    /// Processor time in a second of rest: sweeps, checks, next hops.
    pub rest: Duration,
    /// A weight by the command line, median.
    pub change: Duration,
    /// `lb status --json`, and its length in bytes.
    pub status: (Duration, u64),
    /// `lb status`.
    pub page: Duration,
    /// From the start of a daemon that finds one more service of one backend in its configuration until that takes flows,
    /// while all others go on, and the processor time.
    pub reload: (Duration, Duration),
}

impl Size {
    fn all(self) -> u32 {
        u32::from(self.services) * u32::from(self.backends)
    }

    fn config(self, lab: &Lab) -> Config {
        let config = lab.config().limit(&format!("backends = {}", (2 * self.all()).max(64)));
        (0..self.services).fold(config, |config, n| config.service(self.service(lab, n)))
    }

    fn service(self, lab: &Lab, number: u16) -> Service {
        let first = u32::from(number) * u32::from(self.backends) + 1;
        let backend = |n| Backend::new(&format!("b{n}"), backend(first + u32::from(n)));
        let health = match self.check {
            Check::None => "type = \"none\"",
            Check::Tcp => "type = \"tcp\"",
            Check::Http => "type = \"http\"\npath = \"/\"",
        };
        Service::new(&format!("service-{number}"), lab.vip(Family::V4, 1000 + number), "tcp")
            .health(health)
            .backends((0..self.backends).map(backend).collect())
    }
}

/// Addresses that are all the server's.
fn backend(number: u32) -> SocketAddr {
    let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + number);
    SocketAddr::new(IpAddr::V4(ip), 80)
}

/// Starts a daemon with all of it, watches it at rest, changes it, and starts it anew.
///
/// # Panics
/// When something does not work.
#[must_use]
pub fn measure(size: Size) -> Taken {
    let lab = Lab::new(Topology::OneArm, 1);
    let server = &lab.servers[0];
    server.ns.sh("ip route add local 10.128.0.0/16 dev lo");
    let way = if size.on_link {
        "dev eth0".to_owned()
    } else {
        format!("via {}", server.v4)
    };
    lab.lb.ns.sh(&format!("ip route add 10.128.0.0/16 {way}"));
    let _nginx = Nginx::start(&lab, server);

    let begin = Instant::now();
    let mut balancer = Balancer::start(&lab, &size.config(&lab));
    wait(&balancer, size);
    let start = (begin.elapsed(), worked(balancer.pid()));

    let before = worked(balancer.pid());
    thread::sleep(WATCHED);
    let rest = (worked(balancer.pid()) - before) / u32::try_from(WATCHED.as_secs()).unwrap_or(1);

    let mut changes: Vec<Duration> = (0..CHANGES).map(|n| change(&lab, 2 + n)).collect();
    changes.sort_unstable();
    let begin = Instant::now();
    let json = lab.lb(&["--json", "status"]).success();
    let status = (begin.elapsed(), json.stdout.len() as u64);
    let begin = Instant::now();
    let _page = lab.lb(&["status"]).success();
    let page = begin.elapsed();
    let resident = resident(balancer.pid());

    let newcomer = Service::new("newcomer", lab.vip(Family::V4, 999), "tcp")
        .health("type = \"none\"")
        .backends(vec![Backend::new("b0", backend(65_000))]);
    let config = size.config(&lab).service(newcomer);
    let _path = lab.write(&config.toml());
    let begin = Instant::now();
    balancer.restart();
    let _in_rotation = balancer.wait_in("newcomer", "b0");
    let reload = (begin.elapsed(), worked(balancer.pid()));
    Taken {
        start,
        resident,
        rest,
        change: changes[changes.len() / 2],
        status,
        page,
        reload,
    }
}

/// Looks once in a while: each look costs the daemon something, too.
fn wait(balancer: &Balancer<'_>, size: Size) {
    let end = Instant::now() + patience(Duration::from_secs(60));
    loop {
        let status = balancer.status();
        let backends = status.services.iter().flat_map(|s| &s.backends);
        let serving = backends.filter(|b| b.in_rotation).count();
        if serving == size.all() as usize {
            return;
        }
        assert!(
            Instant::now() < end,
            "{serving} of {} backends serve after a minute",
            size.all()
        );
        thread::sleep(Duration::from_millis(250));
    }
}

fn change(lab: &Lab, weight: u16) -> Duration {
    let begin = Instant::now();
    let _told = lab
        .lb(&["backend", "set", "service-0", "b0", "--weight", &weight.to_string()])
        .success();
    begin.elapsed()
}

/// Processor time of a process so far.
fn worked(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    // The name, in brackets, may have blanks; utime and stime are the 14th and 15th field (proc(5)).
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|n| n.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// Memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.expect("its memory") << 10
}
