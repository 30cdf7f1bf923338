//! A laboratory: a client, the load balancer's host and servers, wired through Ethernet switches.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aya::{
    Ebpf,
    programs::{Xdp, xdp::XdpMode},
};
use lb_userspace::datapath::loader::BENCH_OBJECT;
use nix::unistd::Uid;
use tempfile::TempDir;

use crate::{
    balancer::Balancer,
    config::{Backend, Config, Service},
    leftovers,
    netns::Namespace,
    poll::eventually,
};

/// How many labs exist at the same time, so that parallel tests do not starve each other's health checks.
const LABS_AT_ONCE: usize = 3;

/// How client, load balancer and servers are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// All on one Ethernet; the load balancer has one interface, `eth0`.
    OneArm,
    /// The load balancer stands between the clients' Ethernet (`client0`) and the servers' (`servers0`).
    TwoArm,
    /// As [`Self::TwoArm`], with a router between it and the clients and another between it and the servers.
    Routed,
}

/// A side of the load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where clients are.
    Clients,
    /// Where servers are.
    Servers,
}

/// An Ethernet of the lab, with an IPv4 and an IPv6 subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    /// The load balancer's side towards the clients, and in one-arm labs the only one.
    Front = 1,
    /// The load balancer's side towards the servers.
    Back = 2,
    /// Clients behind a router.
    Clients = 8,
    /// Servers behind a router.
    Servers = 9,
}

impl Net {
    fn v4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 80, self as u8, host)
    }

    /// The host number is written in the address with its decimal digits, so that both families read alike.
    fn v6(self, host: u8) -> Ipv6Addr {
        format!("fd80:{}::{host}", self as u8).parse().expect("an IPv6 address")
    }

    fn bridge(self) -> String {
        format!("net{}", self as u8)
    }
}

/// Host numbers in every net.
mod number {
    pub(super) const ROUTER: u8 = 1;
    pub(super) const CLIENT: u8 = 2;
    pub(super) const BALANCER: u8 = 5;
    pub(super) const FIRST_SERVER: u8 = 11;
    pub(super) const VIP: u8 = 100;
}

/// A host of the lab.
#[derive(Debug)]
pub struct Host {
    /// Its name: `client`, `lb`, `s1`.
    pub name: String,
    /// Its namespace.
    pub ns: Namespace,
    /// Its first IPv4 address.
    pub v4: Ipv4Addr,
    /// Its first IPv6 address.
    pub v6: Ipv6Addr,
}

