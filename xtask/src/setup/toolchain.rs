//! The compiler's components, and the linker of the packet path.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::{Missing, Remedy};
use crate::shell;

/// Loads the pinned compiler's own LLVM 22; other versions want another LLVM and do not link.
const BPF_LINKER: &str = "0.10.3";

/// Components of the toolchain, with a file that each brings, below the toolchain's directory.
const COMPONENTS: [(&str, &str); 3] = [
    ("rust-src", "lib/rustlib/src/rust/library/core/Cargo.toml"),
    ("rustfmt", "bin/cargo-fmt"),
    ("clippy", "bin/cargo-clippy"),
];

/// What the build lacks.
///
/// # Errors
/// When the compiler itself does not answer.
pub(super) fn missing() -> Result<Vec<Missing>> {
    let mut missing = components()?;
    missing.extend(bpf_linker());
    Ok(missing)
}

fn components() -> Result<Vec<Missing>> {
    let mut rustc = shell::command("rustc");
    rustc.args(["--print", "sysroot"]).current_dir(shell::workspace()?);
    let said = shell::output(&mut rustc).context("the Rust compiler does not answer")?;
    let sysroot = PathBuf::from(said.trim());
    let absent = COMPONENTS.iter().filter(|(_, file)| !sysroot.join(file).exists());
    absent.map(|(name, _)| component(name)).collect()
}

fn component(name: &str) -> Result<Missing> {
    let what = format!("{name}, a component of the pinned Rust toolchain (see rust-toolchain.toml)");
    let remedy = if shell::find("rustup").is_some() {
        let mut rustup = shell::command("rustup");
        rustup.args(["component", "add", name]).current_dir(shell::workspace()?);
        Remedy::Run(rustup)
    } else {
        Remedy::Tell("install rustup (https://rustup.rs): it brings the pinned toolchain with all components".into())
    };
    Ok(Missing { what, remedy })
}

fn bpf_linker() -> Option<Missing> {
    let installed = shell::output(shell::command("bpf-linker").arg("--version"));
    let found = installed.ok().and_then(|said| version(&said).map(str::to_owned));
    if found.as_deref() == Some(BPF_LINKER) {
        return None;
    }
    let instead = found.map(|found| format!(" (found {found})")).unwrap_or_default();
    Some(Missing {
        what: format!("bpf-linker {BPF_LINKER}, which links the packet path{instead}"),
        remedy: Remedy::Run(install_bpf_linker()),
    })
}

fn install_bpf_linker() -> Command {
    let mut cargo = shell::command("cargo");
    cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"]);
    cargo
}

/// The version in what `PROGRAM --version` prints.
fn version(said: &str) -> Option<&str> {
    said.split_whitespace().nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_second_word() {
        assert_eq!(version("bpf-linker 0.10.3\n"), Some("0.10.3"));
        assert_eq!(version("bpf-linker"), None);
    }
}
