//! Routes and neighbours on the way to backends.

use std::{net::IpAddr, time::Duration};

use super::lab::Lab;
use crate::net::{
    CleanupScope, KernelNetwork, Mac, NetEvent, Network, NextHop, NextHopError, monitor::SharedTables,
    neighbour::solicit, request::Requests, table::NeighbourKey,
};

const NEAR_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
const FAR_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn resolving(answer: &Result<NextHop, NextHopError>) -> bool {
    matches!(answer, Err(NextHopError::Resolving { .. }))
}

#[test]
fn a_backend_on_the_link_resolves_when_it_is_asked_for() {
    let lab = Lab::new();
    lab.run(|network, mut events| async move {
        let network = &network;
        for (backend, own) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let first = network.next_hop(ip(backend)).await;
            assert!(resolving(&first), "{first:?}");
            let hop = events
                .until("resolved", || network.next_hop(ip(backend)), Result::is_ok)
                .await
                .unwrap();
            assert_eq!((hop.local_mac, hop.remote_mac), (NEAR_MAC, FAR_MAC));
            assert_eq!((hop.interface_name.as_str(), hop.mtu), ("lb0", 1500));
            assert_eq!((hop.gateway, hop.source), (None, Some(ip(own))));
            assert_eq!(hop.ifindex, network.interface("lb0").unwrap().index);
        }
    });
}

#[test]
fn a_backend_behind_a_gateway_takes_the_gateways_mac_and_the_routes_mtu() {
    let lab = Lab::new();
    lab.near(
        "ip route add 10.20.0.0/16 via 10.0.0.1 mtu 1300; ip -6 route add 2001:db8:20::/48 via 2001:db8::1 mtu 1300
         ip route add 10.30.0.0/16 via inet6 2001:db8::1 dev lb0",
    );
    lab.run(|network, mut events| async move {
        let network = &network;
        for (backend, gateway, mtu) in [
            ("10.20.0.9", "10.0.0.1", 1300),
            ("2001:db8:20::9", "2001:db8::1", 1300),
            ("10.30.0.9", "2001:db8::1", 1500),
        ] {
            let hop = events
                .until("resolved", || network.next_hop(ip(backend)), Result::is_ok)
                .await
                .unwrap();
            assert_eq!(
                (hop.remote_mac, hop.gateway, hop.mtu),
                (FAR_MAC, Some(ip(gateway)), mtu)
            );
        }
    });
}

#[test]
fn a_changed_route_is_followed() {
    let lab = Lab::new();
    lab.near("ip route add 10.20.0.0/16 via 10.0.0.1");
    lab.far("ip addr add 10.0.0.8/24 dev peer0");
    lab.run(|network, mut events| {
        let lab = &lab;
        async move {
            let (network, backend) = (&network, ip("10.20.0.9"));
            events
                .until("resolved", || network.next_hop(backend), Result::is_ok)
                .await
                .unwrap();
            lab.near("ip route replace 10.20.0.0/16 via 10.0.0.8");
            let moved = |a: &Result<NextHop, _>| a.as_ref().is_ok_and(|h| h.gateway == Some(ip("10.0.0.8")));
            events
                .until("moved", || network.next_hop(backend), moved)
                .await
                .unwrap();
            lab.near("ip route del 10.20.0.0/16");
            events
                .until("without route", || network.next_hop(backend), Result::is_err)
                .await
                .unwrap_err();
        }
    });
}

#[test]
fn another_mac_under_the_same_address_is_followed() {
    let lab = Lab::new();
    lab.run(|network, mut events| {
        let lab = &lab;
        async move {
            let network = &network;
            for (backend, mac) in [("10.0.0.1", 0x51), ("2001:db8::1", 0x52)] {
                events
                    .until("resolved", || network.next_hop(ip(backend)), Result::is_ok)
                    .await
                    .unwrap();
                // A server was replaced and speaks up, as they do; here by asking for us.
                lab.far(&format!(
                    "ip link set peer0 address 02:00:00:00:00:{mac:x}; ip neigh flush dev peer0
                     ip -6 addr show dev peer0 | grep -q 2001:db8::1 || ip addr add 2001:db8::1/64 dev peer0 nodad
                     ping -c1 -W1 {} >/dev/null || true",
                    if ip(backend).is_ipv4() {
                        "10.0.0.2"
                    } else {
                        "2001:db8::2"
                    }
                ));
                let changed = Mac([2, 0, 0, 0, 0, mac]);
                let followed = |a: &Result<NextHop, _>| a.as_ref().is_ok_and(|h| h.remote_mac == changed);
                events
                    .until("the new MAC", || network.next_hop(ip(backend)), followed)
                    .await
                    .unwrap();
            }
        }
    });
}

