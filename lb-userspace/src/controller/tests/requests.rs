use std::{net::IpAddr, time::Duration};

use lb_common::abi::BackendState;
use tokio::time::sleep;

use super::lab::{Daemon, Host};
use crate::{
    api::{BackendChange, ErrorKind, HealthState, Reply, Request},
    controller::{ControllerError, testing},
    model::{AdminState, Service},
    plan::Action,
};

fn web() -> Service {
    testing::service("web", 80, &[testing::backend("web1", 1), testing::backend("web2", 2)])
}

async fn lab() -> (Host, Daemon) {
    let host = Host::new();
    let daemon = host.daemon(&[web()]).await;
    daemon.all_up(&web()).await;
    (host, daemon)
}

fn admin(admin: AdminState) -> BackendChange {
    BackendChange {
        admin: Some(admin),
        ..BackendChange::default()
    }
}

fn remove(backend: &str) -> Request {
    Request::BackendRemove {
        service: "web".into(),
        backend: backend.into(),
    }
}

#[tokio::test(start_paused = true)]
async fn weights_change_on_the_fly() {
    let (_host, daemon) = lab().await;
    let heavy = BackendChange {
        weight: Some(3),
        ..BackendChange::default()
    };
    daemon.set("web1", heavy).await;
    assert_eq!(daemon.order(), [1, 1, 2, 1]);
    let none = BackendChange {
        weight: Some(0),
        ..BackendChange::default()
    };
    daemon.set("web1", none).await;
    assert_eq!(daemon.order(), [2]);
    assert_eq!(daemon.backend("web1").await.why_not.as_deref(), Some("weight 0"));
}

