//! Interfaces, and the events about them.

use super::lab::Lab;
use crate::net::{Mac, NetEvent, Network};

#[test]
fn interfaces_are_listed_with_what_the_packet_path_needs() {
    let lab = Lab::new();
    lab.near("ip link set lb0 mtu 1400; ip link add idle type veth peer name other");
    lab.run(|network, _| async move {
        let link = network.interface("lb0").unwrap();
        assert_eq!(link.mac, Some(Mac([2, 0, 0, 0, 0, 2])));
        assert_eq!(
            (link.mtu, link.up, link.carrier, link.loopback),
            (1400, true, true, false)
        );
        let idle = network.interface("idle").unwrap();
        assert_eq!((idle.up, idle.carrier), (false, false));
        let loopback = network.interface("lo").unwrap();
        assert_eq!((loopback.mac, loopback.loopback), (None, true));
        assert_eq!(network.interface("eth7"), None);
    });
}

#[test]
fn the_life_of_an_interface_is_told() {
    let lab = Lab::new();
    lab.run(|network, mut events| {
        let lab = &lab;
        async move {
            lab.near("ip link add new0 type veth peer name new1");
            let is_new = |e: &NetEvent| matches!(e, NetEvent::LinkAdded { link } if link.name == "new0");
            events.wait_for("added", is_new).await;
            assert!(network.interface("new0").is_some());

            lab.near("ip link set new0 name newer0");
            let renamed = |e: &NetEvent| {
                matches!(e, NetEvent::LinkChanged { before, after } if before.name == "new0" && after.name == "newer0")
            };
            events.wait_for("renamed", renamed).await;

            lab.near("ip link set newer0 address 02:00:00:00:00:77");
            let other_mac = |e: &NetEvent| {
                matches!(e, NetEvent::LinkChanged { after, .. } if after.mac == Some(Mac([2, 0, 0, 0, 0, 0x77])))
            };
            events.wait_for("another MAC address", other_mac).await;

            lab.near("ip link set newer0 up; ip link set new1 up");
            let has_carrier = |e: &NetEvent| {
                matches!(e, NetEvent::LinkChanged { after, .. } if after.name == "newer0" && after.up && after.carrier)
            };
            events.wait_for("up", has_carrier).await;

            lab.near("ip link set new1 down");
            let no_carrier = |e: &NetEvent| {
                matches!(e, NetEvent::LinkChanged { after, .. } if after.name == "newer0" && after.up && !after.carrier)
            };
            events.wait_for("without carrier", no_carrier).await;

            lab.near("ip link del newer0");
            let gone = |e: &NetEvent| matches!(e, NetEvent::LinkRemoved { name, .. } if name == "newer0");
            events.wait_for("removed", gone).await;
            assert!(network.interface("newer0").is_none());
        }
    });
}

#[test]
fn a_port_that_leaves_its_bridge_is_not_taken_for_removed() {
    let lab = Lab::new();
    lab.near("ip link add br0 type bridge; ip link set lb0 master br0");
    lab.run(|network, mut events| {
        let lab = &lab;
        async move {
            lab.near("ip link set lb0 nomaster; ip link set lb0 mtu 1300");
            let removed = |e: &NetEvent| matches!(e, NetEvent::LinkRemoved { .. });
            let mtu = |e: &NetEvent| matches!(e, NetEvent::LinkChanged { after, .. } if after.mtu == 1300);
            let event = events.wait_for("the change after it", |e| removed(e) || mtu(e)).await;
            assert!(mtu(&event), "{event:?}");
            assert!(network.interface("lb0").is_some());
        }
    });
}

#[test]
fn addresses_and_routes_are_told() {
    let lab = Lab::new();
    lab.run(|network, mut events| {
        let lab = &lab;
        async move {
            for (address, prefix_len) in [("10.9.0.1", 24), ("2001:db8:9::1", 64)] {
                let ip: std::net::IpAddr = address.parse().unwrap();
                lab.near(&format!("ip addr add {address}/{prefix_len} dev lb0"));
                let came = |e: &NetEvent| {
                    matches!(e, NetEvent::AddressChanged { address, present: true, .. } if *address == ip)
                };
                events.wait_for("address added", came).await;
                lab.near(&format!("ip addr del {address}/{prefix_len} dev lb0"));
                let went = |e: &NetEvent| {
                    matches!(e, NetEvent::AddressChanged { address, present: false, .. } if *address == ip)
                };
                events.wait_for("address removed", went).await;
            }
            for change in [
                "ip route add 10.77.0.0/16 via 10.0.0.1",
                "ip -6 route add 2001:db8:77::/48 via 2001:db8::1",
                "ip rule add to 10.78.0.0/16 table 78",
            ] {
                events.drain_until_quiet().await;
                lab.near(change);
                events.wait_for(change, |e| *e == NetEvent::RoutesChanged).await;
            }
            drop(network);
        }
    });
}

#[test]
fn lost_announcements_end_in_a_resync_and_true_tables() {
    let lab = Lab::new();
    lab.run(|network, mut events| {
        let lab = &lab;
        async move {
            // This thread runs the monitor, too: while it waits here, the socket's buffer overflows. Neighbours that
            // are nobody's next hop cause no events themselves.
            lab.near(
                "for i in $(seq 0 7); do for j in $(seq 1 250); do
                     echo \"neigh replace 10.200.$i.$j lladdr 02:00:00:00:01:01 dev lb0 nud permanent\"
                 done; done | ip -batch -
                 ip link set lb0 mtu 1234",
            );
            events.wait_for("resync", |e| *e == NetEvent::Resync).await;
            assert_eq!(network.interface("lb0").unwrap().mtu, 1234);
            lab.near("ip link set lb0 mtu 1235");
            let later = |e: &NetEvent| matches!(e, NetEvent::LinkChanged { after, .. } if after.mtu == 1235);
            events.wait_for("a change after the resync", later).await;
        }
    });
}
