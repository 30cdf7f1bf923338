//! Generator, load balancer, sinks.

use lb_tests::{Lab, Service, Topology, lab::Family};

use crate::rig::{Sink, figure, traffic};

#[test]
fn udp_is_spread_evenly_and_comes_back_whole() {
    let lab = Lab::new(Topology::OneArm, 2);
    let config = lab
        .config()
        .service(lab.echo(Family::V4))
        .service(lab.echo(Family::V6).named("echo6"));
    let _lb = lab.start(&config);
    for (family, size) in [(Family::V4, "64"), (Family::V6, "imix")] {
        let sinks = lab
            .servers
            .iter()
            .map(|s| Sink::start(s, &["--port", "7", "--reflect"]));
        let sinks: Vec<_> = sinks.collect();
        let sent = traffic(
            &lab.client,
            "udp",
            &lab.vip(family, 7).to_string(),
            &[
                "--flows",
                "100",
                "--count",
                "1000",
                "--rate",
                "5k",
                "--size",
                size,
                "--latency",
                "--check",
                "--duration",
                "20s",
            ],
        )
        .success()
        .json();
        assert_eq!(figure(&sent, "sent"), 1000, "{sent:#}");
        assert_eq!(figure(&sent, "returned"), 1000, "{sent:#}");
        assert_eq!(figure(&sent, "checksum_faults"), 0, "{sent:#}");
        assert_eq!(sent["latencies"]["round_trip"]["count"], 1000, "{sent:#}");
        for sink in sinks {
            let got = sink.end();
            assert_eq!(figure(&got, "received"), 500, "{got:#}");
            assert_eq!(figure(&got, "flows"), 50, "{got:#}");
            for none in [
                "lost",
                "reordered",
                "duplicates",
                "checksum_faults",
                "header_checksum_faults",
                "flows_that_changed_server",
                "flows_begun_late",
            ] {
                assert_eq!(figure(&got, none), 0, "{none}: {got:#}");
            }
            let servers = got["tables"]["packets_by_server"].as_array().unwrap();
            assert_eq!(servers.len(), 1, "{got:#}");
            assert_eq!(servers[0]["packets"], 500);
        }
    }
}

#[test]
fn every_handshake_is_completed() {
    let lab = Lab::new(Topology::OneArm, 2);
    let web = |family, name| {
        Service::new(name, lab.vip(family, 80), "tcp")
            .health("type = \"none\"")
            .backends(lab.backends(family, 80))
    };
    let config = lab
        .config()
        .service(web(Family::V4, "web"))
        .service(web(Family::V6, "web6"));
    let lb = lab.start(&config);
    for (family, name) in [(Family::V4, "web"), (Family::V6, "web6")] {
        let sinks = lab
            .servers
            .iter()
            .map(|s| Sink::start(s, &["--port", "80", "--respond"]));
        let sinks: Vec<_> = sinks.collect();
        let sent = traffic(
            &lab.client,
            "handshake",
            &lab.vip(family, 80).to_string(),
            &["--flows", "400", "--rate", "5k", "--duration", "20s"],
        )
        .success()
        .json();
        assert_eq!(figure(&sent, "completed"), 400, "{sent:#}");
        assert_eq!(sent["latencies"]["syn_to_syn_ack"]["count"], 400, "{sent:#}");
        for sink in sinks {
            let got = sink.end();
            assert_eq!(figure(&got, "handshakes"), 200, "{got:#}");
            assert_eq!(figure(&got, "resets"), 200, "connections are ended: {got:#}");
            assert_eq!(figure(&got, "checksum_faults"), 0, "{got:#}");
        }
        assert_eq!(lb.service(name).counters.new_flows, 400);
    }
}

#[test]
fn segments_of_open_connections_reach_the_server_that_got_the_request() {
    let lab = Lab::new(Topology::OneArm, 2);
    let web = Service::new("web", lab.vip(Family::V4, 80), "tcp")
        .health("type = \"none\"")
        .backends(lab.backends(Family::V4, 80));
    let _lb = lab.start(&lab.config().service(web));
    let sinks = lab
        .servers
        .iter()
        .map(|s| Sink::start(s, &["--port", "80", "--respond"]));
    let sinks: Vec<_> = sinks.collect();
    let sent = traffic(
        &lab.client,
        "ack",
        &lab.vip(Family::V4, 80).to_string(),
        &[
            "--flows", "100", "--count", "1000", "--rate", "5k", "--order", "zipf:1.1", "--size", "256",
        ],
    )
    .success()
    .json();
    assert_eq!(figure(&sent, "opened"), 100);
    assert_eq!(figure(&sent, "accepted"), 100, "{sent:#}");
    assert_eq!(figure(&sent, "sent"), 1000);
    let got: Vec<_> = sinks.into_iter().map(Sink::end).collect();
    let sum = |name| got.iter().map(|g| figure(g, name)).sum::<u64>();
    assert_eq!(sum("flows"), 100, "no flow was at two servers: {got:#?}");
    // Requests, data, and RST at the end.
    assert_eq!(sum("received"), 100 + 1000 + 100, "{got:#?}");
    assert_eq!(sum("lost"), 0, "{got:#?}");
}
