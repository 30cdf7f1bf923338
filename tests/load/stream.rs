//! What the sink says of streams whose faults are known.

use std::{
    io::ErrorKind,
    net::{SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use lb_common::traffic::Stamp;
use lb_tests::{Lab, Topology, lab::Family};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};

use crate::rig::{Sink, figure, settle, traffic};

fn stamp(run: u16, flow: u32, sequence: u32) -> [u8; 18] {
    Stamp {
        run,
        flow,
        sequence,
        time: 0,
    }
    .to_wire()
}

/// Sends a datagram whose checksum is wrong.
fn send_corrupt(to: SocketAddrV4, payload: &[u8]) {
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Udp).unwrap();
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram = Vec::new();
    for field in [5000, to.port(), length, 0xdead] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    let to = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
    sendto(raw.as_raw_fd(), &datagram, &to, MsgFlags::empty()).unwrap();
}

#[test]
fn loss_reordering_duplicates_and_corruption_are_told_apart() {
    let lab = Lab::new(Topology::OneArm, 1);
    let sink = Sink::start(&lab.servers[0], &["--port", "9", "--run", "77"]);
    let to = lab.servers[0].address(Family::V4, 9);
    lab.client.ns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // Flow 0: 2 and 6 are lost, 4 comes behind 5, 7 comes twice. Flow 1: in order.
        for (flow, numbers) in [(0, &[0, 1, 3, 5, 4, 7, 7, 8][..]), (1, &[0, 1, 2])] {
            for number in numbers {
                socket.send_to(&stamp(77, flow, *number), to).unwrap();
            }
        }
        let std::net::SocketAddr::V4(v4) = to else {
            unreachable!()
        };
        send_corrupt(v4, &stamp(77, 1, 3));
    });
    let got = sink.end();
    assert_eq!(figure(&got, "received"), 11, "{got:#}");
    assert_eq!(figure(&got, "flows"), 2);
    assert_eq!(figure(&got, "lost"), 2, "{got:#}");
    assert_eq!(figure(&got, "reordered"), 1, "{got:#}");
    assert_eq!(figure(&got, "duplicates"), 1, "{got:#}");
    assert_eq!(figure(&got, "checksum_faults"), 1, "{got:#}");
}

#[test]
fn a_flow_that_changes_its_server_is_counted() {
    let lab = Lab::new(Topology::OneArm, 1);
    let server = &lab.servers[0];
    server.ns.sh("ip address add 10.80.1.77/24 dev eth0");
    let sink = Sink::start(server, &["--port", "9"]);
    lab.client.ns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for (number, to) in (0..).zip([server.address(Family::V4, 9), "10.80.1.77:9".parse().unwrap()]) {
            for flow in 0..3 {
                socket.send_to(&stamp(5, flow, number), to).unwrap();
            }
            settle();
        }
    });
    let got = sink.end();
    assert_eq!(figure(&got, "flows"), 3);
    assert_eq!(figure(&got, "flows_that_changed_server"), 3, "{got:#}");
    assert_eq!(got["tables"]["packets_by_server"].as_array().unwrap().len(), 2);
}

#[test]
fn other_traffic_passes_the_sink_and_the_generator() {
    let lab = Lab::new(Topology::OneArm, 1);
    let server = &lab.servers[0];
    let sink = Sink::start(server, &["--port", "9", "--run", "77", "--reflect"]);
    let to = server.address(Family::V4, 9);
    let receiver = server.ns.run(|| UdpSocket::bind(to).unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let plain = [b"hello".to_vec(), vec![0; 400], stamp(78, 0, 0).to_vec()];
    let sender = lab.client.ns.run(|| UdpSocket::bind("0.0.0.0:40000").unwrap());
    std::thread::scope(|scope| {
        let generator = scope.spawn(|| {
            traffic(
                &lab.client,
                "udp",
                &to.to_string(),
                &["--run", "77", "--rate", "2k", "--duration", "3s", "--flows", "10"],
            )
        });
        std::thread::sleep(Duration::from_secs(1));
        for payload in &plain {
            sender.send_to(payload, to).unwrap();
            let mut buffer = [0; 512];
            let (length, from) = receiver
                .recv_from(&mut buffer)
                .expect("what is no load reaches the server");
            assert_eq!(&buffer[..length], payload.as_slice());
            receiver.send_to(b"answer", from).unwrap();
            sender.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let (length, _) = sender
                .recv_from(&mut buffer)
                .expect("and the answer reaches the client");
            assert_eq!(&buffer[..length], b"answer");
        }
        let sent = generator.join().unwrap().success().json();
        let got = sink.end();
        assert_eq!(figure(&got, "received"), figure(&sent, "sent"));
        assert_eq!(figure(&sent, "returned"), figure(&sent, "sent"));
    });
    receiver.set_nonblocking(true).unwrap();
    let more = receiver.recv_from(&mut [0; 512]).map_err(|e| e.kind());
    assert_eq!(
        more,
        Err(ErrorKind::WouldBlock),
        "no packet of the run reaches the server"
    );
}

/// So slow that a sender that was held up and catches up does not fill the 256 places of a veth's queue.
#[test]
fn connection_requests_arrive_in_the_number_that_was_asked_for() {
    let lab = Lab::new(Topology::OneArm, 1);
    for family in Family::ALL {
        let to = lab.servers[0].address(family, 80);
        let sink = Sink::start(&lab.servers[0], &["--port", "80"]);
        let sent = traffic(
            &lab.client,
            "syn",
            &to.to_string(),
            &[
                "--flows",
                "70000",
                "--count",
                "301",
                "--rate",
                "500",
                "--cores",
                "0,1",
                "--source",
                "10.80.1.200/28",
            ],
        );
        let sent = if family == Family::V4 {
            sent
        } else {
            assert_eq!(sent.code, 2, "an IPv4 source and an IPv6 target: {sent:?}");
            traffic(
                &lab.client,
                "syn",
                &to.to_string(),
                &["--count", "301", "--rate", "500"],
            )
        };
        assert_eq!(figure(&sent.success().json(), "sent"), 301);
        let got = sink.end();
        assert_eq!(figure(&got, "connection_requests"), 301, "{got:#}");
        assert_eq!(figure(&got, "checksum_faults"), 0, "{got:#}");
    }
}
