//! Configurations that are sound, on hosts that do not fit them.

use std::{fs, os::unix::fs::PermissionsExt, os::unix::net::UnixListener};

use lb_common::abi::ABI_VERSION;
use lb_tests::{Balancer, Config, Lab, Outcome, Topology, balancer::program, client, lab::Family};

use crate::refusal::{assert_refusal, refused, traces};

fn config(lab: &Lab) -> Config {
    lab.config().service(lab.web(Family::V4))
}

#[test]
fn a_missing_interface_is_named() {
    let lab = Lab::new(Topology::OneArm, 1);
    let outcome = refused(
        &lab,
        &config(&lab).interfaces(&["eth0", "eth7"]).toml(),
        3,
        &["eth7", "ip link"],
    );
    assert!(!outcome.stderr.contains("`eth0`"), "{}", outcome.stderr);
}

#[test]
fn a_vip_of_another_host_is_refused() {
    let lab = Lab::new(Topology::TwoArm, 1);
    for family in Family::ALL {
        let ip = lab.vip(family, 80).ip();
        let (mask, nodad) = if ip.is_ipv4() { (24, "") } else { (64, "nodad") };
        lab.client.ns.sh(&format!("ip addr add {ip}/{mask} dev eth0 {nodad}"));
        let toml = lab.config().service(lab.web(family)).toml();
        refused(&lab, &toml, 4, &[&ip.to_string(), "client0"]);
        lab.client.ns.sh(&format!("ip addr del {ip}/{mask} dev eth0"));
    }
}

#[test]
fn a_second_daemon_names_the_first() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let lb = lab.start(&config(&lab));
    let pid = lb.pid().to_string();
    refused(&lab, &config(&lab).toml(), 4, &[&pid, &lab.instance]);
    lab.client.ns.run(|| client::who(lab.vip(Family::V4, 80))).unwrap();
    assert_eq!(lb.status().pid.to_string(), pid);
}

#[test]
fn a_stale_socket_is_replaced() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    // Bound by a process that has ended since.
    drop(UnixListener::bind(lab.socket()).unwrap());
    assert!(lab.socket().exists());
    let lb = lab.start(&config(&lab));
    let mode = fs::metadata(lab.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "only root may use the socket: {mode:o}");
    drop(lb);
}

#[test]
fn a_socket_held_by_another_process_is_refused() {
    let lab = Lab::new(Topology::OneArm, 1);
    let held = UnixListener::bind(lab.socket()).unwrap();
    refused(&lab, &config(&lab).toml(), 4, &["lb.sock"]);
    drop(held);
}

#[test]
fn a_file_in_the_sockets_place_is_not_removed() {
    let lab = Lab::new(Topology::OneArm, 1);
    fs::write(lab.socket(), "precious").unwrap();
    let outcome = lab.run_refused(&config(&lab).toml());
    assert_ne!(outcome.code, 0);
    assert!(outcome.stderr.contains("lb.sock"), "{outcome:?}");
    assert_eq!(fs::read_to_string(lab.socket()).unwrap(), "precious");
}

#[test]
fn a_bpffs_that_is_not_mounted_is_named() {
    let lab = Lab::new(Topology::OneArm, 1);
    let directory = lab.path("bpf");
    fs::create_dir(&directory).unwrap();
    let shown = directory.to_str().unwrap();
    let toml = config(&lab).top(&format!("bpffs = {shown:?}")).toml();
    refused(&lab, &toml, 1, &[shown, "mount -t bpf"]);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn missing_capabilities_are_named() {
    let lab = Lab::new(Topology::OneArm, 1);
    let path = lab.write(&config(&lab).toml());
    let before = traces(&lab);
    let mut powerless = lab.lb.ns.command("setpriv");
    powerless.args(["--bounding-set", "-all", "--inh-caps", "-all", "timeout", "10"]);
    powerless.arg(program()).args(["run", "--config"]).arg(path);
    let outcome = Outcome::of(&mut powerless);
    assert_refusal(&outcome, 1, &["CAP_BPF", "CAP_NET_ADMIN"]);
    assert_eq!(traces(&lab), before);
}

#[test]
fn pins_of_another_layout_are_refused() {
    let lab = Lab::new(Topology::OneArm, 1);
    fs::create_dir_all(lab.pins().join("v999")).unwrap();
    refused(
        &lab,
        &config(&lab).toml(),
        4,
        &["999", &ABI_VERSION.to_string(), "lb detach"],
    );
}

#[test]
fn another_map_size_is_refused_while_the_old_one_serves() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let mut lb = lab.start(&config(&lab));
    assert!(lb.terminate().success());
    let larger = config(&lab).toml().replace("flows-ipv4 = 65536", "flows-ipv4 = 131072");
    refused(&lab, &larger, 4, &["lb detach"]);
    lab.client.ns.run(|| client::who(lab.vip(Family::V4, 80))).unwrap();
}

#[test]
fn a_foreign_xdp_program_is_left_in_place() {
    let lab = Lab::new(Topology::OneArm, 1);
    let _http = lab.serve_http();
    let first = lab.start(&config(&lab));
    // The same interface, wanted by another instance.
    let other = format!("{}-b", lab.instance);
    let toml = config(&lab)
        .toml()
        .replace(
            &format!("instance = {:?}", lab.instance),
            &format!("instance = {other:?}"),
        )
        .replace("lb.sock", "other.sock");
    refused(&lab, &toml, 4, &["eth0", "XDP"]);
    lab.client.ns.run(|| client::who(lab.vip(Family::V4, 80))).unwrap();
    assert!(!lab.pins().with_file_name(other).exists());
    drop(first);
}

#[test]
fn a_failed_start_undoes_what_it_did() {
    let lab = Lab::new(Topology::TwoArm, 1);
    // The first interface could be attached, the second cannot.
    let toml = config(&lab).interfaces(&["client0", "servers9"]).toml();
    refused(&lab, &toml, 3, &["servers9"]);
    drop(Balancer::start(&lab, &config(&lab)));
}
