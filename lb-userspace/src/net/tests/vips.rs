//! VIP addresses on interfaces.

use std::net::IpAddr;

use super::lab::Lab;
use crate::net::{NetError, Network, RemoveVipOutcome, VipOutcome, pick_vip_interface};

fn vips() -> [IpAddr; 2] {
    ["10.0.0.100", "2001:db8::100"].map(|a| a.parse().unwrap())
}

#[test]
fn a_vip_comes_is_usable_at_once_and_goes() {
    let lab = Lab::new();
    // As on a real host: the kernel would take its time over duplicates.
    lab.near("sysctl -qw net.ipv6.conf.lb0.accept_dad=1 net.ipv6.conf.lb0.dad_transmits=5");
    lab.run(|network, _| {
        let lab = &lab;
        async move {
            for vip in vips() {
                assert_eq!(network.add_vip(vip, "lb0").await.unwrap(), VipOutcome::Added);
                assert!(!lab.near(&format!("ip addr show to {vip}")).contains("tentative"));
                lab.far(&format!("ping -c1 -W2 {vip}"));
                let again = network.add_vip(vip, "lb0").await.unwrap();
                let present = VipOutcome::AlreadyPresent {
                    interface: "lb0".to_owned(),
                    ours: true,
                };
                assert_eq!(again, present);
                assert_eq!(network.remove_vip(vip, "lb0").await.unwrap(), RemoveVipOutcome::Removed);
                assert_eq!(network.remove_vip(vip, "lb0").await.unwrap(), RemoveVipOutcome::Absent);
                assert!(!lab.near("ip addr show dev lb0").contains(&vip.to_string()));
            }
        }
    });
}

#[test]
fn a_vip_is_no_source_for_the_hosts_own_connections() {
    let lab = Lab::new();
    lab.run(|network, _| {
        let lab = &lab;
        async move {
            for (vip, neighbour, own) in [
                ("10.0.0.100", "10.0.0.101", "src 10.0.0.2 "),
                ("2001:db8::100", "2001:db8::101", "src 2001:db8::2 "),
            ] {
                network.add_vip(vip.parse().unwrap(), "lb0").await.unwrap();
                let route = lab.near(&format!("ip route get {neighbour}"));
                assert!(route.contains(own), "{route}");
            }
        }
    });
}

#[test]
fn a_vip_outlives_the_daemon_and_is_known_to_the_next_even_under_another_name() {
    let lab = Lab::new();
    lab.run(|network, _| async move {
        for vip in vips() {
            network.add_vip(vip, "lb0").await.unwrap();
        }
    });
    lab.near("ip link set lb0 name renamed0");
    lab.run(|network, _| async move {
        for vip in vips() {
            let present = VipOutcome::AlreadyPresent {
                interface: "renamed0".to_owned(),
                ours: true,
            };
            assert_eq!(network.add_vip(vip, "renamed0").await.unwrap(), present);
            assert_eq!(network.remove_vip(vip, "lb0").await.unwrap(), RemoveVipOutcome::Removed);
        }
    });
}

#[test]
fn an_address_of_the_operators_stays() {
    let lab = Lab::new();
    lab.near("ip addr add 10.0.0.100/32 dev lb0; ip addr add 2001:db8::100/128 dev lo");
    lab.run(|network, _| {
        let lab = &lab;
        async move {
            for (vip, interface) in vips().into_iter().zip(["lb0", "lo"]) {
                let present = VipOutcome::AlreadyPresent {
                    interface: interface.to_owned(),
                    ours: false,
                };
                assert_eq!(network.add_vip(vip, "lb0").await.unwrap(), present);
                assert_eq!(
                    network.remove_vip(vip, interface).await.unwrap(),
                    RemoveVipOutcome::NotOurs
                );
                assert!(lab.near("ip addr").contains(&vip.to_string()));
                // Before Linux 5.18 addresses bear no mark, and the daemon's own memory says whose they are.
                network.adopt_vip(vip, interface);
                assert_eq!(
                    network.remove_vip(vip, interface).await.unwrap(),
                    RemoveVipOutcome::Removed
                );
            }
        }
    });
}

