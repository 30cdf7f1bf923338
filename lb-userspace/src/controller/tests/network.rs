use std::{net::IpAddr, time::Duration};

use lb_common::abi::Vlans;
use tokio::time::sleep;

use super::lab::{Daemon, Host, hop};
use crate::{
    api::{HealthState, Request},
    controller::{
        ports::{HopError, Lower, NetEvent, NextHop},
        testing::{backend, service},
    },
    datapath::Datapath as _,
    model::{Interface, Service, XdpMode},
    plan::Action,
};

fn web() -> Service {
    service("web", 80, &[backend("web1", 1), backend("web2", 2)])
}

async fn lab() -> (Host, Daemon) {
    let host = Host::new();
    let daemon = host.daemon(&[web()]).await;
    daemon.all_up(&web()).await;
    (host, daemon)
}

fn answer(daemon: &Daemon, result: Result<u8, (&str, bool)>) {
    let result = result.map(hop).map_err(|(message, resolving)| HopError {
        message: message.into(),
        resolving,
    });
    daemon
        .net
        .0
        .lock()
        .unwrap()
        .hops
        .insert(IpAddr::from([10, 0, 1, 1]), result);
}

#[tokio::test(start_paused = true)]
async fn a_new_mac_address_is_one_publication() {
    let (_host, daemon) = lab().await;
    answer(&daemon, Ok(77));
    let written = daemon.network_event(NetEvent::NextHops).await;
    let [Action::SetBackend { index: 0, backend }] = written.as_slice() else {
        panic!("{written:?}");
    };
    assert_eq!(backend.link.remote().bytes()[5], 77);
    assert_eq!(
        daemon.network_event(NetEvent::NextHops).await,
        [],
        "nothing changed since"
    );
}

#[tokio::test(start_paused = true)]
async fn a_backend_without_next_hop_is_out_until_it_has_one() {
    let (_host, daemon) = lab().await;
    answer(&daemon, Err(("waiting for 10.0.1.1 to answer ARP on eth0", true)));
    assert_eq!(
        daemon.network_event(NetEvent::NextHops).await,
        [],
        "its MAC address is known still"
    );
    answer(&daemon, Err(("10.0.1.1 does not answer ARP on eth0", false)));
    let written = daemon.network_event(NetEvent::NextHops).await;
    assert_eq!(daemon.order(), [2]);
    assert!(
        !written.iter().any(|a| matches!(a, Action::SetBackend { .. })),
        "its flows go on as they may"
    );
    let why = daemon.backend("web1").await.why_not;
    assert_eq!(
        why.as_deref(),
        Some("no next hop: 10.0.1.1 does not answer ARP on eth0")
    );
    answer(&daemon, Ok(5));
    daemon.network_event(NetEvent::NextHops).await;
    assert_eq!(daemon.order(), [1, 2]);
    let next_hop = daemon.backend("web1").await.next_hop;
    assert_eq!(next_hop.as_deref(), Some("10.0.1.1 (02:00:00:00:01:05) dev eth0"));
}