#[tokio::test(start_paused = true)]
async fn drain_keeps_flows_and_disable_does_not() {
    let (_host, daemon) = lab().await;
    let written = daemon.set("web1", admin(AdminState::Drain)).await;
    assert!(
        !written.iter().any(|a| matches!(a, Action::SetBackend { .. })),
        "{written:?}"
    );
    assert_eq!(daemon.order(), [2]);
    daemon.set("web1", admin(AdminState::Disabled)).await;
    assert_eq!(daemon.states()[0], (0, BackendState::DOWN));
    assert_eq!(daemon.backend("web1").await.health.state, HealthState::Unchecked);
    daemon.set("web1", admin(AdminState::Enabled)).await;
    assert_eq!(daemon.order(), [2], "not before it is checked again");
    daemon.verdict(&web(), 0, HealthState::Up).await;
    assert_eq!(daemon.order(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_check_ends_with_the_last_service_that_wants_it() {
    let host = Host::new();
    let mail = testing::service("mail", 25, &[testing::backend("web1", 1)]);
    let daemon = host.daemon(&[web(), mail]).await;
    assert_eq!(daemon.targets.checked(), [1, 2]);
    daemon.set("web1", admin(AdminState::Disabled)).await;
    assert_eq!(daemon.targets.checked(), [1, 2], "mail wants it still");
    let gone = Request::BackendRemove {
        service: "mail".into(),
        backend: "web1".into(),
    };
    daemon.ask(gone).await.unwrap();
    assert_eq!(daemon.targets.checked(), [2]);
    daemon.set("web1", admin(AdminState::Enabled)).await;
    assert_eq!(daemon.targets.checked(), [1, 2]);
    let add = Request::BackendAdd {
        service: "mail".into(),
        backend: testing::backend("web3", 3),
    };
    daemon.ask(add).await.unwrap();
    assert_eq!(daemon.targets.checked(), [1, 2, 3]);
    daemon
        .ask(Request::ServiceRemove { service: "web".into() })
        .await
        .unwrap();
    assert_eq!(daemon.targets.checked(), [3]);
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_survives_a_kill() {
    let (host, mut daemon) = lab().await;
    for weight in 2..20 {
        let heavier = BackendChange {
            weight: Some(weight),
            ..BackendChange::default()
        };
        daemon.set("web1", heavier).await;
        daemon.kill().await;
        daemon = host.daemon(&[web()]).await;
        assert_eq!(daemon.backend("web1").await.weight, weight);
    }
}

#[tokio::test(start_paused = true)]
async fn a_removed_backends_index_waits_for_its_flows() {
    let (_host, daemon) = lab().await;
    daemon.datapath.state().sweep.present = [(0, 3)].into();
    daemon.datapath.state().counters.entry(0).or_default().opened = 7;
    daemon.ask(remove("web1")).await.unwrap();
    assert_eq!(daemon.states(), [(0, BackendState::REMOVED), (1, BackendState::UP)]);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(daemon.states()[0], (0, BackendState::REMOVED), "it still has flows");
    assert_eq!(daemon.service().await.counters.new_flows, 7);
    daemon.datapath.state().sweep.present.clear();
    sleep(Duration::from_secs(11)).await;
    assert_eq!(daemon.states(), [(1, BackendState::UP)]);
    let add = Request::BackendAdd {
        service: "web".into(),
        backend: testing::backend("web3", 3),
    };
    daemon.ask(add).await.unwrap();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(daemon.states()[0].0, 0, "the index is used again");
    assert_eq!(daemon.backend("web3").await.counters.new_flows, 0);
    assert_eq!(
        daemon.service().await.counters.new_flows,
        7,
        "the service has not forgotten"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fails_changes_nothing() {
    let (_host, daemon) = lab().await;
    for writes in 0..4 {
        daemon.datapath.state().writes_left = Some(writes);
        let error = match daemon.ask(remove("web1")).await {
            Ok(_) => break,
            Err(error) => error,
        };
        assert_eq!(error.kind, ErrorKind::System);
        assert_eq!(error.message, "nothing was changed: writing: out of memory");
        daemon.datapath.state().writes_left = None;
        sleep(Duration::from_secs(2)).await;
        assert_eq!(daemon.order(), [1, 2], "after {writes} writes");
        assert_eq!(daemon.states(), [(0, BackendState::UP), (1, BackendState::UP)]);
        assert_eq!(daemon.service().await.backends.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn services_come_and_go_with_their_vip() {
    let (_host, daemon) = lab().await;
    let mut new = testing::service("new", 80, &[testing::backend("web1", 1)]);
    new.id.vip.set_ip(IpAddr::from([10, 0, 0, 2]));
    let add = Request::ServiceAdd {
        service: Box::new(new.clone()),
    };
    daemon.ask(add.clone()).await.unwrap();
    assert!(daemon.datapath.state().maps.services.contains_key(&new.id));
    assert!(daemon.net.0.lock().unwrap().vips.contains_key(&new.id.vip.ip()));
    assert_eq!(daemon.ask(add).await.unwrap_err().kind, ErrorKind::Conflict);
    daemon
        .ask(Request::ServiceRemove { service: "new".into() })
        .await
        .unwrap();
    sleep(Duration::from_secs(1)).await;
    assert!(!daemon.datapath.state().maps.services.contains_key(&new.id));
    let vips: Vec<_> = daemon.net.0.lock().unwrap().vips.keys().copied().collect();
    assert_eq!(vips, [web().id.vip.ip()]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_be_published_leaves_no_vip() {
    let (_host, daemon) = lab().await;
    let mut new = testing::service("new", 80, &[testing::backend("web1", 1)]);
    new.id.vip.set_ip(IpAddr::from([10, 0, 0, 2]));
    daemon.datapath.state().writes_left = Some(2);
    let add = Request::ServiceAdd {
        service: Box::new(new.clone()),
    };
    assert_eq!(daemon.ask(add.clone()).await.unwrap_err().kind, ErrorKind::System);
    daemon.datapath.state().writes_left = None;
    sleep(Duration::from_secs(2)).await;
    let vips: Vec<_> = daemon.net.0.lock().unwrap().vips.keys().copied().collect();
    assert_eq!(vips, [web().id.vip.ip()]);
    daemon.ask(add).await.unwrap();
    assert!(daemon.datapath.state().maps.services.contains_key(&new.id));
}

#[tokio::test(start_paused = true)]
async fn a_vip_of_another_host_refuses_the_service() {
    let (_host, daemon) = lab().await;
    let mut new = testing::service("new", 80, &[]);
    new.id.vip.set_ip(IpAddr::from([10, 0, 0, 9]));
    daemon.net.0.lock().unwrap().foreign.push(new.id.vip.ip());
    let add = Request::ServiceAdd { service: Box::new(new) };
    let error = daemon.ask(add).await.unwrap_err();
    assert_eq!(
        error.message,
        "the service was not added: 10.0.0.9 is already used by another host"
    );
    let status = daemon.status().await;
    assert_eq!((status.services.len(), status.warnings.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_first_start_without_any_vip_fails_and_leaves_nothing() {
    let host = Host::new();
    host.net.0.lock().unwrap().foreign.push(web().id.vip.ip());
    let daemon = host.daemon(&[web()]).await;
    let error = daemon.end().await.unwrap_err();
    assert!(matches!(error, ControllerError::Vips(_)), "{error}");
    assert!(host.datapath.state().destroyed);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_does_not_wait_for_a_vip() {
    let (_host, daemon) = lab().await;
    let mut new = testing::service("new", 80, &[]);
    new.id.vip.set_ip(IpAddr::from([10, 0, 0, 3]));
    let add = daemon.ask(Request::ServiceAdd { service: Box::new(new) });
    let verdict = async {
        sleep(Duration::from_millis(10)).await;
        daemon.verdict(&web(), 0, HealthState::Down).await;
        assert_eq!(daemon.order(), [2]);
        assert_eq!(daemon.status().await.services.len(), 1, "still being added");
    };
    let (added, ()) = tokio::join!(add, verdict);
    added.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_removal_is_answered_when_its_vip_has_left() {
    let (host, daemon) = lab().await;
    let mut second = testing::service("second", 81, &[]);
    second.id.vip.set_ip(web().id.vip.ip());
    daemon
        .ask(Request::ServiceAdd {
            service: Box::new(second),
        })
        .await
        .unwrap();
    let vips = || host.net.0.lock().unwrap().vips.len();
    let remove = |service: &str| Request::ServiceRemove {
        service: service.into(),
    };
    daemon.ask(remove("second")).await.unwrap();
    assert_eq!(vips(), 1, "another service has the same VIP");
    let removal = daemon.ask_later(remove("web")).await;
    sleep(Duration::from_millis(10)).await;
    assert!(
        daemon.status().await.services.is_empty(),
        "the daemon goes on meanwhile"
    );
    assert_eq!(vips(), 1);
    let Reply::Done { message } = removal.await.unwrap() else {
        panic!("refused")
    };
    assert!(message.contains("web") && message.contains("removed"), "{message}");
    assert_eq!(vips(), 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_leaves_nothing() {
    let (host, daemon) = lab().await;
    assert!(matches!(
        daemon.ask(Request::Shutdown).await.unwrap(),
        Reply::Done { .. }
    ));
    daemon.end().await.unwrap();
    let net = host.net.0.lock().unwrap();
    assert!(host.datapath.state().destroyed && net.vips.is_empty() && net.cleaned);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_an_address_that_is_being_added() {
    let (host, daemon) = lab().await;
    let mut new = testing::service("new", 80, &[]);
    new.id.vip.set_ip(IpAddr::from([10, 0, 0, 3]));
    let add = daemon.ask_later(Request::ServiceAdd { service: Box::new(new) }).await;
    sleep(Duration::from_millis(10)).await;
    daemon.ask(Request::Shutdown).await.unwrap();
    daemon.end().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(host.net.0.lock().unwrap().vips.len(), 0);
    assert!(add.await.is_err(), "nobody answers any more");
}