#[test]
fn a_vip_of_another_host_is_refused() {
    let lab = Lab::new();
    lab.far("ip addr add 10.0.0.100/24 dev peer0; ip addr add 2001:db8::100/64 dev peer0 nodad");
    lab.run(|network, _| {
        let lab = &lab;
        async move {
            for vip in vips() {
                let error = network.add_vip(vip, "lb0").await.unwrap_err();
                let words = format!("{vip} is already used by 02:00:00:00:00:01 on lb0; take it off that host");
                assert!(error.to_string().starts_with(&words), "{error}");
                assert!(!lab.near("ip addr show dev lb0").contains(&vip.to_string()));
            }
        }
    });
}

#[test]
fn many_vips_are_asked_for_side_by_side() {
    let lab = Lab::new();
    lab.far("ip addr add 10.0.0.103/24 dev peer0");
    lab.run(|network, _| async move {
        let one = |n: u8| network.add_vip(IpAddr::from([10, 0, 0, n]), "lb0");
        let (a, b, taken) = tokio::join!(one(101), one(102), one(103));
        assert_eq!((a.unwrap(), b.unwrap()), (VipOutcome::Added, VipOutcome::Added));
        assert!(matches!(taken, Err(NetError::VipInUse { .. })));
    });
}

#[test]
fn neighbours_learn_the_new_owner_at_once() {
    let lab = Lab::new();
    // The peer remembers an owner that is gone, and would send there until the entry ages.
    for vip in vips() {
        lab.far(&format!(
            "ip neigh replace {vip} lladdr 02:00:00:00:00:99 dev peer0 nud stale"
        ));
    }
    lab.run(|network, _| {
        let lab = &lab;
        async move {
            for vip in vips() {
                network.add_vip(vip, "lb0").await.unwrap();
                let entry = lab.far(&format!("ip neigh show {vip} dev peer0"));
                assert!(entry.contains("02:00:00:00:00:02"), "{entry}");
            }
        }
    });
}

#[test]
fn interfaces_that_are_missing_or_down_are_named() {
    let lab = Lab::new();
    lab.far("ip link set peer0 down");
    lab.near("ip link add off0 type veth peer name off1");
    lab.near("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1");
    lab.run(|network, _| async move {
        let [v4, v6] = vips();
        for (vip, interface, words) in [
            (
                v4,
                "eth7",
                "there is no interface eth7; `ip link` lists those that exist",
            ),
            (v4, "lb0", "interface lb0 is down"),
            (v6, "off0", "interface off0 is down"),
            (v6, "lo", "IPv6 is disabled on lo"),
        ] {
            let error = network.add_vip(vip, interface).await.unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
        // Nobody to ask on loopback.
        assert_eq!(network.add_vip(v4, "lo").await.unwrap(), VipOutcome::Added);
    });
}

#[test]
fn the_interface_of_the_vips_subnet_is_picked() {
    let lab = Lab::new();
    lab.near("ip link add b0 type veth peer name b1; ip link set b0 up; ip addr add 10.5.0.2/24 dev b0");
    lab.run(|network, _| async move {
        let addresses = network.addresses().await.unwrap();
        let candidates: Vec<_> = ["lb0", "b0"].iter().map(|n| network.interface(n).unwrap()).collect();
        for (vip, name) in [
            ("10.5.0.100", "b0"),
            ("10.0.0.100", "lb0"),
            ("192.0.2.1", "lb0"),
            ("2001:db8::5", "lb0"),
        ] {
            let picked = pick_vip_interface(vip.parse().unwrap(), &candidates, &addresses);
            assert_eq!(picked.map(|i| i.name.as_str()), Some(name), "{vip}");
        }
        assert_eq!(pick_vip_interface("10.0.0.9".parse().unwrap(), &[], &addresses), None);
    });
}
