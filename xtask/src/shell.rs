//! Running other programs, and finding them.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// Where administrators' programs are; a plain user's `PATH` often lacks these.
const ADMIN_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The root of this repository.
///
/// # Errors
/// When it has been moved away since xtask was built.
pub(crate) fn workspace() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.parent().unwrap_or(manifest);
    if !root.join("Cargo.toml").exists() {
        bail!(
            "{} is not there any more; run `cargo xtask` again to rebuild it in place",
            root.display()
        );
    }
    Ok(root.to_path_buf())
}

/// Where cargo puts what it builds.
///
/// # Errors
/// As [`workspace`].
pub(crate) fn target_directory() -> Result<PathBuf> {
    let root = workspace()?;
    Ok(env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |set| root.join(set)))
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// The path of a program, or `None` when it is not installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(ADMIN_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// A command for a program on the `PATH` or in the administrators' directories.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(find(program).unwrap_or_else(|| program.into()));
    // What is started may itself look for administrators' programs.
    command.env("PATH", admin_path());
    command
}

fn admin_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = env::split_paths(&path).chain(ADMIN_DIRECTORIES.iter().map(PathBuf::from));
    env::join_paths(all).unwrap_or(path)
}

/// A cargo command in the root of this repository.
///
/// # Errors
/// As [`workspace`].
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()?);
    Ok(command)
}

/// Runs a command aloud: prints it, and lets it print.
///
/// # Errors
/// When it cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    eprintln!("$ {line}");
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs a command quietly and returns what it printed.
///
/// # Errors
/// When it cannot be started or fails; the error holds what it wrote to standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as it would be typed.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        let quote = if argument.contains(|c: char| c.is_whitespace() || "\"'$&;|<>*".contains(c)) {
            "'"
        } else {
            ""
        };
        // Writing to a string cannot fail.
        let _ = write!(line, " {quote}{argument}{quote}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("/usr/bin/env");
        command.args(["PATH=/a b", "cargo", "xtask"]);
        assert_eq!(line(&command), "env 'PATH=/a b' cargo xtask");
    }

    #[test]
    fn a_program_in_an_administrators_directory_is_found() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-anywhere"), None);
    }
}
