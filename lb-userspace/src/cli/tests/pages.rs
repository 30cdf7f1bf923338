//! What the operator sees.

use super::super::{
    backend,
    fixtures::{self, NOW},
    flows::{self, Flows},
    service, service_page, status_page,
    view::View,
};
use crate::{
    api::{HealthState, Status},
    model::AdminState,
};

const VIEW: View = View {
    json: false,
    color: false,
    width: 80,
    now: NOW,
};

fn page(status: &Status) -> String {
    let shown = status_page::text(status, &VIEW);
    assert_fits(&shown);
    shown
}

fn assert_fits(shown: &str) {
    for line in shown.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        assert_eq!(line, line.trim_end(), "no blanks at the end");
    }
}

#[test]
fn all_healthy() {
    let mut status = fixtures::status(vec![fixtures::web()]);
    status.adopted = true;
    insta::assert_snapshot!(page(&status));
}

#[test]
fn one_backend_down() {
    let mut web = fixtures::web();
    let ill = web.backends.remove(1);
    web.backends.insert(1, fixtures::down(ill, "connection refused"));
    web.backends.iter_mut().take(1).for_each(|first| {
        first.health.progress = (1, 3);
        first.health.last_result = Some("timeout after 1 s".into());
    });
    let dns = fixtures::service("dns", "10.0.0.100:53", vec![fixtures::backend("dns-1", "10.0.0.21:53")]);
    insta::assert_snapshot!(page(&fixtures::status(vec![web, dns])));
}

#[test]
fn all_down() {
    let ill = |name, address, why| fixtures::down(fixtures::backend(name, address), why);
    let backends = vec![
        ill("web-1", "10.0.0.11:8080", "connection refused"),
        ill("web-2", "10.0.0.12:8080", "connection refused"),
        ill("web-3", "10.0.0.13:8080", "HTTP 503"),
    ];
    insta::assert_snapshot!(page(&fixtures::status(vec![fixtures::service(
        "web",
        "10.0.0.100:80",
        backends
    )])));
}

#[test]
fn generic_mode_and_a_missing_interface() {
    let mut status = fixtures::status(vec![fixtures::web()]);
    status.interfaces = vec![
        fixtures::interface(
            "eth0",
            "generic",
            Some("the driver e1000 has no native XDP: packets take the slower generic path"),
        ),
        fixtures::interface("eth1", "missing", Some("attached as soon as it appears")),
    ];
    status.warnings = vec!["interface eth1 is missing: its traffic is not balanced until it is back".into()];
    insta::assert_snapshot!(page(&status));
}

#[test]
fn ipv6() {
    let backends = vec![
        fixtures::backend("web-1", "[2001:db8:0:1::11]:8080"),
        fixtures::backend("web-2", "[2001:db8:1111:2222:3333:4444:5555:6666]:8080"),
    ];
    insta::assert_snapshot!(page(&fixtures::status(vec![fixtures::service(
        "web",
        "[2001:db8::100]:80",
        backends
    )])));
}

#[test]
fn all_of_one_service() {
    let mut web = fixtures::web();
    web.scheduler = crate::model::Scheduler::Maglev;
    (web.scheduling.slow_start_ms, web.scheduling.affinity_ms) = (30_000, 600_000);
    web.timeouts.tcp_syn_ms = 1500;
    web.backends[0].max_connections = Some(5000);
    web.backends[1].slow_start_percent = Some(40);
    web.backends[1].weight = 3;
    let leaving = &mut web.backends[2];
    (leaving.admin, leaving.in_rotation) = (AdminState::Drain, false);
    (leaving.drain_left_ms, leaving.why_not) = (Some(90_000), Some("drain".into()));
    let shown = service_page::text(&web, &VIEW);
    assert_fits(&shown);
    insta::assert_snapshot!(shown);
    for long in fixtures::extreme().services {
        assert_fits(&service_page::text(&long, &VIEW));
    }
}

#[test]
fn standby_backups() {
    let backends = vec![
        fixtures::backend("web-1", "10.0.0.11:80"),
        fixtures::standby(fixtures::backend("web-2", "10.0.0.12:80"), 1),
        fixtures::standby(fixtures::backend("web-3", "10.0.0.13:80"), 1),
    ];
    let mut web = fixtures::service("web", "10.0.0.100:80", backends);
    web.failback = false;
    insta::assert_snapshot!(page(&fixtures::status(vec![web])));
}

