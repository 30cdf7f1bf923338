//! What the verifier has to do with the programs, which is what loading them takes, and how far it is from giving up.

use aya::{EbpfLoader, programs::Xdp};
use lb_common::abi::STAGES;
use lb_userspace::datapath::loader;

/// Instructions that the verifier goes through for all programs, with every feature on: some 710,000 in Linux 6.1.
const ALL: u32 = 850_000;
/// For one of them. It gives up at a million, and some kernels go through twice as many as others.
const ONE: u32 = 120_000;

#[test]
fn the_programs_are_far_from_the_verifiers_limit() {
    for (vlans, credit) in [(0, 0), (1, 1)] {
        let counts = verified(vlans, credit);
        let sum: u32 = counts.iter().map(|(_, count)| count).sum();
        println!("{sum}: {counts:?}");
        assert!(sum <= ALL, "{sum}: {counts:?}");
        assert!(counts.iter().all(|(_, count)| *count <= ONE), "{counts:?}");
    }
}

fn verified(vlans: u8, new_flow_credit: u32) -> Vec<(&'static str, u32)> {
    let mut ebpf = EbpfLoader::new()
        .override_global("VLANS", &vlans, true)
        .override_global("NEW_FLOW_CREDIT", &new_flow_credit, true)
        .override_global("SMALLEST_MTU", &1400_u32, true)
        .load(loader::OBJECT)
        .unwrap();
    loader::link(&mut ebpf).unwrap();
    ["lb"]
        .into_iter()
        .chain(STAGES)
        .map(|name| {
            let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
            (name, program.info().unwrap().verified_instruction_count().unwrap())
        })
        .collect()
}
