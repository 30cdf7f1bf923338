//! Verbs that show.

use lb_common::abi::ABI_VERSION;
use lb_tests::{Lab, Topology, client::Held, lab::Family};
use lb_userspace::api::{FlowReport, ServiceReport, VersionReport};

/// Columns of the terminal that tables must fit.
const WIDTH: usize = 80;

#[test]
fn every_table_fits_80_columns_without_colours() {
    let lab = Lab::new(Topology::TwoArm, 3);
    let _http = lab.serve_http();
    let config = lab
        .config()
        .service(lab.web(Family::V4).backend(2, "backup = true"))
        .service(
            lab.web(Family::V6)
                .named("a-service-with-quite-a-long-name-for-a-table"),
        );
    let _lb = lab.start(&config);
    let _held = Family::ALL.map(|family| lab.client.ns.run(|| Held::open(lab.vip(family, 80))).unwrap());
    for verb in [
        &["status"][..],
        &["service", "list"],
        &["backend", "list"],
        &["flows"],
        &["version"],
    ] {
        let outcome = lab.lb(verb).success();
        assert!(outcome.stderr.is_empty(), "{outcome:?}");
        assert!(
            !outcome.stdout.contains('\u{1b}'),
            "a pipe gets no colours:\n{}",
            outcome.stdout
        );
        for line in outcome.stdout.lines() {
            assert!(
                line.chars().count() <= WIDTH,
                "{verb:?} is wider than {WIDTH} columns:\n{}",
                outcome.stdout
            );
        }
    }
    for name in ["web", "s1", "s2", "s3", "client0", "servers0"] {
        assert!(lab.lb(&["status"]).stdout.contains(name), "status lacks {name}");
    }
}

#[test]
fn json_is_what_the_api_says() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let lb = lab.start(&lab.config().service(lab.web(Family::V4)));
    let status = lb.status();
    assert_eq!(
        (status.instance.as_str(), status.pid),
        (lab.instance.as_str(), lb.pid())
    );
    assert_eq!(status.warnings, Vec::<String>::new());
    let interfaces: Vec<_> = status
        .interfaces
        .iter()
        .map(|i| (i.name.as_str(), i.xdp.as_str()))
        .collect();
    assert_eq!(interfaces, [("client0", "native"), ("servers0", "native")]);
    assert!(status.maps.iter().all(|map| map.bytes > 0) && !status.maps.is_empty());

    let services: Vec<ServiceReport> =
        serde_json::from_value(lab.lb(&["--json", "service", "list"]).success().json()).unwrap();
    assert_eq!(services.len(), 1);
    assert_eq!(services[0].vip, lab.vip(Family::V4, 80));
    let backends = lab.lb(&["--json", "backend", "list", "web"]).success().json();
    let names: Vec<_> = backends
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["s1", "s2"]);
    let versions = lab.lb(&["--json", "version"]).success().json();
    let daemon: VersionReport = serde_json::from_value(versions["daemon"].clone()).unwrap();
    assert_eq!(daemon.abi, ABI_VERSION);
}

#[test]
fn flows_lists_a_connection_with_both_its_ends() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _http = lab.serve_http();
    let config = lab.config_for_both();
    let lb = lab.start(&config);
    for (family, service) in [(Family::V4, "web"), (Family::V6, "web6")] {
        let held = lab.client.ns.run(|| Held::open(lab.vip(family, 80))).unwrap();
        let answer = lab.lb(&["--json", "flows", "--service", service]).success().json();
        let flows: Vec<FlowReport> = serde_json::from_value(answer["flows"].clone()).unwrap();
        let [flow] = flows.as_slice() else {
            panic!("one flow, not {flows:?}")
        };
        assert_eq!((flow.client, flow.vip), (held.local, lab.vip(family, 80)));
        assert_eq!(flow.backend, held.server);
        assert_eq!(flow.backend_address, lb.backend(service, &held.server).address);
        assert_eq!(flow.source.ip(), lab.source(family));
        assert_eq!(flow.phase, "established");
        assert_eq!(answer["total"], 1);
    }
    assert_eq!(
        lab.lb(&["--json", "flows", "--limit", "1"]).success().json()["flows"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}
