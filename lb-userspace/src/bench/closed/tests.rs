//! Runs against servers on loopback that behave in known ways.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Runtime,
};

use super::*;
use crate::bench::{
    report::{Outcome, StoppedBy},
    stop::Stop,
    target::Target,
};

/// A server that answers each request on a connection with this; ends with the runtime.
fn server(answer: &'static str) -> (Runtime, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                    if answer.contains("Connection: close") {
                        break;
                    }
                }
            });
        }
    });
    (runtime, address)
}

fn settings(to: SocketAddr, kind: Kind, count: u64) -> Settings {
    Settings {
        target: Target {
            to,
            interface: "lo".into(),
            ifindex: 1,
            gateway: None,
        },
        sources: Vec::new(),
        connections: 4,
        threads: 1,
        rate: None,
        duration: Duration::from_mins(5),
        count: Some(count),
        timeout: Duration::from_secs(20),
        reset_close: true,
        kind,
    }
}

fn http(keep_alive: bool) -> Kind {
    Kind::Http(Http {
        method: hyper::Method::GET,
        path: "/".into(),
        host: "test".into(),
        keep_alive,
        spread: Some(Spread::Body),
    })
}

#[track_caller]
fn number(outcome: &Outcome, pointer: &str) -> u64 {
    let json = outcome.to_json();
    let found = json.pointer(pointer).and_then(serde_json::Value::as_u64);
    found.unwrap_or_else(|| panic!("no {pointer} in {json:#}"))
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ns1 x\n";
const OK_CLOSE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\ns1 x\n";

#[test]
fn as_many_requests_as_wanted_on_as_few_connections_as_possible() {
    let (_server, to) = server(OK);
    let outcome = run(settings(to, http(true), 100), &Stop::default(), |_| {}).unwrap();
    assert_eq!(outcome.stopped_by, StoppedBy::Count);
    for (pointer, expected) in [
        ("/figures/sent", 100),
        ("/figures/succeeded", 100),
        ("/figures/failed", 0),
        ("/figures/unfinished", 0),
        ("/figures/received_bytes", 500),
        ("/tables/spread/0/answers", 100),
        ("/tables/statuses/0/answers", 100),
        ("/latencies/request/count", 100),
    ] {
        assert_eq!(number(&outcome, pointer), expected, "{pointer}");
    }
    assert!(number(&outcome, "/figures/connections_opened") <= 4);
}

#[test]
fn a_connection_for_each_request() {
    let (_server, to) = server(OK);
    let outcome = run(settings(to, http(false), 30), &Stop::default(), |_| {}).unwrap();
    assert_eq!(number(&outcome, "/figures/connections_opened"), 30);
    assert_eq!(number(&outcome, "/figures/succeeded"), 30);
}

#[test]
fn a_server_that_closes_after_each_answer_fails_nobody() {
    let (_server, to) = server(OK_CLOSE);
    let outcome = run(settings(to, http(true), 50), &Stop::default(), |_| {}).unwrap();
    assert_eq!(number(&outcome, "/figures/succeeded"), 50, "{:#}", outcome.to_json());
    assert_eq!(number(&outcome, "/figures/connections_opened"), 50);
}

#[test]
fn tcp_sends_and_expects() {
    let (_server, to) = server("0123456789");
    let kind = Kind::Tcp(Tcp { send: 1, expect: 10 });
    let outcome = run(settings(to, kind, 20), &Stop::default(), |_| {}).unwrap();
    assert_eq!(number(&outcome, "/figures/succeeded"), 20);
    assert_eq!(number(&outcome, "/latencies/connect/count"), 20);
}

#[test]
fn failures_are_counted_by_kind_and_do_not_end_the_run() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let outcome = run(settings(closed, http(true), 20), &Stop::default(), |_| {}).unwrap();
    assert_eq!(number(&outcome, "/figures/failed"), 20);
    let json = outcome.to_json();
    assert_eq!(json.pointer("/tables/failures/0/failure").unwrap(), "refused");
    assert!(
        outcome.warnings.iter().any(|w| w.contains("nothing succeeded")),
        "{:?}",
        outcome.warnings
    );

    let (_server, to) = server("not http at all\r\n\r\n");
    let outcome = run(settings(to, http(true), 5), &Stop::default(), |_| {}).unwrap();
    assert_eq!(
        outcome.to_json().pointer("/tables/failures/0/failure").unwrap(),
        "not HTTP"
    );
}

#[test]
fn a_silent_server_times_out() {
    let (_server, to) = server("");
    let mut settings = settings(to, http(true), 4);
    settings.timeout = Duration::from_millis(50);
    let outcome = run(settings, &Stop::default(), |_| {}).unwrap();
    assert_eq!(
        outcome.to_json().pointer("/tables/failures/0/failure").unwrap(),
        "timed out"
    );
    assert_eq!(number(&outcome, "/figures/failed"), 4);
}

#[test]
fn the_time_ends_a_run_and_cuts_short_what_goes_on() {
    let (_server, to) = server("");
    let mut settings = settings(to, http(true), 1000);
    settings.duration = Duration::from_millis(200);
    let outcome = run(settings, &Stop::default(), |_| {}).unwrap();
    assert_eq!(outcome.stopped_by, StoppedBy::Duration);
    assert_eq!(number(&outcome, "/figures/unfinished"), 4);
    assert_eq!(number(&outcome, "/figures/failed"), 0);
}

#[test]
fn a_stop_ends_a_run() {
    let (_server, to) = server(OK);
    let stop = Stop::default();
    stop.ask();
    let outcome = run(settings(to, http(true), 1_000_000_000), &stop, |_| {}).unwrap();
    assert_eq!(outcome.stopped_by, StoppedBy::Interrupt);
}

#[test]
fn a_rate_that_is_not_kept_is_told() {
    let (_server, to) = server("");
    let mut settings = settings(to, http(true), 1000);
    settings.rate = Some(1000.0);
    settings.duration = Duration::from_millis(500);
    let outcome = run(settings, &Stop::default(), |_| {}).unwrap();
    assert!(number(&outcome, "/figures/never_started") > 300);
    assert!(
        outcome.warnings.iter().any(|w| w.contains("rate was not kept")),
        "{:?}",
        outcome.warnings
    );
}
