//! The program that unwraps tunnelled packets on a backend.

use std::net::IpAddr;

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, PerCpuArray},
    programs::Xdp,
};
use etherparse::{IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6Header};
use lb_common::{
    abi::Mode,
    decap::{Counter, Holder, Role},
    net::to_any,
};
use lb_userspace::datapath::{decap::OBJECT, loader};

use crate::{
    frames::Packet,
    lab::{Case, Family, Lab, Outcome, Service, Setup, Verdict, run},
};

const PORT: u16 = 6081;
const HOST4: &str = "10.9.0.1";
const HOST6: &str = "2001:db8:9::1";

fn unwrapper(vips: &[IpAddr]) -> Ebpf {
    let mut ebpf = EbpfLoader::new()
        .override_global("GUE_PORT", &PORT, true)
        .load(OBJECT)
        .unwrap();
    let program: &mut Xdp = ebpf.program_mut("decap").unwrap().try_into().unwrap();
    loader::verify(program).unwrap();
    let mut addresses: HashMap<_, Holder, Role> = ebpf.map_mut("ADDRESSES").unwrap().try_into().unwrap();
    let hosts = [HOST4, HOST6].map(|host| (host.parse::<IpAddr>().unwrap(), Role::HOST));
    for (ip, role) in hosts.into_iter().chain(vips.iter().map(|vip| (*vip, Role::VIP))) {
        let family = if ip.is_ipv4() { 4 } else { 6 };
        addresses
            .insert(
                Holder {
                    address: to_any(ip),
                    family,
                },
                Role(role),
                0,
            )
            .unwrap();
    }
    ebpf
}

fn outcome(ebpf: &Ebpf, lab: &Lab, frame: &[u8]) -> Outcome {
    let program: &Xdp = ebpf.program("decap").unwrap().try_into().unwrap();
    run(program, lab.ifindex(crate::lab::BACKEND_IF), &[], frame)
}

#[track_caller]
fn verdict(ebpf: &Ebpf, lab: &Lab, frame: &[u8]) -> Vec<u8> {
    let out = outcome(ebpf, lab, frame);
    assert_eq!(out.verdict, Verdict::Pass);
    out.frame
}