#[tokio::test(start_paused = true)]
async fn a_backend_whose_way_was_never_known_has_no_entry() {
    let host = Host::new();
    let error = HopError {
        message: "no route to 10.0.1.1".into(),
        resolving: false,
    };
    host.net
        .0
        .lock()
        .unwrap()
        .hops
        .insert(IpAddr::from([10, 0, 1, 1]), Err(error));
    let daemon = host.daemon(&[web()]).await;
    daemon.all_up(&web()).await;
    assert_eq!((daemon.order(), daemon.states().len()), (vec![2], 1));
    assert_eq!(
        daemon.backend("web1").await.why_not.as_deref(),
        Some("no next hop: no route to 10.0.1.1")
    );
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_returns_is_attached_again() {
    let (host, daemon) = lab().await;
    let link = || NetEvent::Link { name: "eth0".into() };
    daemon.net.0.lock().unwrap().interfaces.clear();
    host.datapath.state().interfaces.clear();
    daemon.network_event(link()).await;
    let status = daemon.status().await;
    assert!(
        status.warnings.contains(&"interface eth0 is missing".to_owned()),
        "{:?}",
        status.warnings
    );
    assert_eq!(status.interfaces[0].xdp, "missing");
    daemon.net.0.lock().unwrap().interfaces.insert("eth0".into(), 9);
    daemon.net.0.lock().unwrap().vips.clear();
    host.datapath.state().interfaces.insert("eth0".into(), 9);
    for mac in [1, 2] {
        let hop = NextHop { ifindex: 9, ..hop(mac) };
        daemon
            .net
            .0
            .lock()
            .unwrap()
            .hops
            .insert([10, 0, 1, mac].into(), Ok(hop));
    }
    daemon.network_event(link()).await;
    assert_eq!(host.datapath.state().attached["eth0"], 9);
    assert_eq!(daemon.net.0.lock().unwrap().vips.len(), 1, "the VIP is back as well");
    assert_eq!(daemon.status().await.warnings, [""; 0]);
    assert_eq!(daemon.order(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn interfaces_are_attached_and_detached_at_run_time() {
    let (host, daemon) = lab().await;
    let attach = Request::Attach {
        interface: Interface {
            name: "eth1".into(),
            xdp: XdpMode::Auto,
        },
    };
    assert!(daemon.ask(attach.clone()).await.is_err(), "there is no such interface");
    assert_eq!(daemon.status().await.interfaces.len(), 1);
    host.datapath.state().interfaces.insert("eth1".into(), 2);
    daemon.net.0.lock().unwrap().interfaces.insert("eth1".into(), 2);
    daemon.ask(attach).await.unwrap();
    for name in ["eth0", "eth1"] {
        daemon.ask(Request::Detach { interface: name.into() }).await.unwrap();
    }
    assert!(host.datapath.state().attached.is_empty());
    let warnings = daemon.status().await.warnings;
    assert_eq!(
        warnings,
        [
            "service web: no backend can take new flows",
            "lb is attached to no interface: it sees no packets"
        ]
    );
}

/// The health checks go through the kernel and stay green; packets of the service could not leave.
#[tokio::test(start_paused = true)]
async fn a_backend_behind_an_interface_without_the_packet_path_takes_no_flows() {
    let (host, daemon) = lab().await;
    daemon.all_up(&web()).await;
    host.datapath.state().interfaces.insert("eth1".into(), 2);
    daemon.net.0.lock().unwrap().interfaces.insert("eth1".into(), 2);
    let behind = NextHop {
        ifindex: 2,
        interface: "eth1".into(),
        ..hop(1)
    };
    daemon
        .net
        .0
        .lock()
        .unwrap()
        .hops
        .insert([10, 0, 1, 1].into(), Ok(behind));
    daemon.network_event(NetEvent::NextHops).await;
    assert_eq!(daemon.order(), [2]);
    let why_not = daemon.backend("web1").await.why_not.unwrap();
    assert!(
        why_not.contains("through eth1, which lb is not attached to: `lb attach eth1`"),
        "{why_not}"
    );
    let interface = Interface {
        name: "eth1".into(),
        xdp: XdpMode::Auto,
    };
    daemon.ask(Request::Attach { interface }).await.unwrap();
    assert_eq!(daemon.order(), [1, 2]);
}

/// A VLAN device's frames leave by the interface below it, which carries the packet path, with the VLAN's tag.
#[tokio::test(start_paused = true)]
async fn a_backend_behind_a_vlan_device_is_reached_with_tags_by_the_interface_below() {
    let (host, daemon) = lab().await;
    daemon.all_up(&web()).await;
    let behind = |lower: &[(u32, &str, u16)]| NextHop {
        ifindex: 7,
        interface: "vlan10".into(),
        lower: lower
            .iter()
            .map(|(ifindex, name, id)| Lower {
                ifindex: *ifindex,
                interface: (*name).into(),
                vlans: Vlans::NONE.within(0x8100, *id).unwrap(),
            })
            .collect(),
        ..hop(9)
    };
    let answer = |lower: &[(u32, &str, u16)]| {
        let hop = Ok(behind(lower));
        daemon.net.0.lock().unwrap().hops.insert([10, 0, 1, 1].into(), hop);
    };
    answer(&[(1, "eth0", 10)]);
    daemon.network_event(NetEvent::NextHops).await;
    assert_eq!(daemon.order(), [1, 2]);
    let contents = host.datapath.contents().unwrap();
    let link = contents
        .backends
        .values()
        .find(|b| b.address[0].to_ne_bytes()[3] == 1)
        .unwrap()
        .link;
    assert_eq!((link.ifindex, link.vlans.ids()), (1, [Some(10), None]));
    assert_eq!(link.local(), lb_common::net::MacAddr::new([2, 0, 0, 0, 0, 1]));
    // Below it is an interface that lb is not attached to.
    answer(&[(5, "eth5", 10)]);
    daemon.network_event(NetEvent::NextHops).await;
    assert_eq!(daemon.order(), [2]);
    let why_not = daemon.backend("web1").await.why_not.unwrap();
    assert!(why_not.contains("`lb attach eth5`"), "{why_not}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_interface_at_a_first_start_is_an_error() {
    let host = Host::new();
    host.datapath.state().interfaces.clear();
    let error = host.daemon(&[web()]).await.end().await.unwrap_err().to_string();
    assert!(error.contains("eth0"), "{error}");
    assert_eq!(host.datapath.contents().unwrap(), crate::datapath::Contents::default());
}

#[tokio::test(start_paused = true)]
async fn a_vip_that_is_taken_off_is_put_back() {
    let (_host, daemon) = lab().await;
    let vip = web().id.vip.ip();
    daemon.net.0.lock().unwrap().vips.clear();
    daemon.network_event(NetEvent::AddressGone { address: vip }).await;
    sleep(Duration::from_secs(1)).await;
    assert!(daemon.net.0.lock().unwrap().vips.contains_key(&vip));
    daemon.verdict(&web(), 0, HealthState::Down).await;
    assert_eq!(daemon.order(), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_goes_down_is_asked_who_it_is() {
    let (_host, daemon) = lab().await;
    daemon.verdict(&web(), 0, HealthState::Down).await;
    let asked = daemon.net.0.lock().unwrap().asked_anew.clone();
    assert_eq!(asked, [IpAddr::from([10, 0, 1, 1])]);
}
