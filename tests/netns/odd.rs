//! What is not a plain packet: errors of routers, fragments, echo requests.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lb_tests::{
    Lab, Topology, client,
    lab::{Family, Host, Side},
};

use crate::{common::fetch_file, mixed};

/// Of the link behind a router. Both ends of a connection believe in 1500.
const NARROW: u32 = 1300;

/// Bytes that are sent up.
const LENGTH: usize = 32 << 20;

fn pattern(at: usize) -> u8 {
    (at.wrapping_mul(0x9e37_79b1) >> 13) as u8
}

/// Takes connections at a server, and answers each with how many bytes of the pattern came in order.
fn sink(host: &Host, connections: usize) -> JoinHandle<()> {
    let listener = host.ns.run(|| TcpListener::bind("[::]:9000")).unwrap();
    host.ns.spawn(move || {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut buffer, mut count) = (vec![0; 1 << 16], 0);
            loop {
                let read = stream.read(&mut buffer).unwrap();
                if read == 0 {
                    break;
                }
                for byte in &buffer[..read] {
                    assert_eq!(*byte, pattern(count), "byte {count}");
                    count += 1;
                }
            }
            stream.write_all(&count.to_be_bytes()).unwrap();
        }
    })
}

/// Sends the pattern to a [`sink`], and asks what came of it.
fn send(to: SocketAddr) -> usize {
    let bytes: Vec<u8> = (0..LENGTH).map(pattern).collect();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
    // A connection that stalls because it does not learn of the MTU would send again for a quarter of an hour.
    stream.set_write_timeout(Some(Duration::from_secs(15))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(&bytes).expect("the transfer goes on");
    stream.shutdown(Shutdown::Write).unwrap();
    let mut count = [0; 8];
    stream.read_exact(&mut count).expect("the server got all");
    usize::from_be_bytes(count)
}

/// Routers on both sides have a narrow link behind them. Their errors are about addresses that the senders of the packets
/// never heard of, if lb does not translate them.
#[test]
fn path_mtu_is_discovered_through_lb() {
    for mode in ["full-nat", "nat"] {
        discover_path_mtu(mode, |family| family, |_| NARROW);
    }
}

/// What fits the narrow link has a header of the other family, which is larger or smaller by 20 bytes.
#[test]
fn path_mtu_is_discovered_between_families() {
    discover_path_mtu("full-nat", mixed::other, |family| match family {
        Family::V4 => NARROW - 20,
        Family::V6 => NARROW + 20,
    });
}

/// With servers of the family that `servers` says for the clients', and where a sender of a family learns the MTU that `learns`
/// says.
fn discover_path_mtu(mode: &str, servers: fn(Family) -> Family, learns: fn(Family) -> u32) {
    let lab = Lab::new(Topology::Routed, 1);
    let nginx = lab.serve_nginx();
    let sink = sink(&lab.servers[0], 2);
    let service = |family: Family, name: &str, port: u16| {
        let service = lb_tests::Service::new(name, lab.vip(family, port), "tcp");
        let service = service.backends(lab.backends(servers(family), port));
        service.health("type = \"none\"").set(&format!("mode = {mode:?}"))
    };
    let config = lab
        .config()
        .service(service(Family::V4, "down4", 80))
        .service(service(Family::V6, "down6", 80))
        .service(service(Family::V4, "up4", 9000))
        .service(service(Family::V6, "up6", 9000));
    let lb = lab.start(&config);
    lab.narrow(Side::Servers, NARROW);
    for family in Family::ALL {
        let began = Instant::now();
        let count = lab.client.ns.run(|| send(lab.vip(family, 9000)));
        assert_eq!(count, LENGTH, "{mode} {family:?}");
        println!("{mode}, {family:?}: up in {:?}", began.elapsed());
        let learned = route(&lab.client, lab.vip(family, 9000));
        assert!(
            learned.contains(&format!("mtu {}", learns(family))),
            "the client learned: {learned}"
        );
    }
    lab.narrow(Side::Servers, 1500);
    lab.narrow(Side::Clients, NARROW);
    // What it learned, the client would tell in its SYN.
    lab.client.ns.sh("ip route flush cache; ip -6 route flush cache");
    for family in Family::ALL {
        let began = Instant::now();
        fetch_file(&lab, &nginx[0], lab.vip(family, 80), 32);
        println!("{mode}, {family:?}: down in {:?}", began.elapsed());
        // In `nat` mode the backend knows the client by its own address.
        let peer = if mode == "nat" {
            lab.client.address(family, 0)
        } else {
            SocketAddr::new(lab.source(servers(family)), 0)
        };
        let learned = route(&lab.servers[0], peer);
        assert!(
            learned.contains(&format!("mtu {}", learns(servers(family)))),
            "the server learned: {learned}"
        );
    }
    assert_eq!(lb.reason("icmp-no-flow"), 0);
    sink.join().unwrap();
}

/// What a host knows of the way to an address.
fn route(host: &Host, to: SocketAddr) -> String {
    host.ns.sh(&format!("ip route get {}", to.ip()))
}

/// lb itself stands before the narrow link: packets do not fit its own interface.
#[test]
fn senders_are_told_what_fits_lbs_own_interface() {
    for mode in ["full-nat", "nat"] {
        let lab = Lab::new(Topology::TwoArm, 1);
        let sink = sink(&lab.servers[0], 2);
        lab.lb.ns.sh("ip link set servers0 mtu 1400");
        let service = |family: Family, name: &str| {
            let service = lb_tests::Service::new(name, lab.vip(family, 9000), "tcp");
            let service = service.backends(lab.backends(family, 9000)).health("type = \"none\"");
            service.set(&format!("mode = {mode:?}"))
        };
        let config = lab
            .config()
            .service(service(Family::V4, "up4"))
            .service(service(Family::V6, "up6"));
        let lb = lab.start(&config);
        for family in Family::ALL {
            let before = lb.reason("exceeds-mtu");
            let count = lab.client.ns.run(|| send(lab.vip(family, 9000)));
            assert_eq!(count, LENGTH, "{mode} {family:?}");
            assert!(lb.reason("exceeds-mtu") > before);
        }
        sink.join().unwrap();
    }
}

#[test]
fn long_datagrams_go_through_in_fragments() {
    for mode in ["full-nat", "nat"] {
        let lab = Lab::new(Topology::TwoArm, 2);
        let _echo = lab.serve_echo();
        let config = lab
            .config()
            .service(lab.echo(Family::V4).set(&format!("mode = {mode:?}")))
            .service(lab.echo(Family::V6).named("echo6").set(&format!("mode = {mode:?}")));
        let lb = lab.start(&config);
        for family in Family::ALL {
            lab.client.ns.run(|| {
                let flow = client::Datagrams::to(lab.vip(family, 7));
                // `echo` compares what comes back.
                let (server, _) = flow.echo(&[1; 5000]).unwrap();
                for size in [1473, 2000, 20_000, 60_000] {
                    let payload: Vec<u8> = (0..size).map(pattern).collect();
                    assert_eq!(flow.echo(&payload).unwrap().0, server, "{mode} {family:?} {size}");
                }
            });
        }
        for reason in ["fragment-before-first", "fragment-overlap", "later-fragment"] {
            assert_eq!(lb.reason(reason), 0, "{reason}");
        }
    }
}

#[test]
fn echo_requests_to_vips_are_answered_whoever_has_them() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let _http = lab.serve_http();
    for family in Family::ALL {
        let vip = lab.vip(family, 80);
        let gateway = lab.lb.address(family, 0).ip();
        let ping = |ip| {
            lab.client
                .ns
                .try_sh(&format!("ping -c 3 -i 0.1 -W 1 {ip}"))
                .status
                .success()
        };
        // Nobody on the link has the address: it is routed to lb.
        let length = if family == Family::V4 { 32 } else { 128 };
        lab.client
            .ns
            .sh(&format!("ip route add {}/{length} via {gateway}", vip.ip()));
        assert!(!ping(vip.ip()));
        let manual = lab.web(family).set("vip-address = \"manual\"");
        let lb = lab.start(&lab.config().service(manual));
        assert!(ping(vip.ip()), "{family:?}: by the packet path");
        lb.detach();
        assert!(!ping(vip.ip()));
        let lb = lab.start(&lab.config().service(lab.web(family)));
        assert!(ping(vip.ip()), "{family:?}: by the kernel");
        lb.detach();
    }
}
