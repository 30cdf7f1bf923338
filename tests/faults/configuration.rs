//! Configurations that are wrong in themselves. Each message names the file and the key.

use lb_tests::{Backend, Lab, Service, Topology, lab::Family};

use crate::refusal::refused;

/// Exit code of a wrong request.
const INVALID: i32 = 2;
/// Exit code of what stands in the way of something else.
const CONFLICT: i32 = 4;

fn web(lab: &Lab) -> Service {
    lab.web(Family::V4)
}

#[test]
fn services_and_backends_that_cannot_be() {
    let lab = Lab::new(Topology::OneArm, 2);
    let vip = lab.vip(Family::V4, 80);
    let with = |service: Service| lab.config().service(service).toml();
    let pool = |address: &str| with(web(&lab).backends(vec![Backend::new("b", address)]));

    let twice = lab.config().service(web(&lab)).service(web(&lab).named("other")).toml();
    refused(&lab, &twice, CONFLICT, &["lb.toml:", "10.80.1.100:80", "web"]);
    let same_name = lab.config().service(web(&lab)).service(lab.web(Family::V6)).toml();
    refused(&lab, &same_name, CONFLICT, &["lb.toml:", "name", "web"]);
    refused(
        &lab,
        &pool(&vip.to_string()),
        INVALID,
        &["lb.toml:", "address", "10.80.1.100:80", "VIP"],
    );
    refused(
        &lab,
        &pool("10.80.1.11:0"),
        INVALID,
        &["lb.toml:", "address", "port 0", "1 to 65535"],
    );
    let port_0 = with(Service::new("web", lab.vip(Family::V4, 0), "tcp").backends(lab.backends(Family::V4, 80)));
    refused(&lab, &port_0, INVALID, &["lb.toml:", "vip", "port 0"]);
    let nat = |family: Family, backends: Family| {
        with(
            lab.web(family)
                .set("mode = \"nat\"")
                .backends(lab.backends(backends, 80)),
        )
    };
    let words = ["lb.toml:", "address", "mode nat", "the VIP is IPv4", "full-nat"];
    refused(&lab, &nat(Family::V4, Family::V6), INVALID, &words);
    let words = ["lb.toml:", "address", "mode nat", "the VIP is IPv6", "full-nat"];
    refused(&lab, &nat(Family::V6, Family::V4), INVALID, &words);
    refused(
        &lab,
        &with(web(&lab).backend(0, "weight = 257")),
        INVALID,
        &["lb.toml:", "weight", "257", "256"],
    );
}

#[test]
fn files_that_cannot_be_read() {
    let lab = Lab::new(Topology::OneArm, 1);
    let good = lab.config().service(web(&lab)).toml();
    refused(
        &lab,
        &good.replace("[[service]]", "[[service]"),
        INVALID,
        &["lb.toml:", "[[service]"],
    );
    refused(&lab, &format!("{good}colour = 1\n"), INVALID, &["lb.toml:", "colour"]);
    let misspelt = lab.config().service(web(&lab).set("failbak = true")).toml();
    refused(&lab, &misspelt, INVALID, &["lb.toml:", "failbak", "failback"]);
    let missing = lab.lb_command(&["run", "--config", "/nonexistent/lb.toml"]);
    let mut missing = missing;
    let outcome = lb_tests::Outcome::of(&mut missing);
    assert_ne!(outcome.code, 0);
    assert!(outcome.stderr.contains("/nonexistent/lb.toml"), "{outcome:?}");
}

#[test]
fn source_ports_of_the_kernel_are_refused() {
    let lab = Lab::new(Topology::OneArm, 1);
    let overlapping = lab
        .config()
        .service(web(&lab))
        .tail("[full-nat]\nsource-ports = \"2048-40000\"")
        .toml();
    let words = ["source-ports", "2048-40000", "ip_local_port_range", "2048-32767"];
    refused(&lab, &overlapping, INVALID, &words);
    // It is the host's range that counts, not the usual one.
    lab.lb.ns.sh("echo 10000 60999 >/proc/sys/net/ipv4/ip_local_port_range");
    let usual = lab.config().service(web(&lab)).toml();
    refused(&lab, &usual, INVALID, &["source-ports", "10000"]);
}

#[test]
fn check_finds_the_same_and_starts_nothing() {
    let lab = Lab::new(Topology::OneArm, 1);
    let check = |toml: &str| {
        let path = lab.write(toml);
        lb_tests::Outcome::of(&mut lab.lb_command(&["run", "--check", "--config", path.to_str().unwrap()]))
    };
    let before = crate::refusal::traces(&lab);
    assert_eq!(check(&lab.config().service(web(&lab)).toml()).code, 0);
    assert_eq!(
        check(&lab.config().service(web(&lab).set("mode = \"gre\"")).toml()).code,
        INVALID
    );
    assert_eq!(crate::refusal::traces(&lab), before);
}
