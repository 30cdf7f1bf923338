//! Several queues: `lb` between two virtio-net devices of four pairs of queues each, in a guest of two CPUs.
//!
//! The client and the servers are this machine's, in the namespace of qemu's tap devices: a socket between guests has one
//! queue, while a tap device sends the packets of a flow to the queue that its hash says.

use std::{collections::BTreeMap, env, path::PathBuf, process::Child};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    balancer::{self, Status},
    driver::DriverCounters,
    guest::Guest,
    promise::Promises,
    service::{ECHO_PORT, Family, SERVERS, servers},
    traffic::{CLIENTS, Counts, even},
};
use crate::vm::machine::Running;

/// Where the balancer's configuration of this part is.
pub(super) const CONFIGURATION: &str = "/etc/queues.toml";
/// Networks, and numbers of the devices, of the client and of the servers.
const FRONT: u8 = 1;
const BACK: u8 = 2;
/// Hosts in these.
const BALANCER_HOST: u8 = 1;
const CLIENT_HOST: u8 = 2;
const VIP_HOST: u8 = 100;
/// Requests to each service, each a flow of its own: a multiple of the servers.
const REQUESTS: u64 = 400;

/// The place of the opened flows among the numbers of `BackendStats`.
const OPENED: usize = 4;

/// One service of each family, of datagrams.
pub(super) fn configuration() -> String {
    let mut text = String::new();
    for device in [FRONT, BACK] {
        text.push_str(&format!("[[interface]]\nname = \"eth{device}\"\nxdp = \"native\"\n\n"));
    }
    text.push_str("[limits]\nflows-ipv4 = 4096\nflows-ipv6 = 4096\n");
    for family in Family::ALL {
        text.push_str(&format!(
            "\n[[service]]\nname = \"{family:?}\"\nvip = \"{}:{ECHO_PORT}\"\nprotocol = \"udp\"\nvip-interface = \"eth{FRONT}\"\n\n\
             [service.health]\ntype = \"none\"\n",
            family.bracketed(FRONT, VIP_HOST)
        ));
        for (server, host) in servers() {
            let address = family.bracketed(BACK, host);
            text.push_str(&format!(
                "\n[[service.backend]]\nname = \"{server}\"\naddress = \"{address}:{ECHO_PORT}\"\n"
            ));
        }
    }
    text
}

/// Sends requests through, and looks where they came by.
///
/// # Errors
/// When something does not run at all. What runs otherwise than promised is counted.
pub(super) fn show(guest: &mut Guest, promises: &mut Promises) -> Result<()> {
    set_up(guest)?;
    let _servers = Servers::start(guest.machine())?;
    balancer::start_with(guest, CONFIGURATION)?;
    let status = Status::wait(guest, "all backends in rotation", |status| {
        status.out_of_rotation().is_empty()
    })?;
    let interfaces = status.interfaces().join(", ");
    promises.keep(
        interfaces == format!("eth{FRONT} native, eth{BACK} native"),
        &format!("`lb status` says of devices with several queues: {interfaces}"),
    );
    for family in Family::ALL {
        let counts = request(guest.machine(), family)?;
        promises.keep(
            counts == even(REQUESTS),
            &format!("equal shares of {REQUESTS} requests over several queues, {family:?}: {counts}"),
        );
    }
    let [front, back] = [FRONT, BACK].map(|device| DriverCounters::read(guest, device));
    let (front, back) = (front?, back?);
    promises.keep(
        front.queues() > 1 && back.queues() > 1,
        &format!(
            "packets came by several queues: eth{FRONT} {:?}, eth{BACK} {:?}",
            front.received, back.received
        ),
    );
    let flows = REQUESTS * Family::ALL.len() as u64;
    promises.keep(
        (front.redirected, back.redirected, front.dropped + back.dropped) == (flows, flows, 0),
        &format!(
            "{flows} requests and their answers were redirected between the devices: {}, {}; dropped: {}",
            front.redirected,
            back.redirected,
            front.dropped + back.dropped
        ),
    );
    let opened = opened_by_cpu(guest)?;
    promises.keep(
        opened.values().all(|flows| *flows > 0) && opened.len() > 1 && opened.values().sum::<u64>() == flows,
        &format!("flows were opened on every CPU: {opened:?}"),
    );
    guest.run("kill $lb; wait $lb; lb detach")?;
    Ok(())
}