#[test]
fn a_silent_backend_is_named_and_found_when_it_comes() {
    let lab = Lab::new();
    lab.give_up_soon();
    lab.run(|network, mut events| {
        let lab = &lab;
        async move {
            let network = &network;
            for (backend, address, words) in [
                ("10.0.0.9", "10.0.0.9/24", "10.0.0.9 does not answer ARP on lb0"),
                (
                    "2001:db8::9",
                    "2001:db8::9/64 nodad",
                    "2001:db8::9 does not answer neighbour discovery on lb0",
                ),
            ] {
                let failed = |a: &Result<NextHop, NextHopError>| !resolving(a);
                let answer = events.until("given up", || network.next_hop(ip(backend)), failed).await;
                assert_eq!(answer.unwrap_err().to_string(), words);
                // While the kernel asks anew, the answer stays.
                network.refresh(&[ip(backend)]).await;
                assert_eq!(network.next_hop(ip(backend)).await.unwrap_err().to_string(), words);

                lab.far(&format!("ip addr add {address} dev peer0"));
                let refreshed = async || {
                    network.refresh(&[ip(backend)]).await;
                    network.next_hop(ip(backend)).await
                };
                let hop = events.until("found", refreshed, Result::is_ok).await.unwrap();
                assert_eq!(hop.remote_mac, FAR_MAC);
            }
        }
    });
}

