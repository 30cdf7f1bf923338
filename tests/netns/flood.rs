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
