//! The daemon: puts the configuration, the packet path, the network, the health checks and the control interface
//! together and lets the controller run them.

mod logs;
mod network;
mod offline;

use std::sync::Arc;

use lb_common::abi::SLOTS_PER_PAGE;
use tokio::sync::mpsc;

pub use offline::detach;

use crate::{
    api::{ApiError, ErrorKind, server},
    cli::RunArgs,
    config,
    controller::{self, ControllerError, Deps, Inputs, Lock, Options, ports},
    datapath::{KernelDatapath, loader, maps},
    health::{self, HealthRunner, room},
    model::{Config, HealthTarget, Service},
    net::KernelNetwork,
    state::Rules,
};

/// Requests that may wait for the controller.
const REQUESTS: usize = 64;

/// Runs the daemon until it is told to stop; with `--check`, validates the configuration only.
///
/// # Errors
/// Whatever keeps it from starting, or what it could not remove at its end; each says what to do next.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let config = config::load(&args.config).map_err(ApiError::from)?;
    config::check_source_ports(&config, &config::ephemeral_ports()?).map_err(ApiError::from)?;
    if args.check {
        println!("{}: valid, {} service(s)", args.config.display(), config.services.len());
        return Ok(());
    }
    logs::init(&args.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(args, config))
}

async fn serve(args: &RunArgs, config: Config) -> anyhow::Result<()> {
    loader::check_capabilities().map_err(|e| refusal(e.kind(), &e))?;
    let lock = Lock::acquire(&config.state_dir, &config.instance).map_err(|e| refusal(ErrorKind::Conflict, &e))?;
    let listener = server::bind(&config.socket).map_err(|e| refusal(ErrorKind::Conflict, &e))?;
    let (mut network, network_events) = KernelNetwork::start().await?;
    network.poll_next_hops(config.neighbour_poll);
    let (network, network_events) = network::start((network, network_events));
    let names: Vec<String> = config.interfaces.iter().map(|i| i.name.clone()).collect();
    let vlan_devices = network.vlan_devices(&names);
    let features = loader::Features {
        log_level: args.datapath_log.level(),
        redirect_back: config.interfaces.iter().any(|i| network.is_veth(&i.name)),
        smallest_mtu: config
            .interfaces
            .iter()
            .filter_map(|i| network.mtu(&i.name))
            .min()
            .unwrap_or_default(),
        syn_cookies: loader::syn_cookies(),
        vlans: config.vlans.unwrap_or(!vlan_devices.is_empty()),
    };
    if features.vlans {
        tracing::info!("{}", vlan_advice(&names, &vlan_devices));
    }
    let mut datapath = KernelDatapath::open(&config.bpffs, &config.instance, config.limits, features)
        .map_err(|e| refusal(e.kind(), &e))?;
    if features.log_level > 0 {
        logs::follow(&mut datapath);
    }
    let (requests, waiting) = mpsc::channel(REQUESTS);
    let server = tokio::spawn(server::serve(listener, requests));
    let (health, health_events) = Checks::start(room::for_checks(room::raise_open_files()));
    let deps = Deps {
        flows: datapath.flow_tables(),
        datapath,
        network: network.into(),
        health,
        lock,
    };
    let slot_pages = config.limits.slots.div_ceil(SLOTS_PER_PAGE);
    let options = Options {
        rules: rules(&config),
        config,
        detach_on_exit: args.detach_on_exit,
        forget_runtime_changes: args.forget_runtime_changes,
        vlans: features.vlans,
        slot_pages,
        source_addresses: maps::SOURCE_PLACES,
        syn_cookies: features.syn_cookies,
    };
    let inputs = Inputs {
        requests: waiting,
        health: health_events,
        network: network_events,
        stop: Box::pin(controller::signals()?),
    };
    let result = controller::run(deps, options, inputs).await;
    // It ends when nobody receives requests any more, after the last replies have left.
    server.await?;
    result.map_err(|e| refusal(kind(&e), &e).into())
}

/// Drivers take tags off frames before XDP sees them, unless told otherwise; nothing in a frame says so.
fn vlan_advice(interfaces: &[String], devices: &[String]) -> String {
    let why = if devices.is_empty() {
        "as configured".to_owned()
    } else {
        format!("for {}", devices.join(", "))
    };
    let commands: Vec<String> = interfaces
        .iter()
        .map(|name| format!("`ethtool -K {name} rxvlan off`"))
        .collect();
    format!(
        "forwarding frames with VLAN tags ({why}); the packet path sees tags only where the driver leaves them in the frame: {}",
        commands.join(", ")
    )
}

const fn kind(error: &ControllerError) -> ErrorKind {
    match error {
        ControllerError::Datapath(error) => error.kind(),
        ControllerError::Vips(_) => ErrorKind::Conflict,
        ControllerError::Teardown(_) => ErrorKind::System,
    }
}

fn refusal(kind: ErrorKind, error: &dyn std::error::Error) -> ApiError {
    ApiError {
        kind,
        message: error.to_string(),
    }
}

/// What services and backends that come while the daemon runs are held to: the rules of the configuration.
fn rules(config: &Config) -> Rules {
    let with = |config: &Config, services: &[Arc<Service>]| Config {
        services: services.iter().map(|service| (**service).clone()).collect(),
        ..config.clone()
    };
    let without_services = || Config {
        services: Vec::new(),
        ..config.clone()
    };
    let (for_services, for_backends) = (without_services(), without_services());
    Rules {
        service: Box::new(move |service, services| {
            config::validate_service(service, &with(&for_services, services)).map_err(|e| e.to_string())
        }),
        backend: Box::new(move |backend, service, services| {
            config::validate_backend(backend, service, &with(&for_backends, services)).map_err(|e| e.to_string())
        }),
    }
}

/// The health checks as the controller sees them.
struct Checks(HealthRunner);

impl Checks {
    /// So many at a time.
    fn start(at_a_time: usize) -> (Self, mpsc::UnboundedReceiver<ports::HealthEvent>) {
        let (sender, mut events) = mpsc::unbounded_channel::<health::HealthEvent>();
        let (forward, forwarded) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let event = ports::HealthEvent {
                    target: event.target,
                    report: event.report,
                };
                if forward.send(event).is_err() {
                    break;
                }
            }
        });
        (Self(HealthRunner::new(sender, at_a_time)), forwarded)
    }
}

impl ports::Health for Checks {
    fn set_targets(&mut self, targets: Vec<(HealthTarget, Option<crate::api::HealthState>)>) {
        self.0.set_targets(targets);
    }

    fn change_targets(&mut self, gone: &[HealthTarget], new: Vec<(HealthTarget, Option<crate::api::HealthState>)>) {
        self.0.change_targets(gone, new);
    }

    fn snapshot(&self, target: &HealthTarget) -> Option<crate::api::HealthReport> {
        self.0.snapshot(target)
    }
}
