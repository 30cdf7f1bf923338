//! Backends that die, come back, are drained, or are all gone.

use std::{io::ErrorKind, time::Duration};

use lb_tests::{
    Lab, Topology,
    balancer::PATIENCE,
    client::{self, Held},
    config::HTTP_HEALTH,
    eventually,
    lab::Family,
};

use crate::common::{even, shares_of};

#[test]
fn the_passive_backend_serves_and_gives_back() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let mut http = lab.serve_http();
    for family in Family::ALL {
        let vip = lab.vip(family, 80);
        let share = |n| lab.client.ns.run(|| client::shares(vip, n));
        let lb = lab.start(
            &lab.config()
                .service(lab.web(family).backend(1, "backup = true").set("failback = true")),
        );
        assert_eq!(share(10), shares_of(&[("s1", 10)]));
        let standby = lb.backend("web", "s2");
        assert!(
            standby.why_not.as_deref().is_some_and(|why| why.contains("standby")),
            "{standby:?}"
        );

        http[0].stop();
        lb.wait_in("web", "s2");
        assert_eq!(lb.service("web").active_tier, Some(1));
        assert_eq!(share(10), shares_of(&[("s2", 10)]));
        let dead = lb.backend("web", "s1");
        assert!(
            dead.why_not.as_deref().is_some_and(|why| why.contains("refused")),
            "{dead:?}"
        );

        http[0] = lb_tests::HttpServer::start(&lab.servers[0], 80);
        lb.wait_in("web", "s1");
        assert_eq!(share(10), shares_of(&[("s1", 10)]));
        assert_eq!(lb.service("web").active_tier, Some(0));
        lb.detach();
    }
}

#[test]
fn without_failback_the_passive_backend_keeps_serving() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let mut http = lab.serve_http();
    let vip = lab.vip(Family::V4, 80);
    let share = |n| lab.client.ns.run(|| client::shares(vip, n));
    let lb = lab.start(
        &lab.config()
            .service(lab.web(Family::V4).backend(1, "backup = true").set("failback = false")),
    );
    http[0].stop();
    lb.wait_in("web", "s2");
    http[0] = lb_tests::HttpServer::start(&lab.servers[0], 80);
    lb.wait_backend("web", "s1", "up", |b| {
        b.health.state == lb_userspace::api::HealthState::Up
    });
    assert_eq!(share(10), shares_of(&[("s2", 10)]));
    http[1].stop();
    lb.wait_in("web", "s1");
    assert_eq!(share(10), shares_of(&[("s1", 10)]));
}

/// A connection to a backend whose cable is then pulled, once the daemon has noticed.
fn held_on_dead_backend<'lab>(lab: &'lab Lab, lb: &lb_tests::Balancer<'lab>, family: Family) -> (Held, usize) {
    let vip = lab.vip(family, 80);
    let mut held = lab.client.ns.run(|| Held::open(vip)).unwrap();
    held.say("before").unwrap();
    let dead = lab.servers.iter().position(|s| s.name == held.server).unwrap();
    lab.unplug(&lab.servers[dead]);
    lb.wait_out("web", &held.server);
    (held, dead)
}

#[test]
fn connections_of_a_dead_backend_are_reset_at_their_next_packet() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    for family in Family::ALL {
        let lb = lab.start(&lab.config().service(lab.web(family).set("on-down = \"reset\"")));
        let (mut held, dead) = held_on_dead_backend(&lab, &lb, family);
        let error = held.say("after").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        assert!(lb.reason("backend-down") > 0);
        let other = &lab.servers[1 - dead].name;
        assert_eq!(
            lab.client.ns.run(|| client::shares(lab.vip(family, 80), 6)),
            shares_of(&[(other, 6)])
        );
        lab.replug(&lab.servers[dead]);
        lb.wait_ready();
        lb.detach();
    }
}

#[test]
fn connections_of_a_dead_backend_are_kept_when_asked() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config().service(lab.web(Family::V4).set("on-down = \"keep\"")));
    let (mut held, dead) = held_on_dead_backend(&lab, &lb, Family::V4);
    // The cable is back before the daemon trusts it again; the connection has only been slow.
    let answer = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| held.say("after"));
        std::thread::sleep(Duration::from_millis(500));
        lab.replug(&lab.servers[dead]);
        waiting.join().unwrap()
    });
    assert_eq!(answer.unwrap(), format!("{} after", held.server));
}