#[test]
fn refreshing_finds_out_that_a_backend_died() {
    let lab = Lab::new();
    lab.give_up_soon();
    lab.near("sysctl -qw net.ipv4.neigh.lb0.delay_first_probe_time=0");
    lab.run(|network, mut events| {
        let lab = &lab;
        async move {
            let (network, backend) = (&network, ip("10.0.0.1"));
            let refreshed_and_asked = async || {
                network.refresh(&[backend]).await;
                network.next_hop(backend).await
            };
            events
                .until("resolved", refreshed_and_asked, Result::is_ok)
                .await
                .unwrap();
            lab.far("ip addr flush dev peer0");
            lab.near("ip neigh change 10.0.0.1 lladdr 02:00:00:00:00:01 dev lb0 nud stale");
            assert!(network.next_hop(backend).await.is_ok(), "stale is good enough to send");
            let gone = tokio::time::timeout(Duration::from_secs(20), async {
                while refreshed_and_asked().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            gone.await.unwrap();
            let died = NetEvent::NeighbourChanged {
                ifindex: network.interface("lb0").unwrap().index,
                address: backend,
            };
            events.wait_for("the neighbour", |e| *e == died).await;
            assert!(matches!(
                network.next_hop(backend).await,
                Err(NextHopError::NoAnswer { .. })
            ));
        }
    });
}

#[test]
fn routes_that_lead_nowhere_are_named() {
    let lab = Lab::new();
    lab.near(
        "ip route add unreachable 10.41.0.0/16; ip -6 route add unreachable 2001:db8:41::/48
         ip route add blackhole 10.42.0.0/16; ip -6 route add blackhole 2001:db8:42::/48
         ip route add prohibit 10.43.0.0/16; ip -6 route add prohibit 2001:db8:43::/48",
    );
    lab.run(|network, _| async move {
        for (to, words) in [
            ("10.99.0.1", "no route to 10.99.0.1"),
            ("2001:db8:99::1", "no route to 2001:db8:99::1"),
            ("10.0.0.2", "backend is an address of this host"),
            ("127.0.0.1", "backend is an address of this host"),
            ("2001:db8::2", "backend is an address of this host"),
            (
                "10.0.0.255",
                "10.0.0.255 is a broadcast address, not that of one server",
            ),
            ("ff02::1", "ff02::1 is a multicast address, not that of one server"),
            (
                "fe80::1",
                "fe80::1 is a link-local address; give the backend a global one",
            ),
        ] {
            assert_eq!(network.next_hop(ip(to)).await.unwrap_err().to_string(), words);
        }
        for (kind, v4, v6) in [
            ("unreachable", "10.41.0.1", "2001:db8:41::1"),
            ("blackhole", "10.42.0.1", "2001:db8:42::1"),
            ("prohibit", "10.43.0.1", "2001:db8:43::1"),
        ] {
            for to in [ip(v4), ip(v6)] {
                let answer = network.next_hop(to).await.unwrap_err();
                assert_eq!(answer, NextHopError::Rejected { to, kind });
            }
        }
    });
}

#[test]
fn an_interface_that_cannot_send_is_named() {
    let lab = Lab::new();
    lab.near("ip tuntap add tun0 mode tun; ip link set tun0 up; ip route add 10.60.0.0/16 dev tun0");
    lab.run(|network, mut events| {
        let lab = &lab;
        async move {
            let (network, backend) = (&network, ip("10.0.0.1"));
            let tunnel = network.next_hop(ip("10.60.0.1")).await.unwrap_err().to_string();
            assert_eq!(
                tunnel,
                "interface tun0 has no MAC address: `lb` sends through Ethernet interfaces only"
            );
            events
                .until("resolved", || network.next_hop(backend), Result::is_ok)
                .await
                .unwrap();

            lab.far("ip link set peer0 down");
            let answer = events
                .until("cut", || network.next_hop(backend), Result::is_err)
                .await
                .unwrap_err();
            assert_eq!(answer.to_string(), "interface lb0 has no carrier");
            lab.far("ip link set peer0 up");
            events
                .until("back", || network.next_hop(backend), Result::is_ok)
                .await
                .unwrap();

            lab.near("ip link set lb0 down");
            events
                .until("down", || network.next_hop(backend), Result::is_err)
                .await
                .unwrap_err();
            lab.near("ip link set lb0 up");
            events
                .until("up again", || network.next_hop(backend), Result::is_ok)
                .await
                .unwrap();
        }
    });
}

#[test]
fn detaching_leaves_no_neighbour_behind_and_takes_none_away() {
    let lab = Lab::new();
    lab.give_up_soon();
    lab.near(
        "ip neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev lb0 nud permanent
         ip neigh add 10.0.0.51 lladdr 02:00:00:00:00:51 dev lb0 nud stale",
    );
    let mine = ["10.0.0.1", "2001:db8::1", "10.0.0.9"].map(ip);
    let others = ["10.0.0.50", "10.0.0.51"].map(ip);
    lab.run(|network, mut events| async move {
        let network = &network;
        for backend in mine.iter().chain(&others) {
            events
                .until("settled", || network.next_hop(*backend), |a| !resolving(a))
                .await
                .ok();
        }
        network.refresh(&[mine.as_slice(), others.as_slice()].concat()).await;
    });
    let table = lab.near("ip neigh show dev lb0");
    assert!(
        table.contains("10.0.0.50 lladdr 02:00:00:00:00:50 PERMANENT"),
        "a permanent entry was changed: {table}"
    );

    // A daemon that starts anew knows the entries of the one before it.
    lab.run(|network, _| async move {
        assert_eq!(
            network.cleanup_neighbours(CleanupScope::Daemon).await.unwrap(),
            0,
            "not asked about any backend"
        );
        for backend in mine.iter().chain(&others) {
            network.next_hop(*backend).await.ok();
        }
        assert_eq!(network.cleanup_neighbours(CleanupScope::Daemon).await.unwrap(), 3);
    });
    let table = lab.near("ip neigh show dev lb0");
    assert!(others.iter().all(|o| table.contains(&o.to_string())), "{table}");
    assert!(!mine.iter().any(|m| table.contains(&format!("{m} "))), "{table}");
}

#[test]
fn a_permanent_entry_that_was_made_just_now_is_left_alone() {
    let lab = Lab::new();
    lab.near("ip neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev lb0 nud permanent");
    lab.run(|network, _| async move {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let key = NeighbourKey {
            ifindex: network.interface("lb0").unwrap().index,
            address: ip("10.0.0.50"),
        };
        // Tables that have not heard of it yet.
        solicit(&Requests::new(handle), &SharedTables::default(), key)
            .await
            .unwrap();
    });
    let entry = lab.near("ip neigh show 10.0.0.50 dev lb0");
    assert!(entry.contains("PERMANENT"), "{entry}");
}

#[test]
fn a_detach_without_a_daemon_finds_the_marked_neighbours() {
    let lab = Lab::new();
    lab.run(|network: KernelNetwork, mut events| async move {
        let network = &network;
        events
            .until("resolved", || network.next_hop(ip("10.0.0.1")), Result::is_ok)
            .await
            .unwrap();
    });
    lab.run(|network, _| async move {
        assert_eq!(network.cleanup_neighbours(CleanupScope::Host).await.unwrap(), 1);
    });
    assert!(!lab.near("ip neigh show dev lb0").contains("10.0.0.1 "));
}
