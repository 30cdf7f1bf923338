//! A SYN flood while real connections go on.

use std::process::Stdio;

use lb_tests::{
    Lab, Topology,
    balancer::program,
    client::{self, Held},
    lab::Family,
};

/// Many times as many SYNs as there is room for half-open flows.
#[test]
fn a_syn_flood_ends_no_connection_and_keeps_no_new_one_out() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _servers = lab.serve_http();
    for family in [Family::V4, Family::V6] {
        let lb = lab.start(&lab.config().half_open(1024).service(lab.web(family)));
        let vip = lab.vip(family, 80);
        let mut held: Vec<Held> = lab
            .client
            .ns
            .run(|| (0..100).map(|_| Held::open(vip).unwrap()).collect());
        let mut flood = lab.client.ns.command(program());
        flood
            .args([
                "bench",
                "traffic",
                "syn",
                "--json",
                "--interface",
                "eth0",
                "--to",
                &vip.to_string(),
            ])
            .args(["--flows", "20000", "--rate", "8k", "--duration", "3s"])
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let mut flood = flood.spawn().expect("lb starts");
        let mut fresh = 0;
        while flood.try_wait().unwrap().is_none() {
            for one in &mut held {
                one.say("still there").unwrap();
            }
            lab.client.ns.run(|| client::who(vip)).unwrap();
            fresh += 1;
        }
        assert!(flood.wait().unwrap().success());
        for one in &mut held {
            one.say("and after").unwrap();
        }
        let counted = lb.service("web").counters.new_flows;
        assert!(counted > 10_000, "there was a flood: {counted} flows");
        assert!(fresh > 3, "{fresh} new connections");
        drop(lb);
    }
}

#[test]
fn flows_are_listed_counted_and_ended_by_filters() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _servers = lab.serve_http();
    let _lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    let vip = lab.vip(Family::V4, 80);
    let mut held: Vec<Held> = lab.client.ns.run(|| (0..4).map(|_| Held::open(vip).unwrap()).collect());
    let total = |arguments: &[&str]| {
        let flows = lab.lb(&[&["--json", "flows"], arguments].concat()).success().json();
        (
            flows["total"].as_u64().unwrap(),
            flows["flows"].as_array().unwrap().len(),
        )
    };
    let client = held[0].local;
    let network = format!("{}/24", client.ip());
    assert_eq!(total(&["--state", "established"]), (4, 4));
    assert_eq!(total(&["--state", "half-open"]), (0, 0));
    assert_eq!(total(&["--state", "established", "--limit", "3"]), (4, 3));
    assert_eq!(total(&["--client", &network, "--state", "established"]), (4, 4));
    assert_eq!(total(&["--client", "203.0.113.0/24"]), (0, 0));
    assert_eq!(total(&["--client", &client.to_string()]), (1, 1));
    let counts = lab
        .lb(&["--json", "flows", "--count", "--state", "established"])
        .success()
        .json();
    let counts: Vec<u64> = counts
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["flows"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [2, 2], "of each backend");
    assert_eq!(lab.lb(&["flows", "kill"]).code, 2, "which?");
    let killed = lab.lb(&["flows", "kill", "--client", &client.to_string()]).success();
    assert_eq!(killed.stdout, "1 flow ended\n");
    held.remove(0).say("still there?").unwrap_err();
    for one in &mut held {
        one.say("still there?").unwrap();
    }
    let killed = lab.lb(&["--json", "flows", "kill", "--all"]).success().json();
    assert!(killed["killed"].as_u64().unwrap() >= 3, "{killed}");
}
