//! Builds the packet path and hands the object files to the crate.
//!
//! The packet path needs atomics that return a value: `-Ctarget-cpu=v3`, Linux 5.12.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const RUSTFLAGS: [&str; 4] = [
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Ctarget-cpu=v3",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot build the packet path: {error}\n`cargo xtask setup` installs what it needs");
            ExitCode::FAILURE
        }
    }
}

fn build() -> io::Result<()> {
    let workspace = directory("CARGO_MANIFEST_DIR")?.join("..");
    for source in ["lb-ebpf", "lb-common"] {
        println!("cargo:rerun-if-changed={}", workspace.join(source).display());
    }
    let out = directory("OUT_DIR")?;
    // OUT_DIR is <target>/<profile>/build/<package>/out: one build serves all profiles.
    let target = out.ancestors().nth(4).unwrap_or(&out).join("ebpf");
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace.join("lb-ebpf"))
        .args([
            "build",
            "--release",
            "--target",
            "bpfel-unknown-none",
            "-Zbuild-std=core",
            "--target-dir",
        ])
        .arg(&target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
        .env_remove("RUSTC")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_TARGET_DIR")
        .status()?;
    if !status.success() {
        return Err(io::Error::other(
            "the build of lb-ebpf failed; its messages stand above",
        ));
    }
    for program in ["lb", "bench", "traffic", "decap", "sweep"] {
        copy(
            &target.join("bpfel-unknown-none/release").join(program),
            &out.join(program),
        )?;
    }
    Ok(())
}

fn directory(variable: &str) -> io::Result<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other(format!("{variable} is not set")))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)
        .map(drop)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", from.display())))
}
