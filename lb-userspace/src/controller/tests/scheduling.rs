//! Schedulers on a live service, slow start, drains that end, tiers that overflow.

use std::{collections::BTreeMap, time::Duration};

use lb_common::abi::ServiceFlags;
use tokio::time::sleep;

use super::{
    failover::kinds,
    lab::{Daemon, Host},
};
use crate::{
    api::{BackendChange, HealthState, Request, ServiceChange},
    controller::{
        Options,
        testing::{backend, service},
    },
    datapath::Datapath as _,
    model::{AdminState, ForwardingMode, Scheduler, Scheduling, Service, SynCookies},
    plan::{Action, slots::order_of},
};

fn web(scheduling: Scheduling) -> Service {
    Service {
        scheduling: Scheduling {
            maglev_table_size: 251,
            ..scheduling
        },
        ..service("web", 80, &[backend("web1", 1), backend("web2", 2)])
    }
}

async fn change(daemon: &Daemon, change: ServiceChange) -> Vec<Action> {
    daemon.datapath.take_log();
    let service = "web".into();
    daemon.ask(Request::ServiceSet { service, change }).await.unwrap();
    daemon.datapath.take_log()
}

fn to(scheduler: Scheduler) -> ServiceChange {
    ServiceChange {
        scheduler: Some(scheduler),
        ..ServiceChange::default()
    }
}

fn weight(weight: u16) -> BackendChange {
    BackendChange {
        weight: Some(weight),
        ..BackendChange::default()
    }
}

/// How many turns each backend has, by the last octet of its address.
fn turns(daemon: &Daemon) -> BTreeMap<u8, usize> {
    let mut turns = BTreeMap::new();
    for backend in daemon.order() {
        *turns.entry(backend).or_default() += 1;
    }
    turns
}

#[tokio::test(start_paused = true)]
async fn another_scheduler_is_one_publication() {
    let web = web(Scheduling::default());
    let daemon = Host::new().daemon(std::slice::from_ref(&web)).await;
    daemon.all_up(&web).await;
    let written = change(&daemon, to(Scheduler::Maglev)).await;
    assert_eq!(kinds(&written), ["pages", "rotation"]);
    assert_eq!(turns(&daemon), [(1, 126), (2, 125)].into());
    // Loads are compared by weights that stand before the rule says so, and go when it does not any more.
    let written = change(&daemon, to(Scheduler::LeastConn)).await;
    assert_eq!(kinds(&written), ["backend", "backend", "pages", "rotation"]);
    let written = daemon.set("web1", weight(5)).await;
    assert_eq!(kinds(&written), ["backend"], "a weight is one write");
    let written = change(&daemon, to(Scheduler::RoundRobin)).await;
    assert_eq!(kinds(&written), ["pages", "rotation", "backend", "backend"]);
    assert_eq!(turns(&daemon), [(1, 5), (2, 1)].into());
    let written = daemon.set("web1", weight(3)).await;
    assert_eq!(kinds(&written), ["pages", "rotation"]);
    assert_eq!(daemon.service().await.scheduler, Scheduler::RoundRobin);
}

#[tokio::test(start_paused = true)]
async fn the_table_that_goes_is_kept_where_ports_are() {
    let web = Service {
        mode: ForwardingMode::Nat,
        scheduler: Scheduler::Maglev,
        ..web(Scheduling::default())
    };
    let daemon = Host::new().daemon(std::slice::from_ref(&web)).await;
    daemon.all_up(&web).await;
    let written = daemon.set("web1", weight(5)).await;
    assert_eq!(kinds(&written), ["pages", "previous", "rotation"]);
    let off = Scheduling {
        rehash_window: Duration::ZERO,
        ..web.scheduling
    };
    let scheduling = ServiceChange {
        scheduling: Some(off),
        ..ServiceChange::default()
    };
    assert_eq!(
        kinds(&change(&daemon, scheduling).await),
        ["previous"],
        "nobody asks for it any more"
    );
    assert_eq!(kinds(&daemon.set("web1", weight(1)).await), ["pages", "rotation"]);
}

