//! What modes other than `full-nat` ask of next hops and entries.

use std::net::IpAddr;

use lb_common::abi::{Backend, Mode};

use super::lab::{Daemon, Host, hop};
use crate::{
    controller::{
        ports::NetEvent,
        testing::{backend, service},
    },
    model::{ForwardingMode, Service, Tunnel, TunnelSource},
};

fn web(mode: ForwardingMode) -> Service {
    Service {
        mode,
        ..service("web", 80, &[backend("web1", 1), backend("web2", 2)])
    }
}

async fn lab(mode: ForwardingMode, sources: Vec<TunnelSource>) -> (Host, Daemon) {
    let host = Host::new();
    let mut options = host.options(&[web(mode)]);
    options.config.tunnel = Tunnel { sources, port: 6081 };
    let daemon = host.daemon_with(options).await;
    daemon.all_up(&web(mode)).await;
    (host, daemon)
}

fn entries(daemon: &Daemon) -> Vec<Backend> {
    daemon.datapath.state().maps.backends.values().copied().collect()
}

#[tokio::test(start_paused = true)]
async fn tunnels_come_from_the_route_or_from_a_spread_prefix() {
    for (mode, wanted) in [(ForwardingMode::Ipip, Mode::IPIP), (ForwardingMode::Gue, Mode::GUE)] {
        let prefix = TunnelSource {
            base: IpAddr::from([172, 16, 0, 0]),
            prefix: 24,
        };
        for (sources, base, spread) in [
            (vec![], IpAddr::from([10, 0, 1, 254]), 1),
            (vec![prefix], prefix.base, 256),
        ] {
            let (_host, daemon) = lab(mode, sources).await;
            let [one, two] = entries(&daemon).try_into().unwrap();
            for entry in [one, two] {
                assert_eq!((entry.mode, entry.sources, entry.first_source), (wanted, spread, 0));
                let port = if mode == ForwardingMode::Gue { 6081 } else { 0 };
                assert_eq!((entry.tunnel_port.get(), entry.source_ports), (port, 0));
                assert!(entry.timeouts.fin < entry.timeouts.established);
            }
            let held = daemon.datapath.state().maps.sources.clone();
            assert_eq!(held, [(0, base)].into(), "one place, however far it spreads");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_spread_source_is_adopted() {
    let prefix = TunnelSource {
        base: IpAddr::from([172, 16, 0, 0]),
        prefix: 16,
    };
    let (host, daemon) = lab(ForwardingMode::Ipip, vec![prefix]).await;
    daemon.stop().await;
    host.datapath.take_log();
    let mut options = host.options(&[web(ForwardingMode::Ipip)]);
    options.config.tunnel.sources = vec![prefix];
    let daemon = host.daemon_with(options).await;
    daemon.all_up(&web(ForwardingMode::Ipip)).await;
    let written = host.datapath.take_log();
    assert_eq!(written, [], "the packet path is as it should be");
}

#[tokio::test(start_paused = true)]
async fn l2_dsr_wants_backends_on_the_link() {
    let (_host, daemon) = lab(ForwardingMode::L2Dsr, vec![]).await;
    assert_eq!(daemon.order(), [1, 2]);
    assert!(
        entries(&daemon)
            .iter()
            .all(|e| (e.mode, e.sources) == (Mode::L2_DSR, 0))
    );
    let mut routed = hop(9);
    routed.gateway = Some(IpAddr::from([10, 0, 1, 253]));
    let web1 = IpAddr::from([10, 0, 1, 1]);
    daemon.net.0.lock().unwrap().hops.insert(web1, Ok(routed));
    daemon.network_event(NetEvent::NextHops).await;
    assert_eq!(daemon.order(), [2]);
    let why = daemon.backend("web1").await.why_not.unwrap();
    assert!(
        why.contains("behind the gateway 10.0.1.253") && why.contains("ipip or gue"),
        "{why}"
    );
}