impl Host {
    /// Its address in the family of `like`, with a port.
    #[must_use]
    pub fn address(&self, family: Family, port: u16) -> SocketAddr {
        match family {
            Family::V4 => SocketAddr::from((self.v4, port)),
            Family::V6 => SocketAddr::from((self.v6, port)),
        }
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// A network of namespaces with everything that a test needs around it.
///
/// Fields are dropped in this order: the namespaces before the permit that lets the next lab begin.
#[derive(Debug)]
pub struct Lab {
    /// The client.
    pub client: Host,
    /// The load balancer's host. No daemon runs until [`Lab::start`].
    pub lb: Host,
    /// The servers `s1`, `s2` and so on.
    pub servers: Vec<Host>,
    /// How it is wired.
    pub topology: Topology,
    /// Instance name of its daemon.
    pub instance: String,
    pub(crate) switch: Namespace,
    routers: Vec<Host>,
    /// Programs on the switch's side of lb's cables, detached on drop.
    pass_programs: Mutex<Vec<Ebpf>>,
    directory: TempDir,
    _permit: Permit,
}

impl Lab {
    /// Makes a lab.
    ///
    /// # Panics
    /// Without root's rights, or when the network cannot be made.
    #[must_use]
    pub fn new(topology: Topology, servers: u8) -> Self {
        assert!(
            Uid::effective().is_root(),
            "these tests make network namespaces and load BPF programs, which needs root: run `sudo -E cargo xtask test`"
        );
        leftovers::sweep();
        let permit = Permit::take();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let instance = format!("{}-{}-{number}", leftovers::PREFIX, process::id());
        let (client_net, server_net) = match topology {
            Topology::OneArm => (Net::Front, Net::Front),
            Topology::TwoArm => (Net::Front, Net::Back),
            Topology::Routed => (Net::Clients, Net::Servers),
        };
        let host = |name: &str, net: Net, number: u8| Host {
            name: name.to_owned(),
            ns: Namespace::create(&format!("{instance}-{name}")),
            v4: net.v4(number),
            v6: net.v6(number),
        };
        let mut lab = Self {
            client: host("client", client_net, number::CLIENT),
            lb: host("lb", Net::Front, number::BALANCER),
            servers: (0..servers)
                .map(|i| host(&format!("s{}", i + 1), server_net, number::FIRST_SERVER + i))
                .collect(),
            topology,
            switch: Namespace::create(&format!("{instance}-sw")),
            routers: Vec::new(),
            pass_programs: Mutex::default(),
            directory: tempfile::Builder::new()
                .prefix(&instance)
                .tempdir()
                .expect("a temporary directory"),
            instance: instance.clone(),
            _permit: permit,
        };
        if topology == Topology::Routed {
            lab.routers = vec![
                host("rc", Net::Front, number::ROUTER),
                host("rs", Net::Back, number::ROUTER),
            ];
        }
        lab.wire(client_net, server_net);
        lab.route();
        for device in lab.interfaces() {
            lab.pass(device);
        }
        lab.wait_carriers();
        lab
    }

    /// Connects every host to its nets.
    fn wire(&self, client_net: Net, server_net: Net) {
        for net in [Net::Front, Net::Back, Net::Clients, Net::Servers] {
            self.switch.sh(&format!(
                "ip link add {0} type bridge stp_state 0 forward_delay 0 mcast_snooping 0; ip link set {0} up",
                net.bridge()
            ));
        }
        self.plug(&self.client, "eth0", client_net, number::CLIENT);
        for (i, server) in (0..).zip(&self.servers) {
            self.plug(server, "eth0", server_net, number::FIRST_SERVER + i);
        }
        if self.topology == Topology::OneArm {
            self.plug(&self.lb, "eth0", Net::Front, number::BALANCER);
        } else {
            self.plug(&self.lb, "client0", Net::Front, number::BALANCER);
            self.plug(&self.lb, "servers0", Net::Back, number::BALANCER);
        }
        if let [clients, servers] = self.routers.as_slice() {
            self.plug(clients, "eth0", Net::Front, number::ROUTER);
            self.plug(clients, "eth1", Net::Clients, number::ROUTER);
            self.plug(servers, "eth0", Net::Back, number::ROUTER);
            self.plug(servers, "eth1", Net::Servers, number::ROUTER);
        }
    }

    /// Connects one interface of a host to a net.
    ///
    /// A packet that XDP sends into a veth arrives only where the peer polls (GRO does that), and a stack that leaves
    /// checksums to the device would hand over packets without: hence the offload settings on all ends but lb's.
    fn plug(&self, host: &Host, device: &str, net: Net, number: u8) {
        let port = port_name(&host.name, device);
        self.switch.sh(&format!(
            "ip link add {port} type veth peer name {device} netns {host}
             ethtool -K {port} tx off gro on >/dev/null
             ip link set {port} master {bridge}
             ip link set {port} up",
            host = host.ns.name(),
            bridge = net.bridge(),
        ));
        let offloads = if host.name == "lb" {
            String::new()
        } else {
            format!("ethtool -K {device} tx off gro on >/dev/null")
        };
        host.ns.sh(&format!(
            "{offloads}
             ip addr add {v4}/24 dev {device}
             ip addr add {v6}/64 dev {device} nodad
             ip link set {device} up",
            v4 = net.v4(number),
            v6 = net.v6(number),
        ));
    }

    /// Adds routes; the load balancer's host is the servers' gateway, as `nat` needs it.
    fn route(&self) {
        let default = |host: &Host, net: Net, gateway: u8| {
            host.ns.sh(&format!(
                "ip route add default via {}; ip -6 route add default via {}",
                net.v4(gateway),
                net.v6(gateway)
            ));
        };
        match self.topology {
            Topology::OneArm => {}
            Topology::TwoArm => {
                default(&self.client, Net::Front, number::BALANCER);
                for server in &self.servers {
                    default(server, Net::Back, number::BALANCER);
                }
            }
            Topology::Routed => {
                default(&self.client, Net::Clients, number::ROUTER);
                for server in &self.servers {
                    default(server, Net::Servers, number::ROUTER);
                }
                for (router, net, far) in [(0, Net::Front, Net::Clients), (1, Net::Back, Net::Servers)] {
                    let router = &self.routers[router];
                    router.ns.sh(FORWARD);
                    default(router, net, number::BALANCER);
                    self.lb.ns.sh(&format!(
                        "ip route add {}/24 via {}; ip -6 route add {}/64 via {}",
                        far.v4(0),
                        net.v4(number::ROUTER),
                        far.v6(0),
                        net.v6(number::ROUTER)
                    ));
                }
            }
        }
    }

    /// Attaches a program that passes everything to the switch's side of one of lb's cables.
    ///
    /// GRO at the peer lets frames arrive that XDP redirects into a veth. Those that XDP_TX sends back stay in the peer's
    /// ring: the veth driver wakes a peer for them only where that has an XDP program, too.
    fn pass(&self, device: &str) {
        let port = port_name(&self.lb.name, device);
        let mut object = Ebpf::load(BENCH_OBJECT).expect("the object loads");
        let program: &mut Xdp = object
            .program_mut("pass")
            .expect("a program")
            .try_into()
            .expect("an XDP program");
        program.load().expect("the program loads");
        self.switch
            .run(|| program.attach(&port, XdpMode::Driver))
            .expect("the program attaches");
        self.pass_programs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(object);
    }

    /// Waits until every cable is seen at both ends; what is sent before is lost.
    fn wait_carriers(&self) {
        let hosts = self
            .servers
            .iter()
            .chain(&self.routers)
            .chain([&self.client, &self.lb])
            .map(|host| &host.ns);
        for namespace in hosts.chain([&self.switch]) {
            eventually("all links to be up", Duration::from_secs(10), || {
                let links = namespace.sh("ip -oneline link show type veth");
                if links.lines().all(|link| link.contains("state UP")) {
                    Ok(())
                } else {
                    Err(links)
                }
            });
        }
    }

    /// The VIP, which no host has until something adds it.
    #[must_use]
    pub fn vip(&self, family: Family, port: u16) -> SocketAddr {
        match family {
            Family::V4 => SocketAddr::from((Net::Front.v4(number::VIP), port)),
            Family::V6 => SocketAddr::from((Net::Front.v6(number::VIP), port)),
        }
    }

    /// The load balancer's address that servers see as the source of `full-nat` connections.
    #[must_use]
    pub fn source(&self, family: Family) -> IpAddr {
        let net = if self.topology == Topology::OneArm {
            Net::Front
        } else {
            Net::Back
        };
        match family {
            Family::V4 => net.v4(number::BALANCER).into(),
            Family::V6 => net.v6(number::BALANCER).into(),
        }
    }

    /// Interfaces of the load balancer's host, the clients' side first.
    #[must_use]
    pub fn interfaces(&self) -> &'static [&'static str] {
        if self.topology == Topology::OneArm {
            &["eth0"]
        } else {
            &["client0", "servers0"]
        }
    }

    /// Directory for files of the test, removed with the lab.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The daemon's control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("lb.sock")
    }

