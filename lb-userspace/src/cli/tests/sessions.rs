//! Verbs against a daemon that is a script.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    path::Path,
    thread::{self, JoinHandle},
};

use tempfile::TempDir;

use super::super::{Cli, Command, Hooks, Session, fixtures, try_parse, view::View};
use crate::{
    api::{ApiError, ErrorKind, Reply, Request, VersionReport, client::Client},
    model::Timeouts,
};

const HOOKS: Hooks = Hooks {
    abi: 7,
    detach_offline: |_, _| panic!("a daemon runs"),
};

/// Answers one connection per reply; ends with the requests that came.
fn daemon(replies: Vec<Reply>) -> (TempDir, JoinHandle<Vec<Request>>) {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("sock")).unwrap();
    let served = thread::spawn(move || {
        let answer = |reply: Reply| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            writeln!(stream, "{}", serde_json::to_string(&reply).unwrap()).unwrap();
            serde_json::from_str(&line).unwrap()
        };
        replies.into_iter().map(answer).collect()
    });
    (directory, served)
}

fn session(directory: &Path, json: bool) -> Session {
    Session {
        client: Client {
            socket: directory.join("sock"),
            instance: "default".into(),
            bpffs: directory.join("bpf"),
        },
        view: View {
            json,
            color: false,
            width: 80,
            now: fixtures::NOW,
        },
    }
}

fn run(line: &str, session: &Session, hooks: &Hooks) -> Result<String, ApiError> {
    let Cli { command, .. } = try_parse(std::iter::once("lb").chain(line.split(' ')).map(Into::into)).unwrap();
    match command {
        Command::Service(command) => command.run(session),
        Command::Backend(command) => command.run(session),
        Command::Detach(args) => args.run(session, hooks),
        Command::Version(args) => args.run(session, hooks),
        Command::Attach(args) => args.run(session),
        Command::BackendTest(args) => args.run(session),
        Command::Doctor(args) => args.run(session),
        Command::Flows(args) => args.run(session),
        Command::Run(_) | Command::Status(_) | Command::Bench(_) | Command::BackendSetup(_) => panic!("not here"),
    }
}

fn done(message: &str) -> Reply {
    Reply::Done {
        message: message.into(),
    }
}

#[test]
fn a_change_prints_the_daemons_sentence() {
    let (directory, served) = daemon(vec![done("Backend web-1 drains."), done("Done.")]);
    let text = run("backend drain web web-1", &session(directory.path(), false), &HOOKS).unwrap();
    assert_eq!(text, "Backend web-1 drains.\n");
    let json = run("attach eth1", &session(directory.path(), true), &HOOKS).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json, serde_json::json!({ "message": "Done." }));
    assert_eq!(served.join().unwrap().len(), 2);
}

#[test]
fn a_refusal_keeps_its_kind() {
    let error = ApiError {
        kind: ErrorKind::Conflict,
        message: "web exists".into(),
    };
    let (directory, served) = daemon(vec![Reply::Error { error: error.clone() }]);
    let refused = run(
        "service add web --vip 10.0.0.1:80",
        &session(directory.path(), false),
        &HOOKS,
    )
    .unwrap_err();
    assert_eq!((refused.kind.exit_code(), refused), (4, error));
    served.join().unwrap();
}

#[test]
fn one_timeout_is_changed_and_the_others_are_kept() {
    let mut web = fixtures::web();
    web.timeouts.udp_ms = 5000;
    let (directory, served) = daemon(vec![Reply::Services { services: vec![web] }, done("Done.")]);
    let line = "service set 10.0.0.100:80/tcp --timeout tcp-syn=3s";
    run(line, &session(directory.path(), false), &HOOKS).unwrap();
    let requests = served.join().unwrap();
    let Some(Request::ServiceSet { change, .. }) = requests.last() else {
        panic!("{requests:?}")
    };
    let expected = Timeouts {
        tcp_syn: std::time::Duration::from_secs(3),
        udp: std::time::Duration::from_secs(5),
        ..Timeouts::default()
    };
    assert_eq!(change.timeouts, Some(expected));
}

#[test]
fn backends_are_listed_flat_as_json_and_an_unknown_service_is_not_found() {
    let list = || Reply::Services {
        services: vec![fixtures::web()],
    };
    let (directory, served) = daemon(vec![list(), list()]);
    let json = run("backend list web", &session(directory.path(), true), &HOOKS).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json.as_array().map(Vec::len), Some(3));
    assert_eq!(json.pointer("/0/service").and_then(|v| v.as_str()), Some("web"));
    assert_eq!(
        json.pointer("/0/counters/new_flows")
            .and_then(serde_json::Value::as_u64),
        Some(852_114)
    );
    let error = run("backend list nope", &session(directory.path(), false), &HOOKS).unwrap_err();
    assert_eq!(error.kind.exit_code(), 3);
    served.join().unwrap();
}

