//! Running the program on a frame.

use aya::programs::{TestRun as _, TestRunOptions, Xdp};

use crate::frames::Packet;

/// What came of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
}

/// A verdict, and the frame as the packet path left it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) frame: Vec<u8>,
}

/// Runs the program on one frame as if it came in by an interface, with `metadata` before it.
pub(crate) fn run(program: &Xdp, ifindex: u32, metadata: &[u8], frame: &[u8]) -> Outcome {
    run_over(program, ifindex, metadata, frame, 1)
}

/// As [`run`], so many times on the same frame, as each time leaves it.
pub(crate) fn run_over(program: &Xdp, ifindex: u32, metadata: &[u8], frame: &[u8], repeat: u32) -> Outcome {
    let data = [metadata, frame].concat();
    let (start, end) = (
        u32::try_from(metadata.len()).unwrap(),
        u32::try_from(data.len()).unwrap(),
    );
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context: Vec<u8> = [start, end, 0, ifindex, 0, 0]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    // Tunnels make it longer, each time.
    let mut out = vec![0; data.len() + 512];
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(&data),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        })
        .unwrap();
    out.truncate(result.data_size_out as usize);
    assert_eq!(&out[..metadata.len()], metadata, "metadata are not ours");
    Outcome {
        verdict: match result.return_value {
            0 => Verdict::Aborted,
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Tx,
            4 => Verdict::Redirect,
            other => panic!("no XDP action: {other}"),
        },
        frame: out.split_off(metadata.len()),
    }
}

/// Compares a frame with an expected packet, and shows both by their fields where they differ.
#[track_caller]
pub(crate) fn assert_same(frame: &[u8], expected: &Packet) {
    let bytes = expected.bytes();
    if frame != bytes {
        let at = frame.iter().zip(&bytes).position(|(a, b)| a != b);
        panic!(
            "frames differ from byte {at:?} on\nexpected {expected:?}\n     got {:?}\nexpected {bytes:02x?}\n     got {frame:02x?}",
            etherparse::PacketHeaders::from_ethernet_slice(frame)
        );
    }
}
