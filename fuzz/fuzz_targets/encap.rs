//! Tunnels: what is put around a packet is taken off again by another implementation, and fits.
#![no_main]

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, UdpSlice};
use lb_common::{
    abi::{Backend, Mode},
    encap::{self, Outer},
    net::{Addr4, Addr6, Address as _, Be16},
};
use libfuzzer_sys::fuzz_target;

/// Source and destination; class, spread and family; port, hash and MTU; the packet.
type Input = ([u8; 16], [u8; 16], [u8; 3], u16, u32, u32, Vec<u8>);

fuzz_target!(|input: Input| {
    let (base, to, [class, spread, inner], port, flow, mtu, packet) = input;
    for mode in [Mode::IPIP, Mode::GUE] {
        for family in [4, 6] {
            let backend = Backend {
                mode,
                family,
                mtu,
                ..Backend::default()
            };
            let most = encap::inner_mtu(&backend);
            let overhead = encap::overhead(mode, family);
            assert!(most == 0 || most + overhead <= mtu.min(u32::from(u16::MAX)));
            if packet.len() as u32 <= most {
                let around = Around {
                    mode,
                    sources: 1 << (spread % 17),
                    inner: if inner % 2 == 0 { 4 } else { 6 },
                    class,
                    port,
                    flow,
                };
                let wrapped = if family == 4 {
                    around.ipv4(base, to, &packet)
                } else {
                    around.ipv6(base, to, &packet)
                };
                assert_eq!(wrapped, packet.len() + overhead as usize);
            }
        }
    }
});

struct Around {
    mode: Mode,
    sources: u32,
    inner: u8,
    class: u8,
    port: u16,
    flow: u32,
}

impl Around {
    /// Wraps and unwraps; returns how many bytes were on the wire.
    fn ipv4(&self, base: [u8; 16], to: [u8; 16], packet: &[u8]) -> usize {
        // A prefix, as the configuration asks for it.
        let base = u32::from_be_bytes([base[0], base[1], base[2], base[3]]) & !(self.sources - 1);
        let to = [to[0], to[1], to[2], to[3]];
        let base_address = Addr4::from_wire(base.to_be_bytes()).to_any();
        let src = encap::source(base_address, 4, self.sources, self.flow);
        let payload = self.payload(packet);
        let header = encap::ipv4(&self.outer(src, Addr4::from_wire(to).to_any(), payload.len()));
        let bytes = [header.map(u32::to_ne_bytes).concat(), payload].concat();
        let read = Ipv4HeaderSlice::from_slice(&bytes).expect("a header").to_header();
        assert_eq!(read.header_checksum, read.calc_header_checksum());
        assert_eq!(
            (read.destination, read.dont_fragment, read.time_to_live),
            (to, true, 64)
        );
        assert_eq!(
            u32::from_be_bytes(read.source) & !(self.sources - 1),
            base,
            "one of the sources"
        );
        assert_eq!(read.dscp.value() << 2 | read.ecn.value(), self.class);
        assert_eq!(usize::from(read.total_len), bytes.len());
        self.unwrap(read.protocol.0, bytes.get(20..).expect("a payload"), packet);
        bytes.len()
    }

    /// The same over IPv6.
    fn ipv6(&self, base: [u8; 16], to: [u8; 16], packet: &[u8]) -> usize {
        let base = u128::from_be_bytes(base) & !u128::from(self.sources - 1);
        let base_address = Addr6::from_wire(base.to_be_bytes()).to_any();
        let src = encap::source(base_address, 6, self.sources, self.flow);
        let payload = self.payload(packet);
        let header = encap::ipv6(&self.outer(src, Addr6::from_wire(to).to_any(), payload.len()));
        let bytes = [header.map(u32::to_ne_bytes).concat(), payload].concat();
        let read = Ipv6HeaderSlice::from_slice(&bytes).expect("a header").to_header();
        assert_eq!(
            (read.destination, read.hop_limit, read.traffic_class),
            (to, 64, self.class)
        );
        assert_eq!(
            u128::from_be_bytes(read.source) & !u128::from(self.sources - 1),
            base,
            "one of the sources"
        );
        assert_eq!(read.flow_label.value(), self.flow & 0xf_ffff);
        assert_eq!(usize::from(read.payload_length) + 40, bytes.len());
        self.unwrap(read.next_header.0, bytes.get(40..).expect("a payload"), packet);
        bytes.len()
    }

    fn outer(&self, src: [u32; 4], dst: [u32; 4], payload: usize) -> Outer {
        Outer {
            src,
            dst,
            class: self.class,
            protocol: encap::protocol(self.mode, self.inner),
            payload: payload as u32,
            flow: self.flow,
        }
    }

    /// What follows the outer IP header.
    fn payload(&self, packet: &[u8]) -> Vec<u8> {
        if self.mode != Mode::GUE {
            return packet.to_vec();
        }
        let udp = encap::udp(Be16::new(self.port), self.flow, packet.len() as u32 + 8);
        [udp.map(u32::to_ne_bytes).concat(), packet.to_vec()].concat()
    }

    fn unwrap(&self, protocol: u8, payload: &[u8], packet: &[u8]) {
        if self.mode == Mode::GUE {
            let udp = UdpSlice::from_slice(payload).expect("a datagram");
            assert_eq!((protocol, udp.destination_port(), udp.checksum()), (17, self.port, 0));
            assert!(udp.source_port() >= 49_152);
            assert_eq!(udp.payload(), packet);
        } else {
            assert_eq!(protocol, if self.inner == 4 { 4 } else { 41 });
            assert_eq!(payload, packet);
        }
    }
}