#[test]
fn one_service_is_shown_by_name_or_address_and_an_unknown_one_is_not_found() {
    let list = || Reply::Services {
        services: vec![fixtures::service("dns", "10.0.0.100:53", Vec::new()), fixtures::web()],
    };
    let (directory, served) = daemon(vec![list(), list(), list()]);
    let json = run("service show web", &session(directory.path(), true), &HOOKS).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json.pointer("/name").and_then(|v| v.as_str()), Some("web"));
    assert_eq!(
        json.pointer("/backends").and_then(|v| v.as_array()).map(Vec::len),
        Some(3)
    );
    let text = run(
        "service show 10.0.0.100:53/tcp",
        &session(directory.path(), false),
        &HOOKS,
    )
    .unwrap();
    assert!(text.starts_with("dns") && !text.contains("web"), "{text}");
    let error = run("service show nope", &session(directory.path(), false), &HOOKS).unwrap_err();
    assert_eq!(error.kind.exit_code(), 3);
    served.join().unwrap();
}

#[test]
fn versions_are_compared() {
    let version = VersionReport {
        version: "0.0.1".into(),
        abi: 6,
    };
    let (directory, served) = daemon(vec![Reply::Version { version }]);
    let text = run("version", &session(directory.path(), false), &HOOKS).unwrap();
    assert!(
        text.contains("daemon  0.0.1 (map layout 6)") && text.contains("another version"),
        "{text}"
    );
    served.join().unwrap();
    let empty = tempfile::tempdir().unwrap();
    let text = run("version", &session(empty.path(), false), &HOOKS).unwrap();
    assert!(text.contains("not running"), "{text}");
}

thread_local! {
    static DETACHED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn detach_takes_everything_down_with_and_without_a_daemon() {
    let (directory, served) = daemon(vec![done("Detached.")]);
    let text = run("detach", &session(directory.path(), false), &HOOKS).unwrap();
    assert_eq!(
        (text.as_str(), served.join().unwrap()),
        ("Detached.\n", vec![Request::Shutdown])
    );

    let offline = Hooks {
        abi: 7,
        detach_offline: |instance, bpffs| {
            DETACHED.with_borrow_mut(|calls| calls.push(format!("{instance} {}", bpffs.display())));
            Ok(vec!["link eth0".into(), "12 pins".into()])
        },
    };
    // The socket of the daemon above is stale now; then there is none.
    for _ in 0..2 {
        let text = run("detach", &session(directory.path(), false), &offline).unwrap();
        assert_eq!(
            text,
            "Instance `default`: no daemon runs; removed link eth0, 12 pins.\n"
        );
        std::fs::remove_file(directory.path().join("sock")).unwrap_or_default();
    }
    let expected = format!("default {}", directory.path().join("bpf").display());
    assert_eq!(DETACHED.take(), [expected.clone(), expected]);

    let nothing = Hooks {
        abi: 7,
        detach_offline: |_, _| Ok(Vec::new()),
    };
    let text = run("detach", &session(directory.path(), false), &nothing).unwrap();
    assert!(text.contains("nothing is attached"), "{text}");
    let error = run("detach eth0", &session(directory.path(), false), &offline).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
}

#[test]
fn the_doctor_works_with_a_daemon_and_without_and_names_what_is_not_there() {
    let mut status = fixtures::status(vec![fixtures::web()]);
    status.interfaces.clear();
    let reply = Reply::Status {
        status: Box::new(status),
    };
    let (directory, served) = daemon(vec![reply]);
    let text = run("doctor lo", &session(directory.path(), false), &HOOKS).unwrap();
    assert!(text.ends_with("looked at the host and 1 interface\n"), "{text}");
    served.join().unwrap();
    let nobody = tempfile::tempdir().unwrap();
    let json = run("doctor lo", &session(nobody.path(), true), &HOOKS).unwrap();
    assert!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap().is_array(),
        "{json}"
    );
    let refused = run("doctor lo lbt-none", &session(nobody.path(), false), &HOOKS).unwrap_err();
    assert_eq!(
        (refused.kind, refused.message.as_str()),
        (ErrorKind::NotFound, "there is no interface lbt-none: see ip link")
    );
}
