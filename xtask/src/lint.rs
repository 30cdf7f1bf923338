//! `cargo xtask lint`: format, lints of both targets, documentation, licences.

use std::process::Command;

use anyhow::Result;

use crate::{
    setup::{self, Scope},
    shell,
};

/// Runs every check to its end and names those that failed.
///
/// # Errors
/// When the machine lacks something or a check fails.
pub(crate) fn run() -> Result<()> {
    setup::ensure(Scope::Build)?;
    let mut failed = Vec::new();
    for (name, mut check) in checks()? {
        eprintln!("── {name}");
        if let Err(error) = shell::run(&mut check) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        anyhow::bail!("lint: failed: {}", failed.join(", "));
    }
    eprintln!("lint: all checks passed");
    Ok(())
}

fn checks() -> Result<Vec<(&'static str, Command)>> {
    let mut format = shell::cargo()?;
    format.args(["fmt", "--all", "--check"]);

    let mut fuzz_format = shell::cargo()?;
    fuzz_format.args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]);

    let mut host = shell::cargo()?;
    host.args([
        "clippy",
        "--workspace",
        "--exclude",
        "lb-ebpf",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);

    let fuzz = fuzz_targets()?;

    // The pinned compiler is a stable one; it builds `core` for the BPF target only when told to act as its own bootstrap.
    let mut packet_path = shell::cargo()?;
    packet_path
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["clippy", "--package", "lb-ebpf"]);
    packet_path.args([
        "--target",
        "bpfel-unknown-none",
        "-Zbuild-std=core",
        "--",
        "-D",
        "warnings",
    ]);

    let mut documentation = shell::cargo()?;
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    documentation.args([
        "doc",
        "--workspace",
        "--exclude",
        "lb-ebpf",
        "--no-deps",
        "--document-private-items",
    ]);

    let mut checks = vec![
        ("format", format),
        ("format, fuzz targets", fuzz_format),
        ("clippy, host", host),
        ("clippy, fuzz targets", fuzz),
        ("clippy, BPF target", packet_path),
        ("documentation", documentation),
    ];
    if shell::find("cargo-deny").is_some() {
        let mut licences = shell::cargo()?;
        licences.args(["deny", "check", "bans", "licenses", "sources"]);
        checks.push(("licences", licences));
    } else {
        eprintln!("licences: not checked, cargo-deny is not installed (`cargo install cargo-deny --locked`)");
    }
    Ok(checks)
}

/// They are a workspace of their own, which builds nothing else: only this tells when they do not compile any more. In the same
/// target directory, dependencies and the packet path are there already. Nothing is linked, so that libFuzzer need not be
/// built: it is said to be elsewhere.
fn fuzz_targets() -> Result<Command> {
    let mut fuzz = shell::cargo()?;
    fuzz.env("CUSTOM_LIBFUZZER_PATH", "/nonexistent/libfuzzer.a");
    fuzz.args(["clippy", "--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target"]);
    fuzz.args(["--locked", "--", "-D", "warnings"]);
    Ok(fuzz)
}
