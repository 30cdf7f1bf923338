//! Three guests and two networks: what is connected to what, under which address, and what runs where.
//!
//! ```text
//!   client ──┬── lb ── backends        the client's and the balancer's `eth0` and the backends' `eth0` are on a hub, the
//!            └──────── backends        balancer's and the backends' `eth1` on a cable of their own
//! ```
//!
//! By the hub, the balancer has one arm: requests leave by the interface that they came in on. By the cable it has two.

use std::{
    env, fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    devices,
    guest::{Guest, LISTEN},
    queues,
    service::{self, ECHO_PORT, HTTP_PORT, NETWORKS},
};
use crate::{
    build::{self, Profile},
    vm::{
        image::Image,
        kernel::Kernel,
        machine::{Cable, Machine, Network},
    },
};

/// Bytes of the file that the servers have.
pub(super) const FILE_SIZE: u64 = 16 << 20;

/// The clock of an emulated processor is measured wrongly when the machine is busy meanwhile; this one needs no measuring.
pub(super) const CLOCK: &str = "clocksource=acpi_pm";
/// How long qemu may take to make a socket.
const SOCKET: Duration = Duration::from_secs(20);

/// Where the balancer has its configuration.
pub(super) const CONFIGURATION: &str = "/etc/lb.toml";
/// The job of the balancer's guest.
pub(super) const BALANCER: &str = "balancer";

/// Addresses of the client and of the balancer in a network.
const CLIENT_HOST: u8 = 2;
const BALANCER_HOST: u8 = 1;

/// The running guests.
#[derive(Debug)]
pub(super) struct Lab {
    /// Asks.
    pub(super) client: Guest,
    /// Runs `lb`.
    pub(super) balancer: Guest,
    /// Has all servers.
    pub(super) backends: Guest,
    _sockets: Directory,
}

impl Lab {
    /// Boots all three at once and waits until they are ready, with all servers running.
    ///
    /// # Errors
    /// When something is not installed, or a guest does not come up.
    pub(super) fn start(kernel: &Kernel) -> Result<Self> {
        let image = image(kernel)?;
        let sockets = Directory::new()?;
        let socket = |name: &str| sockets.0.join(name);
        let machine = |job| Machine::new(kernel, &image, job).append(CLOCK);
        let hub = Cable::Hub(vec![
            Cable::Listen(socket("balancer")),
            Cable::Listen(socket("backends")),
        ]);
        let client = Guest::start("client", &machine("client").network(network(1, hub)))?;
        wait_for(&[socket("balancer"), socket("backends")])?;
        let balancer = machine(BALANCER)
            .cpus(2)
            .memory(768)
            .network(network(2, Cable::Connect(socket("balancer"))))
            .network(network(3, Cable::Listen(socket("cable"))));
        let balancer = Guest::start("balancer", &balancer)?;
        wait_for(&[socket("cable")])?;
        let backends = machine("backends")
            .network(network(4, Cable::Connect(socket("backends"))))
            .network(network(5, Cable::Connect(socket("cable"))));
        let backends = Guest::start("backends", &backends)?;
        let mut lab = Self {
            client,
            balancer,
            backends,
            _sockets: sockets,
        };
        for guest in [&mut lab.client, &mut lab.balancer, &mut lab.backends] {
            let ready = guest.wait_ready();
            ready.with_context(|| guest.tail())?;
        }
        Ok(lab)
    }

    /// The last lines of all consoles, and what `lb` and its kernel last said.
    pub(super) fn tails(&mut self) -> String {
        let asked = self.balancer.ask("tail -n 20 /run/lb.log; dmesg | tail -n 20");
        drop(asked);
        [&self.client, &self.balancer, &self.backends]
            .map(Guest::tail)
            .join("\n")
    }
}

/// The image that all three boot from.
fn image(kernel: &Kernel) -> Result<PathBuf> {
    let this = env::current_exe().context("cannot tell where xtask is")?;
    let mut image = with_balancer(kernel)?;
    image
        .stripped("bin/xtask", &this)?
        .program("curl")?
        .program("nginx")?
        .text(in_image(CONFIGURATION), &service::configuration())
        .job("client", &job(&client_job()))
        .job("backends", &job(&backends_job()));
    for (server, host) in service::servers() {
        image.text(&format!("etc/{server}.conf"), &nginx_configuration(server, host));
    }
    image.write("trio")
}

/// The image of the guest whose devices are tried.
///
/// # Errors
/// As [`Lab::start`].
pub(super) fn devices_image(kernel: &Kernel) -> Result<PathBuf> {
    let mut image = with_balancer(kernel)?;
    image
        .text(in_image(CONFIGURATION), &devices::configuration("auto"))
        .text("etc/native.toml", &devices::configuration("native"))
        .text(in_image(queues::CONFIGURATION), &queues::configuration())
        .program("bpftool")?;
    image.write("devices")
}