    /// Directory of the daemon's pins.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        PathBuf::from(leftovers::PINS).join(&self.instance)
    }

    /// A configuration with this lab's instance, paths and interfaces, and no service yet.
    #[must_use]
    pub fn config(&self) -> Config {
        Config::new(&self.instance, &self.socket(), self.directory.path(), self.interfaces())
    }

    /// A configuration with [`Lab::web`] of both families: `web`, and `web6` over IPv6.
    #[must_use]
    pub fn config_for_both(&self) -> Config {
        self.config()
            .service(self.web(Family::V4))
            .service(self.web(Family::V6).named("web6"))
    }

    /// A TCP service on the VIP's port 80 with every server as a backend, checked over TCP.
    #[must_use]
    pub fn web(&self, family: Family) -> Service {
        Service::new("web", self.vip(family, 80), "tcp").backends(self.backends(family, 80))
    }

    /// A UDP service on the VIP's port 7 with every server as a backend, not checked.
    #[must_use]
    pub fn echo(&self, family: Family) -> Service {
        Service::new("echo", self.vip(family, 7), "udp")
            .health("type = \"none\"")
            .backends(self.backends(family, 7))
    }

    /// Every server as a backend.
    #[must_use]
    pub fn backends(&self, family: Family, port: u16) -> Vec<Backend> {
        self.servers
            .iter()
            .map(|s| Backend::new(&s.name, s.address(family, port)))
            .collect()
    }

    /// Starts the daemon and waits until it answers and every backend that is meant to serve does.
    #[must_use]
    pub fn start(&self, config: &Config) -> Balancer<'_> {
        let balancer = Balancer::start(self, config);
        balancer.wait_ready();
        balancer
    }

    /// Gives the link behind a router of a [`Topology::Routed`] lab, away from the load balancer, another MTU. Only the router
    /// knows.
    ///
    /// # Panics
    /// Without routers.
    pub fn narrow(&self, side: Side, mtu: u32) {
        let [clients, servers] = self.routers.as_slice() else {
            panic!("{:?} has no routers", self.topology)
        };
        let router = match side {
            Side::Clients => clients,
            Side::Servers => servers,
        };
        router.ns.sh(&format!("ip link set eth1 mtu {mtu}"));
    }

    /// Pulls a host's cable out, at the switch.
    pub fn unplug(&self, host: &Host) {
        self.switch
            .sh(&format!("ip link set {} down", port_name(&host.name, "eth0")));
    }

    /// Puts the cable back in.
    pub fn replug(&self, host: &Host) {
        self.switch
            .sh(&format!("ip link set {} up", port_name(&host.name, "eth0")));
    }

    /// Makes the load balancer's interface anew after it was deleted: same name and addresses, another index and MAC.
    pub fn rebuild_interface(&self, device: &str) {
        let net = if device == "servers0" { Net::Back } else { Net::Front };
        self.plug(&self.lb, device, net, number::BALANCER);
        self.pass(device);
    }

    /// Gives every interface another MTU. Before the daemon starts, so that it finds them like that.
    pub fn set_mtu(&self, mtu: u32) {
        let hosts = self.servers.iter().chain(&self.routers).chain([&self.client, &self.lb]);
        for namespace in [&self.switch].into_iter().chain(hosts.map(|host| &host.ns)) {
            namespace.sh(&format!(
                "for device in $(ip -oneline link show up | cut -d: -f2 | cut -d@ -f1 | grep -v lo); do
                     ip link set $device mtu {mtu}
                 done"
            ));
        }
    }

    /// Has every end of a one-arm lab's cables put VLAN tags into the frames, where XDP sees them.
    pub fn leave_tags_in_frames(&self) {
        let off = |device: &str| format!("ethtool -K {device} txvlan off tx-vlan-stag-hw-insert off >/dev/null");
        for host in self.servers.iter().chain([&self.client, &self.lb]) {
            host.ns.sh(&off("eth0"));
            self.switch.sh(&off(&port_name(&host.name, "eth0")));
        }
    }

    /// Lets the load balancer's host route packets by itself, as the kernel's own NAT needs it.
    pub fn let_kernel_forward(&self) {
        self.lb.ns.sh(FORWARD);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        leftovers::remove_pins(&self.instance);
        if std::thread::panicking() {
            let kept = self.path("lb.log");
            eprintln!(
                "---- log of {} ----\n{}",
                self.instance,
                fs::read_to_string(kept).unwrap_or_default()
            );
        }
    }
}

/// Turns routing on.
const FORWARD: &str = "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";

/// The switch's end of a host's cable; at most 15 characters.
pub(crate) fn port_name(host: &str, device: &str) -> String {
    format!("{host}-{device}")
}

/// The right to have a lab.
#[derive(Debug)]
struct Permit;

static TAKEN: Mutex<usize> = Mutex::new(0);
static RETURNED: Condvar = Condvar::new();

impl Permit {
    fn take() -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken >= LABS_AT_ONCE {
            taken = RETURNED.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        Self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        RETURNED.notify_one();
    }
}
