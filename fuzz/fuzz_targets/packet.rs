//! Packet logic that the packet path and user space share.
#![no_main]

use lb_common::{
    abi::FlowKey,
    flow::{Direction, Phase, TcpFlags},
    net::{Addr6, Be16, TCP},
    reset::{self, Segment},
    rewrite::Rewrite,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: ([[u8; 16]; 4], [u16; 4], u8, u8, [u32; 3])| {
    let (addresses, ports, phase, flags, [seq, ack, payload]) = input;
    let [client, vip, source, backend] = addresses.map(Addr6::from_wire);
    let [client_port, vip_port, source_port, backend_port] = ports.map(Be16::new);
    let key = FlowKey::new((client, client_port), (vip, vip_port), TCP);
    let there = Rewrite::new(&key, (source, source_port), (backend, backend_port));
    let back = there.reply(&key);
    assert!(back.leads_to(&key) && there.leads_to(&there.reply_key(TCP)));
    let flags = TcpFlags(flags);
    for direction in [Direction::TO_BACKEND, Direction::TO_CLIENT] {
        let next = Phase(phase).after(direction, flags);
        assert!(Phase(phase).as_str() == "unknown" || next.as_str() != "unknown");
    }
    let segment = Segment {
        seq,
        ack,
        flags,
        payload,
    };
    let rst = reset::answer(segment, (vip, vip_port), (client, client_port));
    assert_eq!(rst.flags & TcpFlags::RST, TcpFlags::RST);
});
