//! The packet path beside a plain model of it: a million random packets, each with the verdict and the bytes that the
//! model says.
//!
//! [`rules`] is the model: what the packet path does, written a second time, from the documentation, with maps of the
//! standard library and without a thought for speed. It looks at a packet by [`read`] and [`tags`], at a flow by [`phase`],
//! and says its [`fate`], with the bytes that [`rewrite`] and [`answer`] make. [`dice`] makes packets of random numbers, so that
//! a difference shrinks to few packets of few peculiarities. [`wire`] reads and writes headers, byte by byte.

mod answer;
mod dice;
mod fate;
mod phase;
mod read;
mod rewrite;
mod rules;
mod tags;
mod wire;

use std::{cell::RefCell, collections::BTreeMap, env};

use aya::maps::{Array, Map, MapData};
use lb_common::{
    abi::{Cursor, Mode},
    reason::{DropReason, PassReason},
};
use lb_userspace::datapath::Datapath as _;
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestError, TestRunner},
};

use self::{
    dice::{Dice, THROW},
    fate::{Expected, Left},
    rules::Model,
};
use crate::{
    lab::{Case, Lab, Service, Setup, Verdict, run},
    mixed, vlan,
};

/// Packets in a sequence at most; 64 on the average.
const LONGEST: usize = 127;

/// What random packets are sure to meet.
const FATES: &[&str] = &[
    "sent back by full-nat",
    "sent across by full-nat",
    "sent back by nat",
    "sent across by nat",
    "sent back by l2-dsr",
    "sent across by l2-dsr",
    "sent back by ipip",
    "sent across by ipip",
    "sent back by gue",
    "sent across by gue",
    "no-flow",
    "no-flow and told so",
    "bad-tcp-flags",
    "fragment-before-first",
    "exceeds-mtu and told so",
    "udp-checksum-missing",
    "not-ip",
    "not-tcp-or-udp",
    "malformed",
    "later-fragment",
    "ipv6-extension",
    "not-a-service",
    "ttl-expired",
    "vlan-tagged",
    "fragment-mixed",
];

/// How many packets are compared. Fewer where a guest's emulated CPU takes long for each.
fn packets() -> usize {
    match env::var("LB_TEST_PACKETS") {
        Ok(number) => number.parse().expect("LB_TEST_PACKETS is a number"),
        Err(_) => 1_000_000,
    }
}

/// Services in every mode, over which sequences are run.
fn services(lab: &mut Lab) -> Vec<Service> {
    let setup = |backends| Setup {
        backends,
        source_ports: 30_000,
        ..Setup::default()
    };
    let one_family = Case::all().into_iter().map(|case| (case, usize::MAX));
    // Pools that are all of the other family, and pools of both.
    let full_nat = || Case::all().into_iter().filter(|case| case.mode == Mode::FULL_NAT);
    let mixed = full_nat().map(|case| (case, 0)).chain(full_nat().map(|case| (case, 1)));
    let cases: Vec<_> = one_family.chain(mixed).zip([1, 2, 3].into_iter().cycle()).collect();
    let services: Vec<Service> = cases
        .into_iter()
        .map(|((case, first), backends)| mixed::serve_from(lab, case, &setup(backends), first))
        .collect();
    for server in services.iter().flat_map(|service| service.servers.clone()) {
        let vlans = vlan::vlans(&tags::server_vlans(server));
        lab.change(server, |backend| backend.link.vlans = vlans);
    }
    services
}

/// The next ticket of every service.
fn tickets(lab: &Lab, services: &[Service]) -> Vec<u64> {
    let cursors: Array<_, Cursor> =
        Array::try_from(Map::Array(MapData::from_pin(lab.pin("CURSORS")).unwrap())).unwrap();
    let ticket = |service: &Service| cursors.get(&service.index, 0).unwrap().next;
    services.iter().map(ticket).collect()
}

/// Runs a sequence of packets, of clients that were never seen before, through both.
fn compare(
    lab: &mut Lab,
    services: &[Service],
    sequence: u32,
    throws: &[[u8; THROW]],
    met: &mut BTreeMap<String, u64>,
) -> Result<(), TestCaseError> {
    lab.forget_flows();
    let mut model = Model::new(lab, services, &tickets(lab, services));
    let before = lab.datapath.reasons().unwrap();
    let mut expected_reasons = before.clone();
    for throw in throws {
        let (interface, frame) = Dice::new(throw).frame(&model, services, sequence);
        let ifindex = lab.ifindex(interface);
        let out = run(lab.program(), ifindex, &[], &frame);
        let expected = model.packet(ifindex, &frame, &out.frame);
        if let Some(counter) = expected.counter() {
            expected_reasons[counter] += 1;
        }
        *met.entry(name(&expected)).or_default() += 1;
        let context = || format!("{interface} {frame:02x?}\nexpected {expected:?}\n     got {out:?}");
        prop_assert_eq!(out.verdict, expected.verdict(), "{}", context());
        if out.verdict != Verdict::Drop {
            prop_assert!(out.frame == expected.frame, "{}", context());
        }
    }
    let after = lab.datapath.reasons().unwrap();
    prop_assert!(after == expected_reasons, "{}", difference(&after, &expected_reasons));
    Ok(())
}

/// What a packet met, in a word or two.
fn name(expected: &Expected) -> String {
    match expected.left {
        Left::Passed(reason) => reason.as_str().to_owned(),
        Left::Dropped(reason) => reason.as_str().to_owned(),
        Left::Refused(reason) | Left::Told(reason, _) => format!("{} and told so", reason.as_str()),
        Left::Back(mode) => format!("sent back by {}", word(mode)),
        Left::Across(mode) => format!("sent across by {}", word(mode)),
    }
}

/// A mode as the configuration names it.
fn word(mode: Mode) -> &'static str {
    ["full-nat", "nat", "l2-dsr", "ipip", "gue"][usize::from(mode.0)]
}

/// Reasons that were counted otherwise than expected.
fn difference(got: &[u64], expected: &[u64]) -> String {
    let names = PassReason::ALL
        .iter()
        .map(|r| r.as_str())
        .chain(DropReason::ALL.iter().map(|r| r.as_str()));
    let differ = names
        .zip(got.iter().zip(expected))
        .filter(|(_, (got, expected))| got != expected);
    differ
        .map(|(name, (got, expected))| format!("{name}: {got}, expected {expected}\n"))
        .collect()
}

#[test]
fn a_million_random_packets_fare_as_in_the_model() {
    let lab = RefCell::new(Lab::featuring(vlan::ON));
    let services = services(&mut lab.borrow_mut());
    let sequence = RefCell::new(0u32);
    let sequences = packets() / (LONGEST.div_ceil(2));
    let mut runner = TestRunner::new(Config {
        cases: u32::try_from(sequences).unwrap(),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    });
    let throws = proptest::collection::vec(any::<[u8; THROW]>(), 1..=LONGEST);
    let met = RefCell::new(BTreeMap::new());
    let result = runner.run(&throws, |throws| {
        *sequence.borrow_mut() += 1;
        compare(
            &mut lab.borrow_mut(),
            &services,
            *sequence.borrow(),
            &throws,
            &mut met.borrow_mut(),
        )
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, throws)) => panic!("after {} packets: {reason}", throws.len()),
        Err(error) => panic!("{error}"),
    }
    let met = met.into_inner();
    println!("{met:#?}");
    // A few thousand packets may well miss what is rare.
    let fates = if packets() < 500_000 { &[] } else { FATES };
    for fate in fates {
        assert!(
            met.contains_key(*fate),
            "no packet was {fate}: the dice are loaded, {met:?}"
        );
    }
}