fn count(ebpf: &Ebpf, counter: Counter) -> u64 {
    let counters: PerCpuArray<_, u64> = ebpf.map("COUNTERS").unwrap().try_into().unwrap();
    counters.get(&(counter as u32), 0).unwrap().iter().sum()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tunnel {
    Ipip,
    Gue,
}

/// A packet in an outer header.
fn wrapped(packet: &Packet, tunnel: Tunnel, to: &str) -> Vec<u8> {
    wrapped_as(packet, tunnel, to, 0)
}

/// The same with this DSCP and ECN outside.
fn wrapped_as(packet: &Packet, tunnel: Tunnel, to: &str, class: u8) -> Vec<u8> {
    let frame = packet.bytes();
    let (ethernet, inner) = frame.split_at(14);
    let (mut payload, protocol) = (Vec::new(), if packet.from.is_ipv4() { 4 } else { 41 });
    let protocol = match tunnel {
        Tunnel::Ipip => IpNumber(protocol),
        Tunnel::Gue => {
            payload.extend(50_000_u16.to_be_bytes());
            payload.extend(PORT.to_be_bytes());
            payload.extend(u16::try_from(inner.len() + 8).unwrap().to_be_bytes());
            payload.extend([0, 0]);
            IpNumber::UDP
        }
    };
    payload.extend(inner);
    let length = u16::try_from(payload.len()).unwrap();
    let mut out = ethernet[..12].to_vec();
    match to.parse().unwrap() {
        IpAddr::V4(to) => {
            out.extend([8, 0]);
            let mut header = Ipv4Header::new(length, 64, protocol, [172, 16, 3, 4], to.octets()).unwrap();
            header.dscp = IpDscp::try_new(class >> 2).unwrap();
            header.ecn = IpEcn::try_new(class & 3).unwrap();
            header.header_checksum = header.calc_header_checksum();
            out.extend(header.to_bytes());
        }
        IpAddr::V6(to) => {
            out.extend([0x86, 0xdd]);
            let header = Ipv6Header {
                traffic_class: class,
                payload_length: length,
                next_header: protocol,
                hop_limit: 64,
                source: [0xfd; 16],
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            out.extend(header.to_bytes());
        }
    }
    out.extend(payload);
    out
}

fn lab() -> (Lab, Vec<Service>, Ebpf) {
    let mut lab = Lab::new();
    let cases = Case::two_arms();
    let services: Vec<_> = cases
        .into_iter()
        .map(|case| lab.serve(case, &Setup::default()))
        .collect();
    let vips: Vec<_> = services.iter().map(|s| s.vip.ip()).collect();
    (lab, services, unwrapper(&vips))
}

#[test]
fn what_is_for_a_vip_comes_out_of_every_tunnel_as_it_went_in() {
    let (lab, services, ebpf) = lab();
    for service in &services {
        let packet = service.request(4000);
        for tunnel in [Tunnel::Ipip, Tunnel::Gue] {
            for to in [HOST4, HOST6] {
                let frame = wrapped(&packet, tunnel, to);
                assert_eq!(verdict(&ebpf, &lab, &frame), packet.bytes(), "{tunnel:?} to {to}");
            }
        }
    }
}

#[test]
fn everything_else_is_left_as_it_came() {
    let (lab, services, ebpf) = lab();
    let same = |what: &str, frame: &[u8]| assert_eq!(verdict(&ebpf, &lab, frame), frame, "{what}");
    for service in &services {
        let packet = service.request(4000);
        same("not wrapped", &packet.bytes());
        for tunnel in [Tunnel::Ipip, Tunnel::Gue] {
            for (host, other) in [(HOST4, "10.9.0.2"), (HOST6, "2001:db8:9::2")] {
                same("to another host", &wrapped(&packet, tunnel, other));
                let mut elsewhere = packet.clone();
                elsewhere.to.set_ip(service.case.ip(77, 1));
                same("for no VIP", &wrapped(&elsewhere, tunnel, host));
                let good = wrapped(&packet, tunnel, host);
                let outer = if host == HOST4 { 20 } else { 40 };
                let udp = if tunnel == Tunnel::Gue { 8 } else { 0 };
                let inner = 14 + outer + udp;
                for cut in [14, 20, 14 + outer, inner, inner + 4, inner + 19] {
                    same("cut short", &good[..cut]);
                }
                let changed = |at: usize, byte: u8| {
                    let mut frame = good.clone();
                    frame[at] = byte;
                    frame
                };
                same("of another IP version inside", &changed(inner, 0x50));
                let length = inner + if service.case.family == Family::V4 { 2 } else { 4 };
                same("longer than the tunnel's packet", &changed(length, 0x7f));
                if host == HOST4 {
                    same("with options outside", &changed(14, 0x46));
                    same("a fragment", &changed(20, 0x20));
                    same("another protocol", &changed(23, 47));
                } else {
                    same("another protocol", &changed(20, 47));
                }
                if tunnel == Tunnel::Gue {
                    same("to another port", &changed(14 + outer + 3, 0));
                }
            }
        }
    }
}

/// Figure 4 of RFC 6040: what comes out, by what is inside and outside. `None`: it is dropped.
const fn mark(inside: u8, outside: u8) -> Option<u8> {
    match (inside, outside) {
        (0, 3) => None,
        (0, _) => Some(0),
        (_, 3) | (3, _) => Some(3),
        (_, 1) => Some(1),
        _ => Some(inside),
    }
}

#[test]
fn marks_of_congestion_come_out_of_every_tunnel() {
    let (lab, services, ebpf) = lab();
    let mut dropped = 0;
    for service in services.iter().filter(|service| service.case.mode == Mode::IPIP) {
        for tunnel in [Tunnel::Ipip, Tunnel::Gue] {
            for to in [HOST4, HOST6] {
                for inside in 0..=255 {
                    // The outer DSCP stays outside, whatever it is.
                    for outside in [0xb8, 0x01, 0xfe, 0x57] {
                        let packet = service
                            .request(4000)
                            .with(|p| (p.tos, p.id) = (inside, u16::from(inside) * 257));
                        let out = outcome(&ebpf, &lab, &wrapped_as(&packet, tunnel, to, outside));
                        let what = format!("{tunnel:?} to {to}, {outside:02x} around {inside:02x}");
                        let Some(ecn) = mark(inside & 3, outside & 3) else {
                            assert_eq!(out.verdict, Verdict::Drop, "{what}");
                            dropped += 1;
                            continue;
                        };
                        assert_eq!(out.verdict, Verdict::Pass, "{what}");
                        let expected = packet.with(|p| p.tos = inside & !3 | ecn);
                        assert_eq!(out.frame, expected.bytes(), "{what}");
                    }
                }
            }
        }
    }
    assert!(dropped > 0);
    assert_eq!(count(&ebpf, Counter::Congested), dropped);
}

/// Whose tunnel it is comes first: others' packets are not dropped either.
#[test]
fn a_marked_packet_for_no_vip_is_left_as_it_came() {
    let (lab, services, ebpf) = lab();
    for service in &services {
        let mut packet = service.request(4000);
        packet.to.set_ip(service.case.ip(77, 1));
        for (tunnel, host) in [(Tunnel::Ipip, HOST4), (Tunnel::Gue, HOST6)] {
            let frame = wrapped_as(&packet, tunnel, host, 3);
            assert_eq!(verdict(&ebpf, &lab, &frame), frame);
        }
    }
    assert_eq!(count(&ebpf, Counter::Congested), 0);
}
