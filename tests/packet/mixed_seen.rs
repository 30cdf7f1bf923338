//! What is not used costs nothing: until the first flow between families, nobody looks for one.

use std::fs;

use aya::maps::{Array, Map, MapData};
use lb_userspace::datapath::Datapath as _;

use crate::{
    frames::{ACK, SYN},
    lab::{self, Case, LIMITS, Lab, Setup},
    mixed::{answer, forward, serve},
};

fn seen(lab: &Lab) -> bool {
    let map = Map::Array(MapData::from_pin(lab.pin("MIXED_SEEN")).unwrap());
    Array::<_, u64>::try_from(map).unwrap().get(&0, 0).unwrap() != 0
}

/// A service that runs, and one beside it whose flows go from family to family.
#[test]
fn the_first_flow_between_families_says_so_and_it_stays_said() {
    let mut lab = Lab::new();
    let plain = lab.serve(Case::PLAIN, &Setup::default());
    let flow = lab.forward(&plain, &plain.request(4000));
    let mixed = serve(&mut lab, Case::PLAIN, &Setup::default());
    assert!(
        !seen(&lab),
        "neither a flow within a family nor a backend of another one"
    );
    let request = mixed.request(4000);
    let between = forward(&mut lab, &mixed, &request);
    assert!(seen(&lab));
    lab.establish(&plain, &plain.request(4000), flow);
    answer(&mut lab, &mixed, &request, between, SYN | ACK);
    lab.datapath.remove_service(mixed.id()).unwrap();
    let next = lab::open(&lab.bpffs, LIMITS).unwrap();
    drop(std::mem::replace(&mut lab.datapath, next));
    assert!(seen(&lab), "flows outlive their service and the daemon");
    assert_eq!(forward(&mut lab, &mixed, &request.flags(ACK)), between);
}

/// A packet path of before may have made such flows, and makes more until the new one takes its place.
#[test]
fn of_a_packet_path_that_did_not_say_the_worst_is_taken() {
    let mut lab = Lab::new();
    let mixed = serve(&mut lab, Case::PLAIN, &Setup::default());
    let request = mixed.request(4000);
    let flow = forward(&mut lab, &mixed, &request);
    fs::remove_file(lab.pin("MIXED_SEEN")).unwrap();
    let next = lab::open(&lab.bpffs, LIMITS).unwrap();
    drop(std::mem::replace(&mut lab.datapath, next));
    assert!(seen(&lab));
    assert_eq!(forward(&mut lab, &mixed, &request), flow);
    answer(&mut lab, &mixed, &request, flow, SYN | ACK);
}

#[test]
fn a_new_packet_path_has_seen_none() {
    let mut lab = Lab::new();
    assert!(!seen(&lab));
    let next = lab::open(&lab.bpffs, LIMITS).unwrap();
    drop(std::mem::replace(&mut lab.datapath, next));
    assert!(!seen(&lab), "an adopted one neither");
}
