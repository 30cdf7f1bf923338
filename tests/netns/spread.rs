//! How connections are shared among backends.

use lb_tests::{
    Lab, Topology,
    client::{self, Shares},
    lab::Family,
};

use crate::common::{even, shares_of};

#[test]
fn connections_one_after_the_other_are_shared_exactly() {
    let lab = Lab::new(Topology::TwoArm, 4);
    let _http = lab.serve_http();
    for family in Family::ALL {
        let lb = lab.start(&lab.config().service(lab.web(family)));
        let vip = lab.vip(family, 80);
        assert_eq!(
            lab.client.ns.run(|| client::shares(vip, 400)),
            even(&lab, 100),
            "{family:?}"
        );
        for backend in lb.service("web").backends {
            assert_eq!(backend.counters.new_flows, 100, "{backend:?}");
            assert!(
                backend.counters.packets_in >= 400 && backend.counters.packets_out >= 300,
                "{backend:?}"
            );
        }
        assert_eq!(lb.service("web").counters.new_flows, 400);
        lb.detach();
    }
}

#[test]
fn connections_in_parallel_are_shared_exactly() {
    let lab = Lab::new(Topology::TwoArm, 4);
    let _nginx = lab.serve_nginx();
    let config = lab.config_for_both();
    let _lb = lab.start(&config);
    for family in Family::ALL {
        let vip = lab.vip(family, 80);
        let shares = lab.client.ns.run(|| client::shares_in_parallel(vip, 16, 25));
        assert_eq!(shares, even(&lab, 100), "{family:?}");
    }
}

#[test]
fn a_thousand_parallel_connections_are_all_answered() {
    let lab = Lab::new(Topology::TwoArm, 4);
    let _nginx = lab.serve_nginx();
    let config = lab.config_for_both();
    let lb = lab.start(&config);
    for family in Family::ALL {
        let vip = lab.vip(family, 80);
        let shares = lab.client.ns.run(|| client::all_at_once(vip, 20, 50));
        assert_eq!(shares, even(&lab, 250), "{family:?}");
    }
    for reason in [
        "no-flow",
        "no-backend",
        "backend-down",
        "source-ports-exhausted",
        "flow-table-full",
        "internal",
    ] {
        assert_eq!(lb.reason(reason), 0, "{reason}");
    }
}

#[test]
fn weights_are_exact_and_change_on_the_fly() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _http = lab.serve_http();
    let vip = lab.vip(Family::V4, 80);
    let lb = lab.start(&lab.config().service(lab.web(Family::V4).backend(0, "weight = 3")));
    let share = |n| lab.client.ns.run(|| client::shares(vip, n));
    assert_eq!(share(400), shares_of(&[("s1", 300), ("s2", 100)]));

    let _done = lab.lb(&["backend", "set", "web", "s2", "--weight", "2"]).success();
    assert_eq!(lb.backend("web", "s2").weight, 2);
    assert_eq!(share(100), shares_of(&[("s1", 60), ("s2", 40)]));

    let _done = lab.lb(&["backend", "set", "web", "s1", "--weight", "0"]).success();
    assert_eq!(share(20), shares_of(&[("s2", 20)]));
    let idle = lb.backend("web", "s1");
    assert!(
        !idle.in_rotation && idle.why_not.as_deref().is_some_and(|why| why.contains("weight 0")),
        "{idle:?}"
    );
}

/// Connections go on one after the other while the scheduler changes under them, and each is answered. Afterwards each
/// scheduler shares as it says, also when a backend has failed.
#[test]
fn schedulers_change_under_traffic() {
    let lab = Lab::new(Topology::TwoArm, 3);
    let _http = lab.serve_http();
    for family in Family::ALL {
        let vip = lab.vip(family, 80);
        let lb = lab.start(&lab.config().service(lab.web(family).set("maglev-table-size = 1021")));
        let served: usize = std::thread::scope(|scope| {
            let client = scope.spawn(|| lab.client.ns.run(|| client::shares(vip, 1200)));
            for scheduler in ["maglev", "least-conn", "source-hash", "round-robin", "maglev"] {
                let _done = lab.lb(&["service", "set", "web", "--scheduler", scheduler]).success();
                assert_eq!(lb.service("web").scheduler.to_string(), scheduler);
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            client.join().unwrap().values().map(|n| *n as usize).sum()
        });
        assert_eq!(served, 1200, "{family:?}");
        let share = |n| lab.client.ns.run(|| client::shares(vip, n));
        assert_eq!(share(120).len(), 3, "by ports, all are found");
        let _done = lab
            .lb(&["service", "set", "web", "--scheduler", "source-hash"])
            .success();
        assert_eq!(share(40).len(), 1, "one client, one backend");
        let _done = lab
            .lb(&["service", "set", "web", "--scheduler", "least-conn"])
            .success();
        assert!(
            share(120).values().all(|n| *n >= 30),
            "closed at once, all are as light"
        );
        lb.detach();
    }
}

#[test]
fn curl_is_answered_by_nginx() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _nginx = lab.serve_nginx();
    let config = lab.config_for_both();
    let _lb = lab.start(&config);
    for family in Family::ALL {
        let url = format!("http://{}/", lab.vip(family, 80));
        let fetch = format!("for i in 1 2 3 4; do curl --silent --show-error --fail --max-time 10 '{url}'; done");
        let mut shares = Shares::new();
        for line in lab.client.ns.sh(&fetch).lines() {
            *shares.entry(client::seen(line).unwrap().server).or_default() += 1;
        }
        assert_eq!(shares, even(&lab, 2), "{family:?}");
    }
}
