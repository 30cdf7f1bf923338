//! The command line as it is typed.

use std::{ffi::OsString, path::Path, time::Duration};

use clap::CommandFactory;

use super::super::{
    Cli, ColorChoice, Command, backend::BackendCommand, parse, run::DatapathLog, service::ServiceCommand, try_parse,
};
use crate::{
    api::{BackendChange, ErrorKind, Request},
    datapath::FlowPlace,
    model::{AdminState, ForwardingMode, HealthCheck, OnDown, Probe, Protocol, Service, VipAddress, XdpMode},
};

fn args(line: &str) -> Vec<OsString> {
    std::iter::once("lb")
        .chain(line.split_whitespace())
        .map(OsString::from)
        .collect()
}

fn cli(line: &str) -> Cli {
    try_parse(args(line)).unwrap_or_else(|error| panic!("{error}"))
}

fn service(line: &str) -> Service {
    match cli(line).command {
        Command::Service(ServiceCommand::Add(args)) => args.service().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn backend_request(line: &str) -> Request {
    match cli(line).command {
        Command::Backend(command) => command.request(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn global_options_stand_before_or_after_the_verb() {
    for line in ["--instance edge --json status", "status --instance edge --json"] {
        let cli = cli(line);
        assert!(cli.global.json);
        assert_eq!(cli.global.client().socket, Path::new("/run/lb/edge.sock"));
    }
    let cli = cli("status --socket /tmp/x --color never");
    assert_eq!(cli.global.client().socket, Path::new("/tmp/x"));
    assert_eq!(cli.global.client().instance, "default");
    assert_eq!(cli.global.color, ColorChoice::Never);
}

#[test]
fn run_takes_its_options() {
    let line =
        "run --config lb.toml --detach-on-exit --check --datapath-log debug --forget-runtime-changes --log lb=trace";
    let Command::Run(run) = cli(line).command else {
        panic!("not run")
    };
    assert_eq!(run.config, Path::new("lb.toml"));
    assert!(run.check && run.detach_on_exit && run.forget_runtime_changes);
    assert_eq!((run.datapath_log, run.log.as_str()), (DatapathLog::Debug, "lb=trace"));
    let Command::Run(run) = cli("run --config lb.toml").command else {
        panic!("not run")
    };
    assert_eq!((run.datapath_log, run.log.as_str()), (DatapathLog::Off, "info"));
    let error = try_parse(args("run --config lb.toml --instance edge")).unwrap_err();
    assert!(error.to_string().contains("`instance`"), "{error}");
}

#[test]
fn a_tcp_service_has_the_defaults_of_tcp() {
    let web = service("service add web --vip 10.0.0.100:80");
    assert_eq!(web.id.to_string(), "10.0.0.100:80/tcp");
    assert_eq!(
        (web.mode, web.on_down, web.failback),
        (ForwardingMode::FullNat, OnDown::Reset, true)
    );
    assert_eq!(web.vip_address, VipAddress::Add(None));
    assert_eq!(web.health, HealthCheck::default());
}

#[test]
fn a_udp_service_moves_its_flows_and_is_not_checked() {
    let dns = service("service add dns --vip 10.0.0.100:53 --protocol udp");
    assert_eq!((dns.id.protocol, dns.on_down), (Protocol::Udp, OnDown::Move));
    assert_eq!(dns.health.probe, Probe::None);
}

#[test]
fn a_service_takes_every_option() {
    let web = service(
        "service add web --vip [2001:db8::1]:80 --mode nat --on-down keep --failback false --vip-interface eth1 \
         --health http:/healthz --health-host example.com --health-status 200-204 --health-body ok --health-port 81 \
         --health-interval 250ms --health-timeout 100ms --rise 1 --fall 2 --timeout tcp-syn=5s \
         --backend [2001:db8::11]:80,weight=3 --backend [2001:db8::12]:80,backup,name=spare",
    );
    assert_eq!(
        (web.mode, web.on_down, web.failback),
        (ForwardingMode::Nat, OnDown::Keep, false)
    );
    assert_eq!(web.vip_address, VipAddress::Add(Some("eth1".into())));
    let Probe::Http(http) = &web.health.probe else {
        panic!("{:?}", web.health)
    };
    assert_eq!(
        (http.path.as_str(), http.host.as_deref(), http.body.as_deref()),
        ("/healthz", Some("example.com"), Some("ok"))
    );
    assert_eq!((http.status.clone(), web.health.port), (200..=204, Some(81)));
    assert_eq!((web.health.rise, web.health.fall), (1, 2));
    let quarter = Duration::from_millis(250);
    assert_eq!(
        (web.health.interval, web.health.fast_interval),
        (quarter, quarter),
        "the fast interval is never the longer"
    );
    assert_eq!(web.timeouts.tcp_syn, Duration::from_secs(5));
    let pool: Vec<_> = web
        .backends
        .iter()
        .map(|b| (b.name.as_str(), b.weight, b.tier))
        .collect();
    assert_eq!(pool, [("[2001:db8::11]:80", 3, 0), ("spare", 1, 1)]);
    let manual = service("service add web --vip 10.0.0.1:80 --no-vip-address");
    assert_eq!(manual.vip_address, VipAddress::Manual);
}

#[test]
fn options_of_an_http_check_need_one() {
    let Command::Service(ServiceCommand::Add(args)) = cli("service add web --vip 10.0.0.1:80 --health-body ok").command
    else {
        panic!("not add")
    };
    let error = args.service().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("--health http:PATH"), "{error}");
}

#[test]
fn a_service_is_changed_only_where_asked() {
    let Command::Service(ServiceCommand::Set(args)) = cli("service set web --failback false").command else {
        panic!("not set")
    };
    let request = args.request(|| panic!("nothing has to be asked")).unwrap();
    let Request::ServiceSet { service, change } = request else {
        panic!("{request:?}")
    };
    assert_eq!(service, "web");
    assert_eq!(
        (change.on_down, change.failback, change.timeouts),
        (None, Some(false), None)
    );
}

#[test]
fn backend_verbs_become_requests() {
    let Request::BackendAdd { service, backend } =
        backend_request("backend add web 10.0.0.9:80 --name nine --weight 4 --backup")
    else {
        panic!("not add")
    };
    assert_eq!(
        (service.as_str(), backend.name.as_str(), backend.weight, backend.tier),
        ("web", "nine", 4, 1)
    );
    let set = |change| Request::BackendSet {
        service: "*".into(),
        backend: "10.0.0.9:80".into(),
        change,
    };
    let weight = BackendChange {
        weight: Some(0),
        ..BackendChange::default()
    };
    assert_eq!(backend_request("backend set * 10.0.0.9:80 --weight 0"), set(weight));
    for (verb, admin) in [
        ("enable", AdminState::Enabled),
        ("drain", AdminState::Drain),
        ("disable", AdminState::Disabled),
    ] {
        let change = BackendChange {
            admin: Some(admin),
            ..BackendChange::default()
        };
        assert_eq!(backend_request(&format!("backend {verb} * 10.0.0.9:80")), set(change));
    }
    assert!(matches!(
        backend_request("backend remove web w"),
        Request::BackendRemove { .. }
    ));
    assert!(matches!(
        cli("backend list").command,
        Command::Backend(BackendCommand::List { service: None })
    ));
}

#[test]
fn the_other_verbs_become_requests() {
    let Command::Attach(attach) = cli("attach eth1 --xdp native").command else {
        panic!("not attach")
    };
    assert!(
        matches!(attach.request(), Request::Attach { interface } if interface.name == "eth1" && interface.xdp == XdpMode::Native)
    );
    let Command::Flows(flows) = cli("flows --service web --limit 7").command else {
        panic!("not flows")
    };
    let place = FlowPlace {
        table: 1,
        bucket: Some(5),
    };
    let Request::Flows { limit, filter, from } = flows.request(place, 3) else {
        panic!("not flows")
    };
    assert_eq!((limit, filter.service.as_deref(), from), (4, Some("web"), place));
    cli("flows --backend web-1 --client 10.0.0.0/8 --state half-open --count");
    cli("flows kill --all");
    cli("flows kill --client [2001:db8::1]:5000 --state syn-seen");
    for line in [
        "detach",
        "detach eth0",
        "version",
        "service list",
        "service show web",
        "service remove web",
        "status --watch 0.5",
    ] {
        cli(line);
    }
}

#[test]
fn bad_values_are_refused_with_what_was_expected() {
    for (line, expected) in [
        ("service add web --vip 10.0.0.1", "expected ADDRESS:PORT"),
        ("service add web --vip 10.0.0.1:0", "port 0"),
        ("service add web", "--vip <ADDRESS:PORT>"),
        ("service add web --vip 10.0.0.1:80 --on-down rest", "reset"),
        ("service add web --vip 10.0.0.1:80 --health ping", "http:/healthz"),
        ("service add web --vip 10.0.0.1:80 --health-interval 2", "500ms"),
        ("service add web --vip 10.0.0.1:80 --fall 0", "0 is not in 1.."),
        (
            "service add web --vip 10.0.0.1:80 --no-vip-address --vip-interface e",
            "cannot be used with",
        ),
        ("service set web", "--on-down"),
        ("service set web --timeout tcp=1h", "tcp-established"),
        ("backend add web 10.0.0.1:80 --weight 257", "0 to 256"),
        ("backend add web 10.0.0.1:80 --backup --tier 2", "cannot be used with"),
        ("backend set web web-1", "--weight"),
        ("backend drain web", "<BACKEND>"),
        ("flows --limit 0", "0 is not in 1.."),
        ("flows --client 10.0.0", "ADDRESS/PREFIX"),
        ("flows --state open", "half-open"),
        ("flows --count --limit 5", "cannot be used with"),
        ("status --watch 0", "0.1 to 3600"),
        ("status --instance ../other", "without `/`"),
        ("detach --instance ..", "not beginning with"),
        ("statsu", "status"),
        ("run", "--config <FILE>"),
    ] {
        let error = try_parse(args(line)).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(expected), "{line}: {error}");
    }
    assert_eq!(parse(args("status --nonsense")).unwrap_err(), 2);
}

#[test]
fn every_help_text_fits_eighty_columns() {
    let mut left = vec![Cli::command()];
    let mut wide = Vec::new();
    while let Some(mut command) = left.pop() {
        command.build();
        for help in [command.render_help(), command.render_long_help()] {
            let help = help.to_string();
            let lines = help.lines().filter(|line| line.chars().count() > 80);
            wide.extend(lines.map(|line| format!("lb {}: {line}", command.get_name())));
        }
        left.extend(
            command
                .get_subcommands()
                .filter(|sub| sub.get_name() != "help")
                .cloned(),
        );
    }
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}

#[test]
fn a_service_may_have_many_ports_and_both_protocols() {
    let many = service("service add many --vip 10.0.0.1:80-90 --protocol tcp+udp --backend 10.0.0.2 --health none");
    assert_eq!(many.address(), "10.0.0.1:80-90/tcp+udp");
    assert_eq!(
        (many.backends[0].name.as_str(), many.backends[0].address.port()),
        ("10.0.0.2", 0)
    );
    let all = service("service add all --vip [2001:db8::1]:* --mode gue --backend [2001:db8::2] --timeout tcp-fin=1m");
    assert_eq!(all.address(), "[2001:db8::1]:*/tcp");
    assert_eq!(all.timeouts.tcp_fin, Duration::from_mins(1));
    let one = service("service add one --vip 10.0.0.1:80 --mode l2-dsr --backend 10.0.0.2,name=a");
    assert_eq!(
        (one.backends[0].name.as_str(), one.backends[0].address.port()),
        ("a", 80)
    );
}
