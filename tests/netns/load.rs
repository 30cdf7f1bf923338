//! `lb bench traffic`: load through the real load balancer, and what it refuses to send.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use lb_tests::{Lab, Nginx, Outcome, Topology, balancer::program, eventually, lab::Family};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// `lb bench traffic` on the client's host.
fn traffic(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.client.ns.command(program());
    command.args(["bench", "traffic"]).args(arguments);
    command
}

/// As JSON, of a run that is expected to end by itself.
fn json(lab: &Lab, arguments: &[&str]) -> Value {
    let mut command = traffic(lab, arguments);
    let outcome = Outcome::of(command.arg("--json")).success();
    assert_eq!(outcome.stderr, "", "nothing but JSON");
    outcome.json()
}

#[track_caller]
fn number(json: &Value, pointer: &str) -> u64 {
    let found = json.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no {pointer} in {json:#}"))
}

fn start(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts")
}

#[test]
fn requests_are_exactly_as_many_as_wanted_and_shared_exactly() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _nginx = lab.serve_nginx();
    let config = lab.config_for_both();
    let lb = lab.start(&config);
    for (family, service) in [(Family::V4, "web"), (Family::V6, "web6")] {
        let to = lab.vip(family, 80).to_string();
        let before = lb.service(service).counters.new_flows;
        let new = ["--requests", "400", "--connections", "8", "--new-connections"];
        let common = ["http", "--interface", "eth0", "--to", &to, "--spread-by", "body"];
        let result = json(&lab, &[&common[..], &new].concat());
        for (pointer, expected) in [
            ("/figures/sent", 400),
            ("/figures/succeeded", 400),
            ("/figures/failed", 0),
            ("/figures/unfinished", 0),
            ("/figures/connections_opened", 400),
            ("/tables/spread/0/answers", 200),
            ("/tables/spread/1/answers", 200),
            ("/tables/statuses/0/answers", 400),
            ("/latencies/request/count", 400),
        ] {
            assert_eq!(number(&result, pointer), expected, "{family:?} {pointer} in {result:#}");
        }
        assert_eq!(result["stopped_by"], "count");
        assert_eq!(result["plan"]["to"], to);
        assert_eq!(lb.service(service).counters.new_flows - before, 400);

        // On kept connections, it is these that are shared.
        let kept = ["--requests", "1000", "--connections", "4"];
        let result = json(&lab, &[&common[..], &kept].concat());
        assert_eq!(number(&result, "/figures/succeeded"), 1000);
        assert_eq!(number(&result, "/figures/connections_opened"), 4, "{result:#}");
        assert_eq!(lb.service(service).counters.new_flows - before, 404);
    }
}

#[test]
fn connections_are_opened_from_the_addresses_that_are_named() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    lab.client.ns.sh("ip addr add 10.80.1.3/24 dev eth0");
    let to = lab.vip(Family::V4, 80).to_string();
    let common = ["tcp", "--interface", "eth0", "--to", &to, "--reset-close"];
    let both = [
        "--source",
        "10.80.1.2,10.80.1.3",
        "--connections",
        "2",
        "--count",
        "100",
    ];
    let result = json(&lab, &[&common[..], &both].concat());
    assert_eq!(number(&result, "/figures/succeeded"), 100, "{result:#}");
    assert_eq!(number(&result, "/latencies/connect/count"), 100);
    assert_eq!(lb.service("web").counters.new_flows, 100);
    let left = lab.client.ns.sh("ss -Htan state time-wait");
    assert_eq!(left, "", "--reset-close leaves nothing behind");
    let flows = lab.lb(&["flows", "--json"]).success().stdout;
    assert!(!flows.contains("error"), "{flows}");
}

#[test]
fn a_backend_that_dies_is_counted_and_does_not_end_the_run() {
    let lab = Lab::new(Topology::OneArm, 2);
    let mut nginx: Vec<Nginx> = lab.serve_nginx();
    let config = lab.config().service(lab.web(Family::V4));
    let lb = lab.start(&config);
    let to = lab.vip(Family::V4, 80).to_string();
    let mut command = traffic(
        &lab,
        &[
            "http",
            "--interface",
            "eth0",
            "--to",
            &to,
            "--requests",
            "2000",
            "--rate",
            "400",
            "--connections",
            "32",
            "--new-connections",
            "--reset-close",
            "--spread-by",
            "body",
            "--json",
        ],
    );
    let child = start(&mut command);
    lb.wait_status("some requests", |status| status.services[0].counters.new_flows > 400);
    drop(nginx.remove(1));
    let output = child.wait_with_output().expect("the run ends");
    assert!(output.status.success());
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let (good, bad) = (
        number(&result, "/figures/succeeded"),
        number(&result, "/figures/failed"),
    );
    assert_eq!(good + bad, 2000, "{result:#}");
    assert!(bad > 0, "{result:#}");
    let failures = result["tables"]["failures"].as_array().expect("a table");
    let sum: u64 = failures.iter().map(|row| row["count"].as_u64().expect("a count")).sum();
    assert_eq!(sum, bad);
    for row in failures {
        let kind = row["failure"].as_str().expect("a kind");
        assert!(["refused", "reset", "closed early"].contains(&kind), "{result:#}");
    }
    let first = &result["tables"]["spread"][0];
    assert_eq!(first["answered_by"], "s1");
    assert!(first["answers"].as_u64() > Some(good / 2), "{result:#}");
}

