//! SYN cookies between kernels: what clients and servers notice of them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    thread,
};

use lb_tests::{
    Balancer, Lab, Topology,
    balancer::program,
    client::{self, Held},
    lab::{Family, Host},
};

use crate::common::{even, fetch_file, reuses_port};

const MODES: [&str; 2] = ["full-nat", "nat"];

/// A server on port 25 that speaks first, and then repeats what it hears; for so many connections.
fn serve_banner(host: &Host, connections: usize) -> thread::JoinHandle<()> {
    let listener = host.ns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 25)).unwrap());
    host.ns.spawn(move || {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"220 welcome\r\n").unwrap();
            let mut heard = String::new();
            BufReader::new(&stream).read_line(&mut heard).unwrap();
            stream.write_all(heard.as_bytes()).unwrap();
        }
    })
}

/// Waits for the banner, says something and hears it again.
fn converse(vip: SocketAddr) {
    let mut stream: TcpStream = client::open(vip).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "220 welcome");
    stream.write_all(b"HELO there\r\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "HELO there");
}

/// Web services of both families in a mode, whose SYNs are all answered with cookies.
fn start<'l>(lab: &'l Lab, mode: &str) -> Balancer<'l> {
    let (mode, cookies) = (format!("mode = {mode:?}"), "syn-cookies = \"always\"");
    let config = lab
        .config()
        .service(lab.web(Family::V4).set(&mode).set(cookies))
        .service(lab.web(Family::V6).named("web6").set(&mode).set(cookies));
    lab.start(&config)
}

#[test]
fn connections_with_cookies_are_like_others() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let nginx = lab.serve_nginx();
    for mode in MODES {
        let lb = start(&lab, mode);
        for family in Family::ALL {
            let vip = lab.vip(family, 80);
            let shares = lab.client.ns.run(|| client::at_once(|| client::shares(vip, 10)));
            assert_eq!(shares, even(&lab, 5), "{mode}");
        }
        assert_eq!(lb.reason("syn-cookie-accepted"), 20, "{mode}");
        assert!(lb.reason("syn-cookie-sent") >= 20, "{mode}");
        assert_eq!(
            (lb.reason("bad-syn-cookie"), lb.reason("syn-cookie-unanswered")),
            (0, 0)
        );
        lb.detach();
    }
    drop(nginx);
}

#[test]
fn large_transfers_with_cookies_arrive_unharmed() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let nginx = lab.serve_nginx();
    for mode in MODES {
        let lb = start(&lab, mode);
        for family in Family::ALL {
            fetch_file(&lab, &nginx[0], lab.vip(family, 80), 16);
            lab.client.ns.run(|| reuses_port(lab.vip(family, 80)));
        }
        assert!(lb.reason("syn-cookie-accepted") > 0);
        lb.detach();
    }
}

#[test]
fn servers_that_speak_first_are_heard_at_once() {
    let lab = Lab::new(Topology::TwoArm, 1);
    for mode in MODES {
        let server = serve_banner(&lab.servers[0], 6);
        let service = |family| {
            lb_tests::config::Service::new(&format!("smtp-{family:?}"), lab.vip(family, 25), "tcp")
                .health("type = \"none\"")
                .backends(lab.backends(family, 25))
                .set(&format!("mode = {mode:?}"))
                .set("syn-cookies = \"always\"")
        };
        let lb = lab.start(&lab.config().service(service(Family::V4)).service(service(Family::V6)));
        for family in Family::ALL {
            lab.client.ns.run(|| {
                for _ in 0..3 {
                    client::at_once(|| converse(lab.vip(family, 25)));
                }
            });
        }
        server.join().unwrap();
        assert_eq!(lb.reason("syn-cookie-accepted"), 6);
        lb.detach();
    }
}

/// A client whose acknowledgement is lost asks for a window, and so connects after all.
#[test]
fn a_lost_acknowledgement_is_made_good() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let _http = lab.serve_http();
    let lb = lab.start(
        &lab.config()
            .service(lab.web(Family::V4).set("syn-cookies = \"always\"")),
    );
    let vip = lab.vip(Family::V4, 80);
    lab.client
        .ns
        .sh("nft 'table inet mute { chain out { type filter hook output priority 0;
        tcp dport 80 tcp flags & (syn | ack) == ack counter drop; }; }'");
    let stream = lab.client.ns.run(|| client::open(vip)).unwrap();
    assert_eq!(lb.reason("syn-cookie-accepted"), 0);
    lab.client.ns.sh("nft delete table inet mute");
    client::seen(&client::request(&stream, "/").unwrap()).unwrap();
    assert_eq!(lb.reason("syn-cookie-accepted"), 1);
}

#[test]
fn a_syn_flood_stores_nothing_and_keeps_nobody_out() {
    let lab = Lab::new(Topology::OneArm, 2);
    let _servers = lab.serve_http();
    for family in [Family::V4, Family::V6] {
        let config = lab
            .config()
            .half_open(1024)
            .limit("syn-cookies-above = 100")
            .service(lab.web(family).set("syn-cookies = \"under-flood\""));
        let lb = lab.start(&config);
        let vip = lab.vip(family, 80);
        let mut held: Vec<Held> = lab
            .client
            .ns
            .run(|| (0..20).map(|_| Held::open(vip).unwrap()).collect());
        let mut flood = lab.client.ns.command(program());
        flood
            .args([
                "bench",
                "traffic",
                "syn",
                "--json",
                "--interface",
                "eth0",
                "--to",
                &vip.to_string(),
            ])
            .args(["--flows", "20000", "--rate", "8k", "--count", "24000"])
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let mut flood = flood.spawn().expect("lb starts");
        let mut fresh = 0;
        while flood.try_wait().unwrap().is_none() {
            for one in &mut held {
                one.say("still there").unwrap();
            }
            lab.client.ns.run(|| client::who(vip)).unwrap();
            fresh += 1;
        }
        assert!(flood.wait().unwrap().success());
        for one in &mut held {
            one.say("and after").unwrap();
        }
        let (sent, opened) = (lb.reason("syn-cookie-sent"), lb.service("web").counters.new_flows);
        assert!(sent > 10_000, "there was a flood: {sent} cookies");
        // What every core may open in these seconds, and real connections.
        assert!(opened < 20 + fresh + 4_000, "{opened} flows of {fresh} connections");
        assert!(fresh > 0, "some connections were opened in it");
        assert!(lb.reason("syn-cookie-accepted") > 0);
        drop(lb);
    }
}