/// Addresses at both ends.
fn set_up(guest: &mut Guest) -> Result<()> {
    let here = guest.machine();
    for family in Family::ALL {
        let (length, nodad) = (family.prefix(), family.nodad());
        let hosts = servers().map(|(_, host)| (BACK, host)).chain([(FRONT, CLIENT_HOST)]);
        for (network, host) in hosts {
            let address = family.address(network, host);
            run(
                here,
                &format!("ip address add {address}/{length} dev tap{network} {nodad}"),
            )?;
        }
    }
    for device in [FRONT, BACK] {
        run(here, &format!("ip link set tap{device} up"))?;
    }
    for family in Family::ALL {
        let (address, length, nodad) = (family.address(BACK, BALANCER_HOST), family.prefix(), family.nodad());
        guest.run(&format!("ip address add {address}/{length} dev eth{BACK} {nodad}"))?;
    }
    guest.run(&format!("ip link set eth{FRONT} mtu 1500; ip link set eth{BACK} up"))?;
    Ok(())
}

/// Runs a program of ours beside the guest.
fn run(machine: &Running, line: &str) -> Result<String> {
    let mut command = machine.beside("sh");
    let output = command.args(["-c", line]).output().context("cannot start nsenter")?;
    if !output.status.success() {
        bail!("`{line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn request(machine: &Running, family: Family) -> Result<Counts> {
    let (this, vip) = (this()?, family.bracketed(FRONT, VIP_HOST));
    let said = run(
        machine,
        &format!(
            "'{}' vm-guest load udp {vip}:{ECHO_PORT} --count {REQUESTS} --clients {CLIENTS} | sort | uniq -c",
            this.display()
        ),
    )?;
    Counts::parse(&said)
}

fn this() -> Result<PathBuf> {
    env::current_exe().context("cannot tell where xtask is")
}

/// Processes that answer datagrams; they are killed on drop.
#[derive(Debug)]
struct Servers(Vec<Child>);

impl Servers {
    fn start(machine: &Running) -> Result<Self> {
        let this = this()?;
        let mut all = Self(Vec::new());
        for (server, host) in servers() {
            let addresses = Family::ALL.map(|family| format!("{}:{ECHO_PORT}", family.bracketed(BACK, host)));
            let mut command = machine.beside("setpriv");
            command
                .args(["--pdeathsig", "KILL"])
                .arg(&this)
                .args(["vm-guest", "echo", server])
                .args(addresses);
            all.0.push(command.spawn().context("cannot start nsenter")?);
        }
        Ok(all)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.0 {
            let _gone_already = server.kill();
            let _status = server.wait();
        }
    }
}

/// Flows that each CPU counted as opened.
fn opened_by_cpu(guest: &mut Guest) -> Result<BTreeMap<u64, u64>> {
    let mut opened = BTreeMap::new();
    for index in 0..Family::ALL.len() * SERVERS.len() {
        let said = guest.run(&format!(
            "bpftool --json map lookup pinned /sys/fs/bpf/lb/*/v*/maps/BACKEND_STATS key {index} 0 0 0"
        ))?;
        let said: Value = serde_json::from_str(&said).with_context(|| format!("bpftool printed no JSON: {said}"))?;
        for cpu in said.get("values").and_then(Value::as_array).into_iter().flatten() {
            let number = cpu.get("cpu").and_then(Value::as_u64).context("a CPU has a number")?;
            *opened.entry(number).or_default() += counter(cpu, OPENED)?;
        }
    }
    Ok(opened)
}

/// One of the numbers of a value, which `bpftool` writes as bytes.
fn counter(cpu: &Value, number: usize) -> Result<u64> {
    let bytes = cpu.get("value").and_then(Value::as_array).context("a value of bytes")?;
    let bytes = bytes.iter().skip(8 * number).take(8).rev();
    bytes.filter_map(Value::as_str).try_fold(0, |sum, byte| {
        let byte = u64::from_str_radix(byte.trim_start_matches("0x"), 16);
        byte.map(|byte| sum << 8 | byte).context("a byte in hexadecimal")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_read_as_bpftool_writes_it() {
        let value = serde_json::json!({"cpu": 1, "value": [
            "0x01","0x00","0x00","0x00","0x00","0x00","0x00","0x00",
            "0x90","0x01","0x00","0x00","0x00","0x00","0x00","0x00",
        ]});
        assert_eq!((counter(&value, 0).unwrap(), counter(&value, 1).unwrap()), (1, 400));
    }
}
