//! The program as scripts call it: exit codes, and what goes to which stream.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    process::{Command, Output},
};

fn lb(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lb")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_daemon_that_is_not_there_is_exit_code_5() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    for args in [
        &["status"][..],
        &["service", "list"],
        &["backend", "drain", "web", "web-1"],
        &["flows"],
    ] {
        let output = lb(&[args, &["--socket", socket]].concat());
        assert_eq!(output.status.code(), Some(5), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        let error = text(&output.stderr);
        assert!(error.starts_with("error: lb is not running"), "{error}");
        assert!(error.contains(socket), "{error}");
        assert!(!error.contains('\u{1b}'), "{error}");
    }
}

#[test]
fn errors_as_json_go_to_standard_output() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("stale.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let stale = lb(&["--json", "status", "--socket", socket.to_str().unwrap()]);
    let usage = lb(&["--json", "backend", "add", "web", "10.0.0.1:0"]);
    for (output, kind, code) in [(stale, "unreachable", 5), (usage, "invalid", 2)] {
        assert_eq!(output.status.code(), Some(code));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json.pointer("/error/kind").unwrap(), kind);
        assert!(json.pointer("/error/message").unwrap().is_string());
        assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    }
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_is_none() {
    for args in [&["statsu"][..], &["flows", "--limit", "x"], &[]] {
        let output = lb(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    for args in [&["--help"][..], &["help", "backend"], &["--version"]] {
        let output = lb(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_user_who_may_not_use_the_socket_is_told_to_be_root() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), open.clone()).unwrap();
    // The program lies in a directory that others may not enter.
    let program = directory.path().join("lb");
    fs::copy(env!("CARGO_BIN_EXE_lb"), &program).unwrap();
    fs::set_permissions(&program, open).unwrap();
    let socket = directory.path().join("lb.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    let output = {
        use std::os::unix::process::CommandExt;
        Command::new(&program)
            .args(["status", "--socket", socket.to_str().unwrap()])
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap()
    };
    assert_eq!(output.status.code(), Some(5));
    let error = text(&output.stderr);
    assert!(
        error.contains("permission denied") && error.contains("as root"),
        "{error}"
    );
}