/// Whether the daemon ends or is killed: it goes on where it was, not from the start and not with its whole share.
#[tokio::test(start_paused = true)]
async fn a_slow_start_goes_on_under_the_next_daemon() {
    let web = web(Scheduling {
        slow_start: Duration::from_secs(30),
        ..Scheduling::default()
    });
    let host = Host::new();
    let first = host.daemon(std::slice::from_ref(&web)).await;
    first.all_up(&web).await;
    first.verdict(&web, 0, HealthState::Down).await;
    first.verdict(&web, 0, HealthState::Up).await;
    sleep(Duration::from_secs(13)).await;
    first.kill().await;
    host.datapath.take_log();
    let second = host.daemon(std::slice::from_ref(&web)).await;
    assert_eq!(kinds(&host.datapath.take_log()), [""; 0], "it stands where it stood");
    assert_eq!(second.backend("web1").await.slow_start_percent, Some(50));
    sleep(Duration::from_secs(10)).await;
    let percent = second.backend("web1").await.slow_start_percent;
    assert!(matches!(percent, Some(70..=80)), "{percent:?}");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(second.backend("web1").await.slow_start_percent, None);
    assert_eq!(turns(&second), [(1, 1), (2, 1)].into());
}

#[tokio::test(start_paused = true)]
async fn the_share_of_a_backend_that_returns_climbs() {
    let web = web(Scheduling {
        slow_start: Duration::from_secs(30),
        ..Scheduling::default()
    });
    let daemon = Host::new().daemon(std::slice::from_ref(&web)).await;
    daemon.all_up(&web).await;
    assert_eq!(turns(&daemon), [(1, 1), (2, 1)].into(), "a start is not a return");
    daemon.verdict(&web, 0, HealthState::Down).await;
    daemon.verdict(&web, 0, HealthState::Up).await;
    assert_eq!(turns(&daemon), [(1, 1), (2, 10)].into());
    assert_eq!(daemon.backend("web1").await.slow_start_percent, Some(10));
    assert_eq!(daemon.backend("web2").await.slow_start_percent, None);
    sleep(Duration::from_secs(13)).await;
    assert_eq!(turns(&daemon), [(1, 1), (2, 2)].into(), "half of its share");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(turns(&daemon), [(1, 4), (2, 5)].into());
    sleep(Duration::from_secs(8)).await;
    assert_eq!(turns(&daemon), [(1, 1), (2, 1)].into());
    assert_eq!(daemon.backend("web1").await.slow_start_percent, None);
    daemon.datapath.take_log();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(kinds(&daemon.datapath.take_log()), [""; 0], "it has all of it");
    // So does that of one which the operator puts back, and of one which joins.
    let admin = |admin| BackendChange {
        admin: Some(admin),
        ..BackendChange::default()
    };
    daemon.set("web2", admin(AdminState::Disabled)).await;
    daemon.set("web2", admin(AdminState::Enabled)).await;
    daemon.verdict(&web, 1, HealthState::Up).await;
    assert_eq!(turns(&daemon), [(1, 10), (2, 1)].into());
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_when_its_time_is_over() {
    let web = web(Scheduling {
        drain_timeout: Duration::from_mins(10),
        ..Scheduling::default()
    });
    let host = Host::new();
    let daemon = host.daemon(std::slice::from_ref(&web)).await;
    daemon.all_up(&web).await;
    let drain = |timeout| BackendChange {
        admin: Some(AdminState::Drain),
        drain_timeout: timeout,
        ..BackendChange::default()
    };
    daemon.set("web2", drain(None)).await;
    assert_eq!(
        daemon.backend("web2").await.drain_left_ms,
        Some(600_000),
        "as the service says"
    );
    daemon.set("web1", drain(Some(Duration::from_secs(60)))).await;
    sleep(Duration::from_secs(20)).await;
    let left = daemon.backend("web1").await.drain_left_ms.unwrap();
    assert!((39_000..=40_000).contains(&left), "{left}");
    let up = |daemon: &Daemon| {
        daemon
            .states()
            .iter()
            .filter(|(_, s)| *s == lb_common::abi::BackendState::UP)
            .count()
    };
    assert_eq!(up(&daemon), 2, "flows go on");
    // Another daemon goes on with it.
    daemon.stop().await;
    let daemon = host.daemon(std::slice::from_ref(&web)).await;
    assert!(daemon.backend("web1").await.drain_left_ms.is_some_and(|left| left > 0));
    sleep(Duration::from_secs(62)).await;
    assert_eq!(up(&daemon), 1, "now `on-down` applies");
    let over = daemon.backend("web1").await;
    assert_eq!(
        (over.why_not.as_deref(), over.drain_left_ms),
        (Some("drained: its time is over"), Some(0))
    );
    let enabled = BackendChange {
        admin: Some(AdminState::Enabled),
        ..BackendChange::default()
    };
    daemon.set("web1", enabled).await;
    daemon.verdict(&web, 0, HealthState::Up).await;
    assert_eq!(up(&daemon), 2);
    assert_eq!(daemon.backend("web1").await.drain_left_ms, None);
}

#[tokio::test(start_paused = true)]
async fn the_next_tier_stands_by_for_what_spills_over() {
    let mut web = web(Scheduling::default());
    web.backends[1].tier = 1;
    let daemon = Host::new().daemon(std::slice::from_ref(&web)).await;
    daemon.all_up(&web).await;
    let spill = |daemon: &Daemon| {
        let state = daemon.datapath.state();
        let spill = state.maps.spills.get(&0).copied().unwrap_or_default();
        order_of(spill, &state.maps.pages).unwrap()
    };
    assert_eq!(spill(&daemon), [0; 0], "a tier without limits is never full");
    let limit = |n| BackendChange {
        max_connections: Some(n),
        ..BackendChange::default()
    };
    daemon.set("web1", limit(100)).await;
    assert_eq!(
        (daemon.order(), spill(&daemon)),
        (vec![1], vec![1]),
        "the backend of index 1"
    );
    assert_eq!(daemon.datapath.state().maps.backends[&0].limit, 100);
    assert_eq!(daemon.backend("web1").await.max_connections, Some(100));
    daemon.verdict(&web, 1, HealthState::Down).await;
    assert_eq!(spill(&daemon), [0; 0]);
    daemon.verdict(&web, 1, HealthState::Up).await;
    daemon.verdict(&web, 0, HealthState::Down).await;
    assert_eq!((daemon.order(), spill(&daemon)), (vec![2], vec![]), "it serves now");
}

/// Whoever stays with a backend must know whether it takes new flows.
#[tokio::test(start_paused = true)]
async fn entries_say_who_takes_new_flows_where_clients_stay() {
    let web = web(Scheduling {
        affinity: Duration::from_mins(10),
        ..Scheduling::default()
    });
    let daemon = Host::new().daemon(std::slice::from_ref(&web)).await;
    daemon.all_up(&web).await;
    let taking = |daemon: &Daemon| -> Vec<u8> {
        daemon
            .datapath
            .state()
            .maps
            .backends
            .values()
            .map(|b| b.takes_new)
            .collect()
    };
    assert_eq!(taking(&daemon), [1, 1]);
    let written = daemon.set("web1", weight(0)).await;
    assert_eq!(kinds(&written), ["pages", "rotation", "backend"]);
    assert_eq!(taking(&daemon), [0, 1]);
    let off = ServiceChange {
        scheduling: Some(Scheduling {
            affinity: Duration::ZERO,
            ..web.scheduling
        }),
        ..ServiceChange::default()
    };
    assert_eq!(kinds(&change(&daemon, off).await), ["service", "backend"]);
}

#[tokio::test(start_paused = true)]
async fn cookies_reach_the_packet_path_where_the_kernel_makes_them() {
    for (when, flags) in [
        (SynCookies::Off, 0),
        (SynCookies::UnderFlood, ServiceFlags::SYN_COOKIES),
        (SynCookies::Always, ServiceFlags::SYN_COOKIES_ALWAYS),
    ] {
        let mut web = service("web", 80, &[backend("web1", 1)]);
        web.scheduling.syn_cookies = when;
        for known in [true, false] {
            let host = Host::new();
            let options = Options {
                syn_cookies: known,
                ..host.options(std::slice::from_ref(&web))
            };
            let daemon = host.daemon_with(options).await;
            daemon.all_up(&web).await;
            let entry = daemon.datapath.contents().unwrap().services[&web.id];
            assert_eq!(entry.flags, ServiceFlags(flags));
            let warned = daemon.status().await.warnings.iter().any(|w| w.contains("Linux 6.0"));
            assert_eq!(warned, !known && when != SynCookies::Off, "{when}");
        }
    }
}
