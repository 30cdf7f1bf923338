//! What the kernel can do, found out by trying it. Versions tell little: distributions backport and leave out.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

use super::{Missing, Remedy};
use crate::shell;

/// Where pins live.
const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";
/// The kernel's own types.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Kinds of maps that the packet path uses.
const MAPS: [(MapType, &str); 6] = [
    (MapType::Hash, "hash"),
    (MapType::LruHash, "LRU hash"),
    (MapType::Array, "array"),
    (MapType::PerCpuArray, "per-CPU array"),
    (MapType::DevMapHash, "devmap hash"),
    (MapType::RingBuf, "ring buffer"),
];

/// Helpers that the packet path calls.
const HELPERS: [(BpfHelper, &str); 2] = [
    (BpfHelper::BPF_FUNC_redirect_map, "bpf_redirect_map"),
    (BpfHelper::BPF_FUNC_ktime_get_coarse_ns, "bpf_ktime_get_coarse_ns"),
];

/// What the kernel lacks.
pub(super) fn missing() -> Vec<Missing> {
    let mut missing = Vec::new();
    missing.extend(bpf_file_system());
    missing.extend(btf());
    missing.extend(xdp());
    missing.extend(MAPS.iter().filter_map(|&(kind, name)| map(kind, name)));
    missing.extend(
        HELPERS
            .iter()
            .filter_map(|&(helper, name)| supported_helper(helper, name)),
    );
    missing.extend(namespaces());
    missing
}

fn bpf_file_system() -> Option<Missing> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if is_mounted(&mounts, BPF_FILE_SYSTEM, "bpf") {
        return None;
    }
    let mut mount = shell::command("mount");
    mount.args(["-t", "bpf", "bpf", BPF_FILE_SYSTEM]);
    Some(Missing {
        what: format!("the BPF file system at {BPF_FILE_SYSTEM}, where the packet path is pinned"),
        remedy: Remedy::Run(mount),
    })
}

/// Whether a line of `/proc/self/mounts` has `kind` at `place`.
fn is_mounted(mounts: &str, place: &str, kind: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(place) && fields.next() == Some(kind)
    })
}

/// BTF names the structure behind a BPF link of an XDP program where the kernel knows such links.
fn btf() -> Option<Missing> {
    let Ok(types) = fs::read(BTF) else {
        return Some(told(
            format!("{BTF}, the kernel's type information"),
            "CONFIG_DEBUG_INFO_BTF",
        ));
    };
    let link = b"\0bpf_xdp_link\0";
    let known = types.windows(link.len()).any(|window| window == link);
    (!known).then(|| {
        told(
            "BPF links of XDP programs, which keep the packet path running without its daemon".into(),
            "CONFIG_BPF_SYSCALL",
        )
    })
}

fn xdp() -> Option<Missing> {
    absent(
        is_program_supported(ProgramType::Xdp).context("probe failed"),
        "XDP programs".into(),
        "CONFIG_BPF_SYSCALL and CONFIG_NET",
    )
}

fn map(kind: MapType, name: &str) -> Option<Missing> {
    absent(
        is_map_supported(kind).context("probe failed"),
        format!("BPF maps of kind {name}"),
        "CONFIG_BPF_SYSCALL",
    )
}

fn supported_helper(helper: BpfHelper, name: &str) -> Option<Missing> {
    let probed = is_helper_supported(ProgramType::Xdp, helper).context("probe failed");
    absent(
        probed,
        format!("the BPF helper {name} in XDP programs"),
        "CONFIG_BPF_SYSCALL",
    )
}

/// A namespace of no name, which is gone when the command ends.
fn namespaces() -> Option<Missing> {
    let made = in_new_namespace("link add veth0 type veth peer name veth1\nlink add bridge0 type bridge\n");
    let error = made.err()?;
    Some(Missing {
        what: format!("network namespaces with veth and bridge interfaces ({error:#})"),
        remedy: Remedy::Tell(
            "run with CAP_SYS_ADMIN and CAP_NET_ADMIN, on a kernel with CONFIG_NET_NS, CONFIG_VETH and CONFIG_BRIDGE"
                .into(),
        ),
    })
}

fn in_new_namespace(batch: &str) -> Result<()> {
    let mut unshare: Command = shell::command("unshare");
    unshare.args(["--net", "ip", "-batch", "-"]);
    unshare
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = unshare.spawn().context("cannot start unshare")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(batch.as_bytes()).context("unshare ended early")?;
    }
    let output = child.wait_with_output().context("cannot wait for unshare")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "));
    }
    Ok(())
}

fn absent(probed: Result<bool>, what: String, option: &str) -> Option<Missing> {
    match probed {
        Ok(true) => None,
        Ok(false) => Some(told(what, option)),
        Err(error) => Some(Missing {
            what: format!("{what} ({error:#})"),
            remedy: Remedy::Tell(
                "run with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; in a container, also allow the bpf system call"
                    .into(),
            ),
        }),
    }
}

fn told(what: String, option: &str) -> Missing {
    Missing {
        what,
        remedy: Remedy::Tell(format!(
            "boot a kernel that has it ({option}; Linux 5.15 and later of all large distributions do)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_counts_only_at_its_place_and_of_its_kind() {
        let mounts = "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,relatime 0 0\n";
        assert!(is_mounted(mounts, "/sys/fs/bpf", "bpf"));
        assert!(!is_mounted(mounts, "/sys/fs", "bpf"));
        assert!(!is_mounted("tmpfs /sys/fs/bpf tmpfs rw 0 0\n", "/sys/fs/bpf", "bpf"));
    }
}