fn with_balancer(kernel: &Kernel) -> Result<Image> {
    let lb = build::binary(Profile::Debug)?;
    let mut image = Image::new(kernel)?;
    image
        .stripped("bin/lb", &lb)?
        .program("ethtool")?
        .modules(&["virtio_pci", "virtio_net"])?
        .job(BALANCER, &job(&balancer_job()));
    Ok(image)
}

fn in_image(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn job(set_up: &str) -> String {
    format!("set -e\n{set_up}set +e\n{LISTEN}")
}

fn client_job() -> String {
    interface(0, &[CLIENT_HOST])
}

fn balancer_job() -> String {
    let mut job = interface(0, &[BALANCER_HOST]) + &interface(1, &[BALANCER_HOST]);
    job.push_str("echo 1 >/proc/sys/net/ipv4/ip_forward\necho 1 >/proc/sys/net/ipv6/conf/all/forwarding\n");
    job
}

/// In the second network, the balancer is the servers' gateway to everything, the client included; in the first, the
/// client is a neighbour.
fn backends_job() -> String {
    let hosts: Vec<u8> = service::servers().map(|(_, host)| host).collect();
    let mut job = interface(0, &hosts) + &interface(1, &hosts);
    let [_, cable] = NETWORKS;
    for family in service::Family::ALL {
        let (option, net) = (family.option(), family.subnet(cable));
        let gateway = family.address(cable, BALANCER_HOST);
        job.push_str(&format!(
            "ip {option} rule add from {net} lookup 2\nip {option} route add default via {gateway} dev eth1 table 2\n"
        ));
    }
    job.push_str(&format!(
        "mkdir /run/files\nhead -c {FILE_SIZE} /dev/urandom >/run/files/random\n"
    ));
    for (server, host) in service::servers() {
        let addresses: Vec<String> = listening(host).map(|ip| format!("{ip}:{ECHO_PORT}")).collect();
        job.push_str(&format!("xtask vm-guest echo {server} {} &\n", addresses.join(" ")));
        job.push_str(&format!("{}\n", start_server(server)));
    }
    job
}

/// The line that starts a server.
pub(super) fn start_server(server: &str) -> String {
    format!("nginx -c /etc/{server}.conf -e /run/{server}.err")
}

/// The line that kills one as a power cut would: all processes of the group that nginx made.
pub(super) fn kill_server(server: &str) -> String {
    format!("kill -9 -$(cat /run/{server}.pid) && rm /run/{server}.pid")
}

fn interface(number: u8, hosts: &[u8]) -> String {
    let mut lines = String::new();
    for family in service::Family::ALL {
        for &host in hosts {
            let (address, length, nodad) = (family.address(number, host), family.prefix(), family.nodad());
            lines.push_str(&format!("ip addr add {address}/{length} dev eth{number} {nodad}\n"));
        }
    }
    lines + &format!("ip link set eth{number} up\n")
}

/// Every address of a server, as it stands before a port.
fn listening(host: u8) -> impl Iterator<Item = String> {
    NETWORKS
        .into_iter()
        .flat_map(move |network| service::Family::ALL.map(|family| family.bracketed(network, host)))
}

fn nginx_configuration(server: &str, host: u8) -> String {
    let listen: String = listening(host)
        .map(|ip| format!("        listen {ip}:{HTTP_PORT} backlog=1024;\n"))
        .collect();
    format!(
        "worker_processes 1;
user root;
pid /run/{server}.pid;
error_log /run/{server}.err;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path /tmp/{server}-client;
    proxy_temp_path /tmp/{server}-proxy;
    fastcgi_temp_path /tmp/{server}-fastcgi;
    uwsgi_temp_path /tmp/{server}-uwsgi;
    scgi_temp_path /tmp/{server}-scgi;
    server {{
{listen}        location / {{ return 200 \"{server}\\n\"; }}
        location /files/ {{ root /run; }}
    }}
}}
"
    )
}

/// A device with a number of its own.
pub(super) fn network(number: u8, cable: Cable) -> Network {
    Network {
        mac: format!("52:54:00:00:00:{number:02x}"),
        cable,
        properties: Vec::new(),
    }
}

fn wait_for(sockets: &[PathBuf]) -> Result<()> {
    let end = Instant::now() + SOCKET;
    while let Some(missing) = sockets.iter().find(|socket| !socket.exists()) {
        if Instant::now() > end {
            bail!("qemu made no socket {}", missing.display());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A directory with a short path, as sockets need it; it goes with its content.
#[derive(Debug)]
struct Directory(PathBuf);

static DIRECTORIES: AtomicU32 = AtomicU32::new(0);

impl Directory {
    fn new() -> Result<Self> {
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("lb-trio-{}-{number}", process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone_already = fs::remove_dir_all(&self.0);
    }
}
