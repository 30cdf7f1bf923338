//! Networks that lose packets and deliver others late.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use lb_tests::{Faults, Lab, Nginx, Topology, lab::Family};

use crate::backends::set_up_all;

/// One packet of ten is lost, and one of twenty is overtaken.
const FAULTS: Faults = Faults {
    seed: 20_260_101,
    lost: 10,
    late: 5,
};
const MEBIBYTES: u32 = 8;

/// Fetches a file of random bytes and brings one, at the same time. Returns the hashes before and after, of both.
fn transfer_both_ways(lab: &Lab, nginx: &Nginx, url: &str) -> [(String, String); 2] {
    let file = |name: &str| nginx.files.join(name).display().to_string();
    let sum = |path: &str| lab.client.ns.sh(&format!("sha256sum <{path}"));
    let make = |path: &str| {
        lab.client.ns.sh(&format!("head -c {MEBIBYTES}M /dev/urandom >{path}"));
        sum(path)
    };
    let curl = "curl --silent --show-error --fail --max-time 60";
    let (down, up) = (file("down"), lab.path("up").display().to_string());
    let (made_down, made_up) = (make(&down), make(&up));
    let got = thread::scope(|scope| {
        let bringing = scope.spawn(|| lab.client.ns.sh(&format!("{curl} --upload-file {up} {url}brought")));
        let got = lab.client.ns.sh(&format!("{curl} {url}down | sha256sum"));
        bringing.join().expect("the upload ends");
        got
    });
    let brought = sum(&file("brought"));
    lab.client.ns.sh(&format!("rm {} {}", down, file("brought")));
    [(made_down, got), (made_up, brought)]
}

fn met(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// How many connections of a host ended by RST while they were open. One that answers a copy which comes when the connection is
/// over is nobody's loss.
fn resets(namespace: &lb_tests::Namespace) -> String {
    // Zeros are not listed.
    namespace.sh("nstat --ignore --noupdate --zeros --json TcpEstabResets")
}

#[test]
fn transfers_get_through_loss_and_reordering() {
    let lab = Lab::new(Topology::OneArm, 1);
    let nginx = lab.serve_nginx();
    let server = &lab.servers[0];
    // The least time before a segment is repeated, which without this is most of what is waited for.
    for host in [&lab.client, server] {
        host.ns.sh("echo 10000 >/proc/sys/net/ipv4/tcp_rto_min_us");
    }
    for mode in ["full-nat", "l2-dsr"] {
        for family in Family::ALL {
            let _backends = (mode == "l2-dsr").then(|| set_up_all(&lab, mode, family));
            let service = lab.web(family).set(&format!("mode = {mode:?}"));
            let lb = lab.start(&lab.config().service(service.health("type = \"none\"")));
            let url = format!("http://{}/files/", lab.vip(family, 80));
            let places = if mode == "full-nat" {
                &[&lab.client, server][..]
            } else {
                &[&lab.client]
            };
            for at in places {
                let before = [&lab.client.ns, &server.ns].map(resets);
                let cable = lab.impair(at, FAULTS);
                for (made, got) in transfer_both_ways(&lab, &nginx[0], &url) {
                    assert_eq!(got, made, "{mode}, {family:?}, at {}", at.name);
                }
                let tally = cable.tally();
                assert!(met(&tally.lost) > 500 && met(&tally.late) > 250, "{tally:?}");
                let after = [&lab.client.ns, &server.ns].map(resets);
                assert_eq!(after, before, "{mode}, {family:?}, at {}", at.name);
            }
            let transfers = 2 * u64::try_from(places.len()).unwrap();
            assert_eq!(lb.service("web").counters.new_flows, transfers, "{mode}, {family:?}");
            for reason in ["no-flow", "no-backend", "backend-down", "internal"] {
                assert_eq!(lb.reason(reason), 0, "{reason}, {mode}, {family:?}");
            }
            lb.detach();
        }
    }
}
