use super::lab::Host;
use crate::{
    api::{BackendChange, HealthState},
    controller::{
        ports::HopError,
        testing::{backend, service},
    },
    model::{Backend, Extent, Service},
    plan::Action,
};

fn web() -> Service {
    service("web", 80, &[backend("web1", 1), backend("web2", 2), backend("web3", 3)])
}

#[tokio::test(start_paused = true)]
async fn adoption_writes_nothing() {
    let host = Host::new();
    let first = host.daemon(&[web()]).await;
    first.all_up(&web()).await;
    first.verdict(&web(), 2, HealthState::Down).await;
    first.kill().await;
    host.datapath.take_log();
    // The kernel may have forgotten a neighbour meanwhile; that is no reason to take a backend out.
    let resolving = HopError {
        message: "waiting".into(),
        resolving: true,
    };
    host.net
        .0
        .lock()
        .unwrap()
        .hops
        .insert(std::net::IpAddr::from([10, 0, 1, 1]), Err(resolving));
    let second = host.daemon(&[web()]).await;
    assert_eq!(host.datapath.take_log(), []);
    assert_eq!(second.order(), [1, 2]);
    assert!(second.status().await.adopted);
    let targets = second.targets.clone();
    let states: Vec<_> = (0..3).map(|b| targets.initial(&web(), b)).collect();
    assert_eq!(
        states,
        [Some(HealthState::Up), Some(HealthState::Up), Some(HealthState::Down)]
    );
    second.verdict(&web(), 1, HealthState::Down).await;
    assert_eq!(second.order(), [1]);
}

#[tokio::test(start_paused = true)]
async fn an_adopted_standby_goes_on_without_failback() {
    let standby = Backend {
        tier: 1,
        ..backend("web2", 2)
    };
    let web = Service {
        failback: false,
        ..service("web", 80, &[backend("web1", 1), standby])
    };
    let host = Host::new();
    let first = host.daemon(std::slice::from_ref(&web)).await;
    first.all_up(&web).await;
    first.verdict(&web, 0, HealthState::Down).await;
    first.verdict(&web, 0, HealthState::Up).await;
    first.stop().await;
    host.datapath.take_log();
    let second = host.daemon(std::slice::from_ref(&web)).await;
    assert_eq!(host.datapath.take_log(), []);
    assert_eq!(second.order(), [2]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_wanted_any_more_is_removed() {
    let host = Host::new();
    let mut other = service("other", 81, &[backend("a", 9)]);
    other.id.vip.set_ip(std::net::IpAddr::from([10, 0, 0, 2]));
    let first = host.daemon(&[web(), other.clone()]).await;
    first.stop().await;
    host.datapath.take_log();
    let second = host.daemon(&[web()]).await;
    let log = host.datapath.take_log();
    assert_eq!(log.first(), Some(&Action::RemoveService(other.id)));
    assert_eq!(second.net.0.lock().unwrap().vips.len(), 1);
    assert_eq!(second.status().await.services.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn run_time_changes_survive_until_the_configuration_changes() {
    let host = Host::new();
    let heavy = BackendChange {
        weight: Some(2),
        ..BackendChange::default()
    };
    let first = host.daemon(&[web()]).await;
    first.set("web1", heavy).await;
    first.kill().await;
    let second = host.daemon(&[web()]).await;
    assert_eq!(second.backend("web1").await.weight, 2);
    second.stop().await;
    let mut options = host.options(&[web()]);
    options.forget_runtime_changes = true;
    let third = host.daemon_with(options).await;
    assert_eq!(third.backend("web1").await.weight, 1);
}

#[tokio::test(start_paused = true)]
async fn detach_on_exit_leaves_nothing() {
    let host = Host::new();
    let mut options = host.options(&[web()]);
    options.detach_on_exit = true;
    let daemon = host.daemon_with(options).await;
    daemon.stop().await;
    assert!(host.datapath.state().destroyed);
    assert!(host.net.0.lock().unwrap().vips.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_service_on_many_ports_is_adopted_and_changed_port_by_port() {
    let many = |more_ports| Service {
        extent: Extent {
            more_ports,
            udp_too: true,
        },
        ..web()
    };
    let host = Host::new();
    let first = host.daemon(&[many(2)]).await;
    first.all_up(&web()).await;
    let keys = |host: &Host| host.datapath.state().maps.services.clone();
    let before = keys(&host);
    assert_eq!(
        (before.len(), before.values().map(|s| s.index).max()),
        (6, Some(0)),
        "three ports, two protocols, one service"
    );
    first.kill().await;
    host.datapath.take_log();
    let second = host.daemon(&[many(2)]).await;
    assert_eq!(host.datapath.take_log(), []);
    second.kill().await;
    let third = host.daemon(&[many(0)]).await;
    let removed = host.datapath.take_log();
    assert!(
        removed.iter().all(|a| matches!(a, Action::RemoveService(_))),
        "{removed:?}"
    );
    assert_eq!((removed.len(), keys(&host).len()), (4, 2));
    assert_eq!(third.order(), [1, 2, 3]);
    // Another first port is another service.
    third.kill().await;
    let mut moved = many(0);
    moved.id.vip.set_port(81);
    let fourth = host.daemon(&[moved]).await;
    fourth.all_up(&web()).await;
    assert_eq!(
        keys(&host).into_keys().map(|k| k.vip.port()).collect::<Vec<_>>(),
        [81, 81]
    );
    assert_eq!(fourth.order(), [1, 2, 3]);
}
