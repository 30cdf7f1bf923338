//! Programs from the distribution, installed with apt where there is apt.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{Missing, Remedy};
use crate::shell;

/// Program, Debian package, what for.
type Program = (&'static str, &'static str, &'static str);

/// What demo, tests and benchmark call.
pub(super) const PROGRAMS: &[Program] = &[
    ("ip", "iproute2", "makes network namespaces"),
    ("nsenter", "util-linux", "runs programs inside them"),
    ("ethtool", "ethtool", "sets offloads of virtual interfaces"),
    ("nginx", "nginx-light", "is the real server in demo and tests"),
    ("curl", "curl", "is a real client in tests"),
    ("ping", "iputils-ping", "is another"),
    ("bpftool", "bpftool", "makes a map of its own in a test"),
    ("nft", "nftables", "is what the benchmark compares with"),
];

/// The same, for measurements only.
pub(super) const BENCH_PROGRAMS: &[Program] = &[
    ("wrk", "wrk", "is the client of the HTTP benchmark"),
    ("haproxy", "haproxy", "is a balancer that the benchmark compares with"),
    (
        "ipvsadm",
        "ipvsadm",
        "sets up IPVS for the benchmark, where the kernel has it",
    ),
];

/// What virtual machines take besides [`PROGRAMS`]. `dpkg-deb` and `apt-get` are on every system whose packages these are.
pub(super) const MACHINE_PROGRAMS: &[Program] = &[
    ("qemu-system-x86_64", "qemu-system-x86", "is the virtual machine"),
    ("dpkg-deb", "dpkg", "unpacks Debian's kernels"),
    ("depmod", "kmod", "finds which kernel module needs which"),
    ("xz", "xz-utils", "unpacks kernel modules"),
    ("strip", "binutils", "makes test programs smaller"),
    ("ldd", "libc-bin", "finds the libraries of programs"),
    ("setpriv", "util-linux", "ends virtual machines with their verb"),
    ("busybox", "busybox-static", "is the user land of the guests"),
    ("dash", "dash", "is their shell"),
    ("iperf3", "iperf3", "is a load generator in them"),
    ("ipvsadm", "ipvsadm", "is another balancer in them"),
];

/// Services that come with packages.
const SERVICES: [(&str, &str); 3] = [
    ("nginx-light", "nginx.service"),
    ("haproxy", "haproxy.service"),
    ("ipvsadm", "ipvsadm.service"),
];

/// Asked by Debian's packages before they start a service.
const START_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Programs of a list that are not installed.
pub(super) fn missing(programs: &'static [Program]) -> Vec<Missing> {
    let absent = programs.iter().filter(|(program, ..)| shell::find(program).is_none());
    absent
        .map(|(program, package, purpose)| Missing {
            what: format!("{program}, which {purpose}"),
            remedy: remedy(package),
        })
        .collect()
}

/// Whether the programs are there with which the kernel is probed.
pub(super) fn can_probe() -> bool {
    ["ip", "nsenter"].iter().all(|program| shell::find(program).is_some())
}

fn remedy(package: &'static str) -> Remedy {
    if shell::find("apt-get").is_some() {
        return Remedy::Package(package);
    }
    Remedy::Tell(format!(
        "install it with this system's package manager (Debian's package is called {package})"
    ))
}

/// Installs packages with apt, and starts no service of theirs.
///
/// # Errors
/// When apt fails, or the start of services cannot be held back.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let held_back = NoServiceStart::new(Path::new(START_POLICY))?;
    if apt_install(packages).is_err() {
        // A package list that is missing or out of date is the usual cause.
        eprintln!("setup: trying again with fresh package lists");
        shell::run(shell::command("apt-get").arg("update"))?;
        apt_install(packages)?;
    }
    drop(held_back);
    for (_, service) in SERVICES.iter().filter(|(package, _)| packages.contains(package)) {
        keep_off(service);
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut apt = shell::command("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "--no-install-recommends"]);
    shell::run(apt.args(packages))
}

/// The system's own service, which came with a package, is not to start at the next boot either.
fn keep_off(service: &str) {
    if shell::find("systemctl").is_none() {
        return;
    }
    if let Err(error) = shell::output(shell::command("systemctl").args(["disable", "--quiet", service])) {
        eprintln!(
            "setup: {service} will start at the next boot; to prevent it run `systemctl disable {service}` ({error:#})"
        );
    }
}

/// While this lives, Debian's packages start no services. A policy that is there already stays as it is.
#[derive(Debug)]
struct NoServiceStart {
    ours: Option<PathBuf>,
}

impl NoServiceStart {
    fn new(path: &Path) -> Result<Self> {
        if path.exists() {
            return Ok(Self { ours: None });
        }
        // 101: the action is forbidden by policy (Debian's invoke-rc.d).
        let script = "#!/bin/sh\n# Made by `cargo xtask setup` for the time of an installation.\nexit 101\n";
        let made = fs::write(path, script).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
        made.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            ours: Some(path.to_owned()),
        })
    }
}

impl Drop for NoServiceStart {
    fn drop(&mut self) {
        let Some(path) = &self.ours else { return };
        if let Err(error) = fs::remove_file(path) {
            eprintln!(
                "setup: remove {} by hand, or no service will start: {error}",
                path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()))
    }

    #[test]
    fn the_policy_forbids_starts_and_goes_away() {
        let path = scratch("policy-ours");
        let held_back = NoServiceStart::new(&path).unwrap();
        let verdict = std::process::Command::new(&path).status().unwrap();
        drop(held_back);
        assert_eq!(verdict.code(), Some(101));
        assert!(!path.exists());
    }

    #[test]
    fn a_policy_of_the_operator_is_left_alone() {
        let path = scratch("policy-theirs");
        fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        drop(NoServiceStart::new(&path).unwrap());
        let left = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(left, "#!/bin/sh\nexit 0\n");
    }
}
