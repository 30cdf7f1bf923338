//! Errors say what to do, and scripts can tell them apart by the exit code.

use lb_tests::{Lab, Topology, lab::Family};

#[track_caller]
fn refused(lab: &Lab, arguments: &[&str], code: i32, words: &[&str]) {
    let outcome = lab.lb(arguments);
    assert_eq!(outcome.code, code, "{arguments:?}: {outcome:?}");
    assert!(outcome.stdout.is_empty(), "{outcome:?}");
    for word in words {
        assert!(
            outcome.stderr.contains(word),
            "{arguments:?}: the message lacks {word:?}:\n{}",
            outcome.stderr
        );
    }
}

#[test]
fn what_is_not_there_is_suggested() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    refused(&lab, &["service", "remove", "wed"], 3, &["wed", "web"]);
    refused(&lab, &["backend", "drain", "web", "s9"], 3, &["s9", "s1"]);
    refused(&lab, &["attach", "eth7"], 3, &["eth7"]);
    refused(&lab, &["detach", "eth7"], 3, &["eth7"]);
    assert_eq!(lb.status().services.len(), 1);
}

#[test]
fn what_is_there_already_is_a_conflict() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    let before = lb.status().services;
    let vip = lab.vip(Family::V4, 80).to_string();
    refused(&lab, &["service", "add", "other", "--vip", &vip], 4, &[&vip, "web"]);
    refused(&lab, &["service", "add", "web", "--vip", "10.80.1.101:80"], 4, &["web"]);
    let backend = lab.servers[0].address(Family::V4, 80).to_string();
    refused(&lab, &["backend", "add", "web", &backend], 4, &[&backend]);
    assert_eq!(lb.status().services.len(), before.len());
    assert_eq!(lb.service("web").backends.len(), 1);
}

#[test]
fn wrong_values_are_refused() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let _lb = lab.start(&lab.config().service(lab.web(Family::V4).set("mode = \"nat\"")));
    refused(
        &lab,
        &["backend", "set", "web", "s1", "--weight", "257"],
        2,
        &["257", "256"],
    );
    refused(
        &lab,
        &["service", "add", "x", "--vip", "10.80.1.101"],
        2,
        &["10.80.1.101"],
    );
    refused(
        &lab,
        &["backend", "add", "web", "[fd80:1::11]:80"],
        2,
        &["mode nat", "IPv4"],
    );
    refused(
        &lab,
        &["backend", "add", "web", "10.80.1.100:80"],
        2,
        &["10.80.1.100:80"],
    );
    refused(&lab, &["frobnicate"], 2, &["frobnicate"]);
}

#[test]
fn without_a_daemon_every_verb_says_so() {
    let lab = Lab::new(Topology::OneArm, 1);
    let socket = lab.socket();
    let socket = socket.to_str().unwrap();
    for verb in [
        &["status"][..],
        &["service", "list"],
        &["backend", "list"],
        &["flows"],
        &["service", "remove", "web"],
    ] {
        refused(&lab, verb, 5, &[socket, "lb run"]);
    }
}

#[test]
fn errors_are_json_when_asked() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let _lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    let outcome = lab.lb(&["--json", "service", "remove", "wed"]);
    assert_eq!(outcome.code, 3);
    let printed = format!("{}{}", outcome.stdout, outcome.stderr);
    let error: serde_json::Value = serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{e}: {printed}"));
    assert_eq!(error["error"]["kind"], "not-found");
    assert!(error["error"]["message"].as_str().unwrap().contains("wed"));
}
