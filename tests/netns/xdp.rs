//! How the packet path is attached, and what it says.

use std::time::Duration;

use lb_tests::{Balancer, Lab, Topology, client, eventually, lab::Family};

use crate::common::{even, fetch_file};

#[test]
fn the_generic_path_serves_when_asked_for() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let generic = lab
        .interfaces()
        .iter()
        .map(|name| format!("[[interface]]\nname = {name:?}\nxdp = \"generic\"\n"))
        .collect::<String>();
    let config = lab
        .config()
        .interfaces(&[])
        .service(lab.web(Family::V4))
        .service(lab.web(Family::V6).named("web6"))
        .tail(&generic);
    let lb = lab.start(&config);
    for interface in lb.status().interfaces {
        assert_eq!(
            (interface.xdp.as_str(), interface.note),
            ("generic", None),
            "{}",
            interface.name
        );
    }
    for family in Family::ALL {
        let shares = lab.client.ns.run(|| client::shares(lab.vip(family, 80), 20));
        assert_eq!(shares, even(&lab, 10));
    }
}

/// A bridge has no native XDP.
#[test]
fn without_native_support_the_generic_path_is_used_aloud() {
    let lab = Lab::new(Topology::OneArm, 1);
    lab.lb.ns.sh("ip link add old0 type bridge && ip link set old0 up");
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config().interfaces(&["eth0", "old0"]).service(lab.web(Family::V4)));
    let status = lb.status();
    let xdp: Vec<_> = status
        .interfaces
        .iter()
        .map(|i| (i.name.as_str(), i.xdp.as_str()))
        .collect();
    assert_eq!(xdp, [("eth0", "native"), ("old0", "generic")]);
    let note = status.interfaces[1].note.clone().unwrap();
    assert!(note.contains("refused native XDP"), "{note}");
    let warned = status
        .warnings
        .iter()
        .any(|w| w.contains("old0") && w.contains("generic"));
    assert!(warned, "{:?}", status.warnings);
    assert!(lb.log().contains("old0"), "{}", lb.log());
}

#[test]
fn native_that_is_demanded_and_not_to_be_had_is_an_error() {
    let lab = Lab::new(Topology::OneArm, 1);
    lab.lb.ns.sh("ip link add old0 type bridge && ip link set old0 up");
    let config = lab.config().tail("[[interface]]\nname = \"old0\"\nxdp = \"native\"\n");
    let outcome = lab.run_refused(&config.toml());
    assert_ne!(outcome.code, 0);
    for part in ["old0", "native", "xdp = \"auto\""] {
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
}

#[test]
fn the_packet_path_tells_of_new_flows_when_asked() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let config = lab.config().service(lab.web(Family::V4));
    let lb = Balancer::start_with(&lab, &config, &["--datapath-log", "info"]);
    lb.wait_ready();
    assert!(!lb.log().contains("opened"), "{}", lb.log());
    drop(lab.client.ns.run(|| client::who(lab.vip(Family::V4, 80))).unwrap());
    eventually("a word about the flow", Duration::from_secs(5), || {
        let log = lb.log();
        if log.contains("opened: flow of backend") {
            Ok(())
        } else {
            Err(log)
        }
    });
}

/// Frames beyond a page come in several buffers. A driver takes a program for such an MTU only if it knows of them.
#[test]
fn jumbo_frames_go_through_the_native_path() {
    let lab = Lab::new(Topology::TwoArm, 1);
    lab.set_mtu(9000);
    let nginx = lab.serve_nginx();
    let config = lab.config_for_both();
    let lb = lab.start(&config);
    for interface in lb.status().interfaces {
        assert_eq!(
            (interface.xdp.as_str(), interface.note),
            ("native", None),
            "{}",
            interface.name
        );
    }
    for (family, name) in [(Family::V4, "web"), (Family::V6, "web6")] {
        fetch_file(&lab, &nginx[0], lab.vip(family, 80), 128);
        let traffic = lb.backend(name, "s1").counters;
        let mean = traffic.bytes_out / traffic.packets_out;
        assert!(mean > 8000, "{name}: {mean} bytes in a packet");
    }
}
