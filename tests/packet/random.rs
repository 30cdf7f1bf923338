//! Random and mutated frames: whatever comes, the verdict is sound and what passes is as it came.

use std::cell::RefCell;

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::{
    frames::{ACK, ETHERNET, FIN, RST, SYN},
    lab::{BACKEND_IF, CLIENT_IF, Case, Lab, Setup, Verdict, run},
};

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    })
}

/// The lengths that a forwarded frame may have: with a tunnel's headers or without.
fn wrapped(length: usize) -> [usize; 5] {
    [0, 20, 28, 40, 48].map(|overhead| length + overhead)
}

/// What holds of any frame on any side.
fn check(lab: &RefCell<Lab>, interface: &str, metadata: &[u8], frame: &[u8]) -> Result<Verdict, TestCaseError> {
    let mut lab = lab.borrow_mut();
    let ifindex = lab.ifindex(interface);
    let out = run(lab.program(), ifindex, metadata, frame);
    match out.verdict {
        Verdict::Aborted => return Err(TestCaseError::fail("aborted")),
        Verdict::Pass => prop_assert_eq!(&out.frame, frame),
        Verdict::Redirect => prop_assert!(wrapped(frame.len()).contains(&out.frame.len())),
        // Forwarded, or an answer with RST.
        Verdict::Tx => {
            prop_assert!([54, 74].contains(&out.frame.len()) || wrapped(frame.len()).contains(&out.frame.len()))
        }
        Verdict::Drop => {}
    }
    Ok(out.verdict)
}

/// Services of all cases, and frames of every kind that they meet: opening, going on, answered.
fn frames(lab: &mut Lab) -> Vec<(&'static str, Vec<u8>)> {
    let mut frames = Vec::new();
    for case in Case::two_arms() {
        let setup = Setup {
            source_ports: 10_000,
            ..Setup::default()
        };
        let service = lab.serve(case, &setup);
        let request = service.request(4000);
        let (server, source) = lab.forward(&service, &request);
        frames.push((CLIENT_IF, request.bytes()));
        frames.push((CLIENT_IF, service.request(4001).bytes()));
        let reply = service.reply(&service.forwarded(&request, server, source), SYN | ACK);
        frames.push((BACKEND_IF, reply.bytes()));
        if case.protocol == lb_userspace::model::Protocol::Tcp {
            for flags in [ACK, FIN | ACK, RST] {
                frames.push((CLIENT_IF, request.clone().flags(flags).bytes()));
                frames.push((CLIENT_IF, service.request(4002).flags(flags).bytes()));
            }
        }
    }
    frames
}

#[test]
fn random_bytes_pass() {
    let lab = RefCell::new(Lab::new());
    frames(&mut lab.borrow_mut());
    let ethertype = prop_oneof![Just([0x08, 0x00]), Just([0x86, 0xdd]), any::<[u8; 2]>()];
    let strategy = (
        ethertype,
        proptest::collection::vec(any::<u8>(), ETHERNET..200),
        prop_oneof![Just(0usize), Just(4), Just(32)],
    );
    runner(15_000)
        .run(&strategy, |(ethertype, mut frame, metadata)| {
            frame[12..14].copy_from_slice(&ethertype);
            let verdict = check(&lab, CLIENT_IF, &vec![0xff; metadata], &frame)?;
            prop_assert_eq!(verdict, Verdict::Pass);
            Ok(())
        })
        .unwrap();
}

#[test]
fn mutated_packets_never_confuse() {
    let lab = RefCell::new(Lab::new());
    let frames = frames(&mut lab.borrow_mut());
    let value = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x45), Just(0x4f)];
    // Mostly in the headers, where it matters.
    let change = (prop_oneof![0usize..120, 12usize..60], value);
    let strategy = (
        proptest::sample::select(frames),
        proptest::collection::vec(change, 1..6),
        prop_oneof![3 => Just(None), 1 => (ETHERNET..200).prop_map(Some)],
        prop_oneof![Just(CLIENT_IF), Just(BACKEND_IF), Just("as it should")],
    );
    runner(15_000)
        .run(&strategy, |((interface, mut frame), changes, length, other)| {
            for (at, value) in changes {
                let last = frame.len() - 1;
                frame[at.min(last)] = value;
            }
            if let Some(length) = length {
                frame.resize(length, 0xa5);
            }
            let interface = if other == "as it should" { interface } else { other };
            check(&lab, interface, &[], &frame).map(drop)
        })
        .unwrap();
}
