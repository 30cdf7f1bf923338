//! A packet path that is there already: what a new daemon finds, and what it refuses.

use std::fs;

use lb_common::abi::ABI_VERSION;
use lb_userspace::{
    datapath::{Datapath as _, DatapathError, loader::Features},
    model::{Limits, XdpMode},
};

use crate::{
    case::is_guest,
    frames::{ACK, SYN},
    lab::{self, BACKEND_IF, CLIENT_IF, Case, FEATURES, LIMITS, Lab, OTHER_IF, Setup, Verdict, run},
};

#[test]
fn what_was_written_is_found_and_flows_go_on() {
    let mut lab = Lab::new();
    let services: Vec<_> = Case::two_arms()
        .into_iter()
        .map(|case| lab.serve(case, &Setup::default()))
        .collect();
    let flows: Vec<_> = services
        .iter()
        .map(|service| lab.forward(service, &service.request(4000)))
        .collect();
    lab.run(&services[0].request(4000).with(|p| p.ttl = 1));
    let (contents, reasons) = (lab.datapath.contents().unwrap(), lab.datapath.reasons().unwrap());
    assert_eq!(contents.services.len(), services.len());
    assert_eq!(contents.backends.len(), services.len() * 2);

    // The first daemon is gone: its handles are closed, its pins stay.
    let next = lab::open(&lab.bpffs, LIMITS).unwrap();
    drop(std::mem::replace(&mut lab.datapath, next));
    assert_eq!(lab.datapath.contents().unwrap(), contents);
    assert_eq!(lab.datapath.reasons().unwrap(), reasons);
    for interface in [CLIENT_IF, OTHER_IF, BACKEND_IF] {
        let attachment = lab.datapath.attach(interface, XdpMode::Native).unwrap();
        assert!(attachment.native, "{interface} is adopted as it was");
    }
    for (service, flow) in services.iter().zip(&flows) {
        assert_eq!(lab.counters(flow.0).opened, 1);
        assert_eq!(lab.forward(service, &service.request(4000)), *flow);
        lab.answer(service, &service.request(4000), *flow, SYN | ACK);
        assert_ne!(
            lab.forward(service, &service.request(4001)).0,
            flow.0,
            "the schedule goes on where it was"
        );
    }
}

#[test]
fn the_old_program_serves_until_the_new_one_is_attached() {
    let mut lab = Lab::new();
    let service = lab.serve(Case::PLAIN, &Setup::default());
    let request = service.request(4000);
    let flow = lab.forward(&service, &request);
    let mut next = lab::open(&lab.bpffs, LIMITS).unwrap();
    assert_eq!(lab.forward(&service, &request.clone().flags(ACK)), flow);
    let ifindex = lab.ifindex(CLIENT_IF);
    let out = run(next.program().unwrap(), ifindex, &[], &request.bytes());
    assert_eq!(out.verdict, Verdict::Redirect);
    assert_eq!(service.way_of(&out.frame).0, flow.0, "both see the same flows");
}

/// Messages take room on the stack of 512 bytes and branches of the verifier.
#[test]
fn the_packet_path_loads_and_works_at_every_log_level() {
    let mut lab = Lab::new();
    let services: Vec<_> = Case::two_arms()
        .into_iter()
        .map(|case| lab.serve(case, &Setup::default()))
        .collect();
    let ifindex = lab.ifindex(CLIENT_IF);
    // Each level has all that the ones before have; a guest takes long to load a packet path.
    let levels: Vec<u8> = if is_guest() { vec![0, 5] } else { (0..=5).collect() };
    for level in levels {
        let features = Features {
            log_level: level,
            ..FEATURES
        };
        let mut logging = lab::open_with(&lab.bpffs, LIMITS, features).unwrap();
        for service in &services {
            let request = service.request(5000 + u16::from(level));
            let out = run(logging.program().unwrap(), ifindex, &[], &request.bytes());
            assert_eq!(out.verdict, Verdict::Redirect, "{:?} at level {level}", service.case);
            lab.forward(service, &request);
            let stray = request.with(|p| p.to.set_port(22)).bytes();
            let out = run(logging.program().unwrap(), ifindex, &[], &stray);
            assert_eq!(
                (out.verdict, out.frame),
                (Verdict::Pass, stray),
                "{:?} at level {level}",
                service.case
            );
        }
    }
}

fn refusal(lab: &Lab, limits: Limits) -> DatapathError {
    match lab::open(&lab.bpffs, limits) {
        Ok(_) => panic!("must be refused"),
        Err(error) => error,
    }
}

#[test]
fn other_map_sizes_are_refused_by_name() {
    let lab = Lab::new();
    let other = |change: fn(&mut Limits)| {
        let mut limits = LIMITS;
        change(&mut limits);
        limits
    };
    for (map, limits) in [
        ("FLOWS_V4", other(|limits| limits.flows_ipv4 *= 2)),
        ("FLOWS_V6", other(|limits| limits.flows_ipv6 /= 2)),
        ("SERVICES_V4", other(|limits| limits.service_ports += 1)),
        ("ROTATIONS", other(|limits| limits.services += 1)),
        ("BACKENDS", other(|limits| limits.backends -= 1)),
    ] {
        let error = refusal(&lab, limits);
        assert!(
            matches!(&error, DatapathError::MapMismatch { map: named, .. } if named == map),
            "{error}"
        );
    }
    assert!(lab::open(&lab.bpffs, LIMITS).is_ok(), "nothing was harmed");
}

#[test]
fn another_abi_version_is_refused() {
    let lab = Lab::new();
    let foreign = lab.bpffs.join("lb/packet").join(format!("v{}", ABI_VERSION + 1));
    fs::create_dir_all(&foreign).unwrap();
    let error = refusal(&lab, LIMITS);
    let DatapathError::AbiMismatch { found, expected, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((found, *expected), (&(ABI_VERSION + 1).to_string(), ABI_VERSION));
    fs::remove_dir_all(&foreign).unwrap();
    assert!(lab::open(&lab.bpffs, LIMITS).is_ok());
}

#[test]
fn a_directory_that_is_no_bpf_file_system_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    match lab::open(directory.path(), LIMITS) {
        Err(DatapathError::NoBpffs(path)) => assert_eq!(path, directory.path()),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("must be refused"),
    }
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing was made there"
    );
}

#[test]
fn destroying_leaves_nothing() {
    let mut lab = Lab::new();
    assert!(lab.pin("FLOWS_V4").exists());
    lab.datapath.destroy().unwrap();
    assert_eq!(fs::read_dir(&lab.bpffs).unwrap().count(), 0);
}