#[test]
fn a_drained_backend_ends_its_downloads_and_takes_no_new_ones() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let vip = lab.vip(Family::V4, 80);
    let lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    // Three seconds each, one per backend.
    let downloads: Vec<_> = (0..2)
        .map(|_| lab.client.ns.spawn(move || client::get(vip, "/drip/150")))
        .collect();
    eventually("both downloads to run", PATIENCE, || {
        let flows = lb.service("web").counters.new_flows;
        if flows == 2 {
            Ok(())
        } else {
            Err(format!("{flows} flows"))
        }
    });
    let _done = lab.lb(&["backend", "drain", "web", "s1"]).success();
    assert_eq!(lab.client.ns.run(|| client::shares(vip, 20)), shares_of(&[("s2", 20)]));
    let mut servers: Vec<_> = downloads
        .into_iter()
        .map(|download| {
            let text = download.join().unwrap().expect("the download ends whole");
            assert_eq!(text.lines().count(), 150);
            text.lines().next().unwrap().to_owned()
        })
        .collect();
    servers.sort();
    assert_eq!(servers, ["s1", "s2"]);
    let _done = lab.lb(&["backend", "enable", "web", "s1"]).success();
    lb.wait_ready();
    assert_eq!(lab.client.ns.run(|| client::shares(vip, 20)), even(&lab, 10));
}

#[test]
fn a_disabled_backend_loses_its_connections() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    let mut held = lab.client.ns.run(|| Held::open(lab.vip(Family::V4, 80))).unwrap();
    let _done = lab.lb(&["backend", "disable", "web", &held.server]).success();
    lb.wait_out("web", &held.server);
    assert_eq!(held.say("after").unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn with_every_backend_down_clients_are_refused_at_once() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let mut http = lab.serve_http();
    for family in Family::ALL {
        let lb = lab.start(&lab.config().service(lab.web(family).backend(1, "backup = true")));
        http.iter_mut().for_each(lb_tests::HttpServer::stop);
        let status = lb.wait_status("no tier to be active", |s| s.services[0].active_tier.is_none());
        assert!(
            status.warnings.iter().any(|w| w.contains("web")),
            "{:?}",
            status.warnings
        );
        let before = lb.reason("no-backend");
        let refused = || client::at_once(|| client::open(lab.vip(family, 80)));
        let error = lab.client.ns.run(refused).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        assert_eq!(lb.reason("no-backend"), before + 1);
        http = lab.serve_http();
        lb.wait_ready();
        lab.client.ns.run(|| client::who(lab.vip(family, 80))).unwrap();
        lb.detach();
    }
}

#[test]
fn http_checks_judge_status_and_body() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let http = lab.serve_http();
    let health = format!("{HTTP_HEALTH}\nexpect-status = \"200-399\"\nexpect-body = \"ok\"");
    let lb = lab.start(&lab.config().service(lab.web(Family::V4).health(&health)));
    let vip = lab.vip(Family::V4, 80);
    http[0].set_health(503, "ok");
    let ill = lb.wait_out("web", "s1");
    assert!(
        ill.health.last_result.as_deref().is_some_and(|r| r.contains("503")),
        "{ill:?}"
    );
    assert!(ill.why_not.as_deref().is_some_and(|why| why.contains("503")), "{ill:?}");
    assert_eq!(lab.client.ns.run(|| client::shares(vip, 6)), shares_of(&[("s2", 6)]));
    http[0].set_health(200, "ok");
    assert!(lb.wait_in("web", "s1").health.latency_ms.is_some());
    http[0].set_health(200, "sorry");
    let ill = lb.wait_out("web", "s1");
    assert!(
        ill.health.last_result.as_deref().is_some_and(|r| r.contains("body")),
        "{ill:?}"
    );
    http[0].set_health(302, "ok");
    lb.wait_in("web", "s1");
}
