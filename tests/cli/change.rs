//! Verbs that change, each seen in the status and by a client.

use lb_tests::{Lab, Topology, balancer::PATIENCE, client, eventually, lab::Family};
use lb_userspace::model::{AdminState, OnDown};

#[test]
fn services_come_change_and_go_at_runtime() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config());
    for family in Family::ALL {
        let vip = lab.vip(family, 80);
        let backend = |i: usize| format!("{},name={}", lab.servers[i].address(family, 80), lab.servers[i].name);
        let (first, second) = (backend(0) + ",weight=2", backend(1));
        let add = [
            "service",
            "add",
            "web",
            "--vip",
            &vip.to_string(),
            "--health",
            "none",
            "--backend",
            &first,
            "--backend",
            &second,
        ];
        let done = lab.lb(&add).success();
        assert!(done.stdout.contains("web"), "{done:?}");
        lb.wait_ready();
        let shares = lab.client.ns.run(|| client::shares(vip, 30));
        assert_eq!(shares, [("s1".into(), 20), ("s2".into(), 10)].into());

        let _done = lab
            .lb(&["service", "set", "web", "--on-down", "keep", "--failback", "false"])
            .success();
        let service = lb.service("web");
        assert_eq!((service.on_down, service.failback), (OnDown::Keep, false));

        // Also by what identifies it on the wire.
        let _done = lab.lb(&["service", "remove", &format!("{vip}/tcp")]).success();
        assert!(lb.status().services.is_empty());
        let addresses = lab.lb.ns.sh("ip addr show dev client0");
        assert!(!addresses.contains(&vip.ip().to_string()), "{addresses}");
    }
}

#[test]
fn backends_come_change_and_go_at_runtime() {
    let lab = Lab::new(Topology::TwoArm, 3);
    let _http = lab.serve_http();
    let mut backends = lab.backends(Family::V4, 80);
    backends.truncate(2);
    let lb = lab.start(&lab.config().service(lab.web(Family::V4).backends(backends)));
    let vip = lab.vip(Family::V4, 80);
    let shares = |n| lab.client.ns.run(|| client::shares(vip, n));
    let third = lab.servers[2].address(Family::V4, 80).to_string();

    let _done = lab
        .lb(&["backend", "add", "web", &third, "--name", "third", "--weight", "2"])
        .success();
    lb.wait_in("web", "third");
    assert_eq!(
        shares(40),
        [("s1".into(), 10), ("s2".into(), 10), ("s3".into(), 20)].into()
    );
    let _done = lab.lb(&["backend", "set", "web", &third, "--weight", "1"]).success();
    assert_eq!(
        shares(30),
        [("s1".into(), 10), ("s2".into(), 10), ("s3".into(), 10)].into()
    );

    for (verb, state) in [
        ("drain", AdminState::Drain),
        ("enable", AdminState::Enabled),
        ("disable", AdminState::Disabled),
    ] {
        let _done = lab.lb(&["backend", verb, "web", "s1"]).success();
        assert_eq!(lb.backend("web", "s1").admin, state);
        if state == AdminState::Enabled {
            lb.wait_in("web", "s1");
        }
        assert_eq!(shares(12).contains_key("s1"), state == AdminState::Enabled, "{verb}");
    }
    let _done = lab.lb(&["backend", "remove", "web", "third"]).success();
    assert_eq!(shares(10), [("s2".into(), 10)].into());
    assert_eq!(
        lb.service("web").counters.new_flows,
        40 + 30 + 36 + 10,
        "those of the removed one are counted"
    );
}

#[test]
fn an_interface_is_attached_and_detached() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    let serves = || lab.client.ns.run(|| client::who(lab.vip(Family::V4, 80))).is_ok();
    let programs = || lab.lb.ns.sh("ip -details link show").matches("prog/xdp").count();
    assert!(serves());
    assert_eq!(programs(), 2);
    let _done = lab.lb(&["detach", "servers0"]).success();
    assert_eq!(programs(), 1);
    let _done = lab.lb(&["attach", "servers0"]).success();
    assert_eq!(programs(), 2);
    eventually("a client to be served again", PATIENCE, || {
        if serves() { Ok(()) } else { Err("no answer".to_owned()) }
    });
    lb.wait_ready();
}

#[test]
fn changes_survive_a_killed_daemon() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let mut lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    let _done = lab.lb(&["backend", "drain", "web", "s1"]).success();
    lb.restart();
    assert_eq!(
        lb.backend("web", "s1").admin,
        AdminState::Drain,
        "a drained backend does not come back by a restart"
    );
    lb.wait_in("web", "s2");
    assert_eq!(
        lab.client.ns.run(|| client::shares(lab.vip(Family::V4, 80), 6)),
        [("s2".into(), 6)].into()
    );
}