#[test]
fn failed_over_to_a_backup() {
    let mut spare = fixtures::backend("spare", "10.0.0.12:80");
    spare.tier = 1;
    let backends = vec![
        fixtures::down(fixtures::backend("web-1", "10.0.0.11:80"), "timeout after 1 s"),
        spare,
    ];
    insta::assert_snapshot!(page(&fixtures::status(vec![fixtures::service(
        "web",
        "10.0.0.100:80",
        backends
    )])));
}

#[test]
fn what_the_operator_took_out_degrades_nothing() {
    let mut backends = fixtures::web().backends;
    let whys = ["drained", "disabled", "weight 0"];
    for (backend, why) in backends.iter_mut().zip(whys) {
        backend.in_rotation = false;
        backend.why_not = Some(why.into());
        match why {
            "drained" => backend.admin = AdminState::Drain,
            "disabled" => (backend.admin, backend.health.state) = (AdminState::Disabled, HealthState::Unchecked),
            _ => backend.weight = 0,
        }
    }
    let mut last = fixtures::backend("web-4", "10.0.0.14:8080");
    last.weight = 200;
    let mut light = fixtures::backend("web-5", "10.0.0.15:8080");
    light.health.state = HealthState::Unchecked;
    light.health.latency_ms = None;
    backends.extend([last, light]);
    insta::assert_snapshot!(page(&fixtures::status(vec![fixtures::service(
        "web",
        "10.0.0.100:80",
        backends
    )])));
}

#[test]
fn a_backend_without_a_next_hop() {
    let mut web = fixtures::web();
    web.backends.iter_mut().take(1).for_each(|held| {
        held.in_rotation = false;
        held.next_hop = None;
        held.why_not = Some("no next hop: 10.0.0.11 does not answer ARP".into());
    });
    insta::assert_snapshot!(page(&fixtures::status(vec![web])));
}

#[test]
fn no_services() {
    let mut status = fixtures::status(Vec::new());
    status.reasons.clear();
    insta::assert_snapshot!(page(&status));
}

#[test]
fn a_service_without_backends_is_down() {
    let status = fixtures::status(vec![fixtures::service("web", "10.0.0.100:80", Vec::new())]);
    assert!(
        page(&status).starts_with("DOWN: 1 of 1 service down (web)\n"),
        "{}",
        page(&status)
    );
}

#[test]
fn lists() {
    let mut web = fixtures::web();
    let ill = web.backends.remove(2);
    web.backends.push(fixtures::down(ill, "connection refused"));
    let services = vec![web, fixtures::service("empty", "10.0.0.101:443", Vec::new())];
    insta::assert_snapshot!("service_list", service::text(&services, &VIEW));
    insta::assert_snapshot!("backend_list", backend::text(&services, &VIEW));
}

#[test]
fn flow_list() {
    let flows = vec![
        fixtures::flow("192.0.2.10:51234", "10.0.0.100:80"),
        fixtures::flow("192.0.2.11:80", "10.0.0.100:80"),
    ];
    insta::assert_snapshot!(flows::text(&Flows { flows, total: 1234 }, &VIEW));
    assert_eq!(
        flows::text(
            &Flows {
                flows: Vec::new(),
                total: 0
            },
            &VIEW
        ),
        "No flows.\n"
    );
}

#[test]
fn nothing_is_ever_wider_than_the_terminal() {
    let status = fixtures::extreme();
    assert_fits(&page(&status));
    assert_fits(&service::text(&status.services, &VIEW));
    assert_fits(&backend::text(&status.services, &VIEW));
    let long = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
    let mut flow = fixtures::flow(long, long);
    (flow.age_ms, flow.expires_in_ms) = (u64::MAX, u64::MAX);
    flow.backend = "b".repeat(300);
    assert_fits(&flows::text(
        &Flows {
            flows: vec![flow],
            total: u64::MAX,
        },
        &VIEW,
    ));
}

#[test]
fn a_wide_terminal_is_used() {
    let status = fixtures::status(vec![fixtures::service(
        "web",
        "[2001:db8::100]:80",
        vec![fixtures::backend(
            "web-1",
            "[2001:db8:1111:2222:3333:4444:5555:6666]:8080",
        )],
    )]);
    let wide = status_page::text(&status, &View { width: 160, ..VIEW });
    assert!(wide.lines().any(|line| line.starts_with("  BACKEND")), "{wide}");
}

#[test]
fn colours_are_only_added_to_the_text() {
    let status = fixtures::status(vec![fixtures::web()]);
    assert!(!page(&status).contains('\u{1b}'));
    assert!(status_page::text(&status, &View { color: true, ..VIEW }).starts_with("\u{1b}[32mOK: "));
}
