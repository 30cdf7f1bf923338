use lb_common::abi::BackendState;

use super::lab::Host;
use crate::{
    api::{BackendChange, HealthState},
    controller::testing::{backend, service},
    model::{AdminState, Backend, Service},
    plan::Action,
};

fn active_passive(failback: bool) -> Service {
    let standby = Backend {
        tier: 1,
        ..backend("web2", 2)
    };
    Service {
        failback,
        ..service("web", 80, &[backend("web1", 1), standby])
    }
}

pub(super) fn kinds(actions: &[Action]) -> Vec<&'static str> {
    let kind = |a: &Action| match a {
        Action::RemoveService(_) => "remove service",
        Action::SetSource { .. } => "source",
        Action::ClearCounters(_) => "clear",
        Action::SetBackend { .. } => "backend",
        Action::WritePages { .. } => "pages",
        Action::SetSpill { .. } => "spill",
        Action::SetPrevious { .. } => "previous",
        Action::SetRotation { .. } => "rotation",
        Action::SetService { .. } => "service",
    };
    actions.iter().map(kind).collect()
}

#[tokio::test(start_paused = true)]
async fn nobody_takes_flows_before_the_first_check() {
    let web = service("web", 80, &[backend("web1", 1), backend("web2", 2)]);
    let daemon = Host::new().daemon(std::slice::from_ref(&web)).await;
    assert_eq!(daemon.order(), [0; 0]);
    let status = daemon.status().await;
    assert_eq!(status.warnings, ["service web: no backend can take new flows"]);
    assert_eq!(
        status.services[0].backends[0].why_not.as_deref(),
        Some("not checked yet")
    );
    daemon.verdict(&web, 0, HealthState::Up).await;
    assert_eq!(daemon.order(), [1]);
    daemon.verdict(&web, 1, HealthState::Up).await;
    assert_eq!(daemon.order(), [1, 2]);
    assert_eq!(daemon.status().await.warnings, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_flip_is_written_before_the_backend_goes_down() {
    let web = service("web", 80, &[backend("web1", 1), backend("web2", 2)]);
    let daemon = Host::new().daemon(std::slice::from_ref(&web)).await;
    daemon.all_up(&web).await;
    let written = daemon.verdict(&web, 0, HealthState::Down).await;
    assert_eq!(kinds(&written), ["pages", "rotation", "backend"]);
    assert_eq!(daemon.order(), [2]);
    assert_eq!(daemon.states(), [(0, BackendState::DOWN), (1, BackendState::UP)]);
    let written = daemon.verdict(&web, 0, HealthState::Up).await;
    assert_eq!(kinds(&written), ["backend", "pages", "rotation"]);
    assert_eq!(daemon.order(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn the_standby_takes_over_and_gives_back() {
    let web = active_passive(true);
    let daemon = Host::new().daemon(std::slice::from_ref(&web)).await;
    daemon.all_up(&web).await;
    assert_eq!(daemon.order(), [1]);
    assert_eq!(
        daemon.backend("web2").await.why_not.as_deref(),
        Some("standby (tier 1)")
    );
    daemon.verdict(&web, 0, HealthState::Down).await;
    assert_eq!(daemon.order(), [2]);
    assert_eq!(daemon.service().await.active_tier, Some(1));
    daemon.verdict(&web, 0, HealthState::Up).await;
    assert_eq!(daemon.order(), [1]);
    daemon.verdict(&web, 0, HealthState::Down).await;
    daemon.verdict(&web, 1, HealthState::Down).await;
    assert_eq!(daemon.order(), [0; 0], "nobody is left");
    assert_eq!(daemon.service().await.active_tier, None);
}

#[tokio::test(start_paused = true)]
async fn without_failback_the_operator_decides() {
    let web = active_passive(false);
    let daemon = Host::new().daemon(std::slice::from_ref(&web)).await;
    // The standby's first check is done first; that makes it no master.
    daemon.verdict(&web, 1, HealthState::Up).await;
    assert_eq!(daemon.order(), [2]);
    daemon.verdict(&web, 0, HealthState::Up).await;
    assert_eq!(daemon.order(), [1]);
    daemon.verdict(&web, 0, HealthState::Down).await;
    daemon.verdict(&web, 0, HealthState::Up).await;
    assert_eq!(daemon.order(), [2], "the standby goes on");
    let why = daemon.backend("web1").await.why_not;
    assert_eq!(why.as_deref(), Some("tier 1 goes on serving (failback = false)"));
    let drain = |admin| BackendChange {
        admin: Some(admin),
        ..BackendChange::default()
    };
    daemon.set("web2", drain(AdminState::Drain)).await;
    assert_eq!(daemon.order(), [1]);
    daemon.set("web2", drain(AdminState::Enabled)).await;
    assert_eq!(daemon.order(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_flips_every_service_of_the_target() {
    let web = service("web", 80, &[backend("web1", 1), backend("web2", 2)]);
    let other = service("other", 81, &[backend("a", 1), backend("b", 2)]);
    let daemon = Host::new().daemon(&[web.clone(), other]).await;
    daemon.all_up(&web).await;
    let written = daemon.verdict(&web, 0, HealthState::Down).await;
    assert_eq!(
        kinds(&written),
        ["pages", "rotation", "backend", "pages", "rotation", "backend"]
    );
}

/// Each flip goes through all backends of a service: one for each of them would make the start of thousands take as many
/// times as long. And their next hops are looked up side by side.
#[tokio::test(start_paused = true)]
async fn verdicts_that_come_together_are_one_flip() {
    let backends: Vec<Backend> = (1..=200).map(|n| backend(&format!("web{n}"), n)).collect();
    let web = service("web", 80, &backends);
    let host = Host::new();
    // One after the other, they would not be known after the second that the daemon has to come to rest.
    host.net.0.lock().unwrap().takes = std::time::Duration::from_millis(20);
    let daemon = host.daemon(std::slice::from_ref(&web)).await;
    let all: Vec<usize> = (0..200).collect();
    let written = daemon.verdicts(&web, &all, HealthState::Up).await;
    let flips = kinds(&written).iter().filter(|kind| **kind == "rotation").count();
    assert_eq!((flips, daemon.order().len()), (1, 200));
    let written = daemon.verdicts(&web, &all[..150], HealthState::Down).await;
    let flips = kinds(&written).iter().filter(|kind| **kind == "rotation").count();
    assert_eq!((flips, daemon.order().len()), (1, 50));
    let asked = daemon.net.0.lock().unwrap().asked_anew.len();
    assert_eq!(asked, 150, "each that fell may have moved");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_tried_again() {
    let web = service("web", 80, &[backend("web1", 1), backend("web2", 2)]);
    let daemon = Host::new().daemon(std::slice::from_ref(&web)).await;
    daemon.all_up(&web).await;
    daemon.datapath.state().writes_left = Some(1);
    daemon.verdict(&web, 0, HealthState::Down).await;
    assert_eq!(daemon.order(), [1, 2], "as it was, in whole");
    let warnings = daemon.status().await.warnings;
    assert_eq!(
        warnings,
        ["service web: not published: writing: out of memory; trying again"]
    );
    daemon.datapath.state().writes_left = None;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(daemon.order(), [2]);
    assert_eq!(daemon.status().await.warnings, [""; 0]);
}
