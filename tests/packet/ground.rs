//! The ground that a laboratory stands on: a namespace with interfaces, and a directory for pins.
//!
//! The namespace has no name and ends with the test's thread, crashed or not. Pins of crashed processes are removed by
//! the next run.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use lb_userspace::{
    datapath::{DatapathError, KernelDatapath, loader::Features},
    model::Limits,
};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

/// Where BPF file systems are mounted.
const BPFFS: &str = "/sys/fs/bpf";
/// What the tests' directories there are called, before a process id and a number.
const PREFIX: &str = "lb-test-packet-";
/// Interfaces with the packet path: two towards clients, one towards backends.
pub(crate) const CLIENT_IF: &str = "client0";
pub(crate) const OTHER_IF: &str = "client1";
pub(crate) const BACKEND_IF: &str = "backend0";

/// No messages, and XDP_TX where a frame goes back, so that the verdict tells the way.
pub(crate) const FEATURES: Features = Features {
    log_level: 0,
    redirect_back: false,
    smallest_mtu: 1400,
    syn_cookies: true,
    vlans: false,
};

/// Map sizes: more flows than any test opens, since a small LRU table evicts early.
pub(crate) const LIMITS: Limits = Limits {
    flows_ipv4: 1 << 13,
    flows_ipv6: 1 << 13,
    half_open_ipv4: 1 << 13,
    half_open_ipv6: 1 << 13,
    flows_mixed: 1 << 13,
    services: 256,
    service_ports: 256,
    backends: 1024,
    new_flows_per_core: 0,
    syn_cookies_above: 10_000,
    icmp_per_second: 1_000_000,
    slots: 1 << 18,
    affinity: 1 << 10,
};

/// Opens the packet path of an instance in a directory.
pub(crate) fn open(bpffs: &Path, limits: Limits) -> Result<KernelDatapath, DatapathError> {
    open_with(bpffs, limits, FEATURES)
}

/// As [`open`], with other features.
pub(crate) fn open_with(bpffs: &Path, limits: Limits, features: Features) -> Result<KernelDatapath, DatapathError> {
    KernelDatapath::open(bpffs, "packet", limits, features)
}

/// A directory below the BPF file system that no other test uses.
pub(crate) fn directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(BPFFS).join(format!("{PREFIX}{}-{number}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

/// Removes the directories of test processes that are gone.
pub(crate) fn remove_leftovers() {
    for entry in fs::read_dir(BPFFS).expect("a BPF file system at /sys/fs/bpf").flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Moves this thread into a namespace of its own, with interfaces that no packet crosses by itself.
pub(crate) fn namespace() -> BTreeMap<&'static str, u32> {
    unshare(CloneFlags::CLONE_NEWNET).expect("root");
    // Neighbour discovery would count among the packets under test.
    for scope in ["all", "default"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
    }
    let lines = [CLIENT_IF, OTHER_IF, BACKEND_IF]
        .map(|name| format!("link add {name} up type veth peer name {name}-far\nlink set {name}-far up\n"));
    ip(&lines.concat());
    [CLIENT_IF, OTHER_IF, BACKEND_IF]
        .map(|name| (name, if_nametoindex(name).unwrap()))
        .into()
}

/// Another MTU for an interface of this thread's namespace.
pub(crate) fn set_mtu(name: &str, mtu: u32) {
    ip(&format!("link set {name} mtu {mtu}\n"));
}

/// Runs lines of `ip` in one process.
fn ip(lines: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("iproute2");
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "ip -batch:\n{lines}");
}