#[test]
fn ctrl_c_ends_a_run_with_its_summary_and_plot() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _nginx = lab.serve_nginx();
    let to = lab.servers[0].address(Family::V4, 80).to_string();
    let plot = lab.path("load.svg");
    let drawn = plot.display().to_string();
    let mut command = traffic(
        &lab,
        &[
            "http",
            "--interface",
            "eth0",
            "--to",
            &to,
            "--duration",
            "10m",
            "--rate",
            "200",
            "--plot",
            &drawn,
        ],
    );
    let child = start(&mut command);
    eventually("load to arrive", Duration::from_secs(20), || {
        let seen = lab.servers[0].ns.sh("ss -Htn state established '( sport = :80 )'");
        if seen.is_empty() {
            Err("no connection".to_owned())
        } else {
            Ok(())
        }
    });
    // The command is nsenter's only process: it replaced it.
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("SIGINT is sent");
    let output = child.wait_with_output().expect("the run ends");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let plan = text.find("HTTP GET requests to").expect("a plan");
    let results = text.find("when it was interrupted").expect("a summary");
    assert!(plan < results, "{text}");
    assert!(text.contains("succeeded") && text.contains("P99.9"), "{text}");
    let svg = std::fs::read_to_string(plot).expect("a plot");
    assert!(svg.contains("<svg") && svg.contains(&to), "{svg}");
}

#[test]
fn a_run_ends_by_itself() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _nginx = lab.serve_nginx();
    let to = lab.servers[0].address(Family::V4, 80).to_string();
    let result = json(
        &lab,
        &[
            "http",
            "--interface",
            "eth0",
            "--to",
            &to,
            "--duration",
            "300ms",
            "--rate",
            "100",
        ],
    );
    assert_eq!(result["stopped_by"], "duration");
    assert_eq!(number(&result, "/figures/failed"), 0, "{result:#}");
    let sent = number(&result, "/figures/sent");
    assert!((1..=100).contains(&sent), "{result:#}");
}

#[test]
fn what_is_not_one_host_behind_the_interface_is_refused() {
    let lab = Lab::new(Topology::OneArm, 1);
    lab.client
        .ns
        .sh("ip link add other0 type veth peer name other1; ip link set other0 up; ip link set other1 up");
    let server = lab.servers[0].address(Family::V4, 80).to_string();
    let client = lab.client.address(Family::V4, 80).to_string();
    for (interface, to, code, words) in [
        ("eth7", server.as_str(), 3, &["eth7", "eth0"][..]),
        ("other0", &server, 2, &["--interface eth0", "other0"]),
        ("eth0", "224.0.0.1:80", 2, &["multicast", "one host"]),
        ("eth0", "[ff02::1]:80", 2, &["multicast"]),
        ("eth0", "255.255.255.255:80", 2, &["broadcast"]),
        ("eth0", "10.80.1.255:80", 2, &["broadcast", "one host"]),
        ("eth0", "0.0.0.0:80", 2, &["unspecified"]),
        ("eth0", &client, 2, &["this host", "another machine"]),
        ("eth0", "192.0.2.1:80", 1, &["no route", "ip route get 192.0.2.1"]),
    ] {
        for kind in ["http", "tcp"] {
            let arguments = [kind, "--interface", interface, "--to", to];
            let outcome = Outcome::of(&mut traffic(&lab, &arguments));
            assert_eq!(outcome.code, code, "{arguments:?}: {outcome:?}");
            assert_eq!(outcome.stdout, "", "no plan");
            for word in words {
                assert!(
                    outcome.stderr.contains(word),
                    "{arguments:?}: {word} is missing: {}",
                    outcome.stderr
                );
            }
        }
    }
    let missing = Outcome::of(&mut traffic(&lab, &["http", "--to", &server]));
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("--interface"), "{}", missing.stderr);
    let source = ["tcp", "--interface", "eth0", "--to", &server, "--source", "10.80.1.77"];
    let foreign = Outcome::of(&mut traffic(&lab, &source));
    assert_eq!(foreign.code, 2);
    assert!(
        foreign.stderr.contains("ip address add 10.80.1.77"),
        "{}",
        foreign.stderr
    );
}
