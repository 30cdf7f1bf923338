//! The daemon killed, restarted, ended, and everything taken down.

use lb_tests::{
    Balancer, Lab, Topology,
    client::{self, Held, Load},
    lab::Family,
};

use crate::common::even;

#[test]
fn a_killed_daemon_is_not_noticed_and_the_next_one_adopts() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let config = lab.config_for_both();
    let mut lb = lab.start(&config);
    assert!(!lb.status().adopted);
    let loads = Family::ALL.map(|family| Load::start(&lab.client, lab.vip(family, 80), 2));
    let mut held = Family::ALL.map(|family| lab.client.ns.run(|| Held::open(lab.vip(family, 80))).unwrap());
    let wait = |more| loads.iter().for_each(|load| load.wait_for(more));

    wait(100);
    lb.kill();
    wait(200);
    held.iter_mut()
        .for_each(|held| drop(held.say("without a daemon").unwrap()));
    lb.restart();
    wait(100);
    assert!(lb.status().adopted, "the daemon adopts the running packet path");
    lb.wait_ready();
    wait(100);
    held.iter_mut()
        .for_each(|held| drop(held.say("after the restart").unwrap()));
    for load in loads {
        assert_eq!(load.stop(), Vec::<String>::new());
    }
    // The adopted packet path is under control: a change takes effect.
    let _done = lab.lb(&["backend", "set", "web", "s1", "--weight", "0"]).success();
    let shares = lab.client.ns.run(|| client::shares(lab.vip(Family::V4, 80), 10));
    assert_eq!(shares, [("s2".to_owned(), 10)].into());
}

#[test]
fn a_daemon_that_ends_leaves_the_packet_path_running() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _http = lab.serve_http();
    let mut lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    assert!(lb.terminate().success());
    assert_eq!(
        lab.client.ns.run(|| client::shares(lab.vip(Family::V4, 80), 10)),
        even(&lab, 5)
    );
    lb.restart();
    assert!(lb.status().adopted);
}

/// What `lb` puts on the host: pins, XDP programs, VIPs, permanent neighbours.
fn traces(lab: &Lab) -> String {
    let mut traces = lab.lb.ns.sh("ip -details link show | grep -o 'prog/xdp.*' || true
         ip address show | grep -E '/(32|128) ' | grep -v 'host lo\\|::1/128\\|127.0.0.1' || true
         ip neighbour show | grep -iE 'permanent|managed|extern_learn' || true
         ip neighbour show proxy");
    if lab.pins().exists() {
        traces += &format!("{} exists\n", lab.pins().display());
    }
    traces
}

#[test]
fn detach_leaves_nothing_behind() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let config = lab.config_for_both();
    assert_eq!(traces(&lab), "");
    let addresses = "ip -oneline address show scope global | awk '{print $2, $4}'";
    let before = lab.lb.ns.sh(addresses);
    let lb = lab.start(&config);
    for family in Family::ALL {
        lab.client.ns.run(|| client::who(lab.vip(family, 80))).unwrap();
    }
    let while_running = traces(&lab);
    assert!(
        while_running.matches("prog/xdp").count() == 2 && while_running.contains("exists"),
        "{while_running}"
    );
    lb.detach();
    assert_eq!(traces(&lab), "");
    assert_eq!(lab.lb.ns.sh(addresses), before);
    lab.client.ns.run(|| client::open(lab.vip(Family::V4, 80))).unwrap_err();
    assert!(!lab.socket().exists());
}

#[test]
fn detach_works_without_a_daemon() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let mut lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    lb.kill();
    assert_ne!(traces(&lab), "");
    let _done = lab.lb(&["detach"]).success();
    assert_eq!(traces(&lab), "");
}

#[test]
fn detach_on_exit_leaves_nothing_behind() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let mut lb = Balancer::start_with(&lab, &lab.config().service(lab.web(Family::V4)), &["--detach-on-exit"]);
    lb.wait_ready();
    lab.client.ns.run(|| client::who(lab.vip(Family::V4, 80))).unwrap();
    assert!(lb.terminate().success());
    assert_eq!(traces(&lab), "");
}
