//! `lb service`.

use std::{ops::RangeInclusive, time::Duration};

use clap::{Args, Subcommand};

use super::{
    QUICK, Session,
    grid::{Cell, Grid, Kind},
    human, misfit, service_page,
    values::{self, TimeoutChange},
    verdict::{self, Condition},
    view::View,
};
use crate::{
    api::{ApiError, ErrorKind, Reply, Request, ServiceChange, ServiceReport},
    model::{
        Backend, Extent, FlowTracking, ForwardingMode, HealthCheck, OnDown, Probe, Protocols, Scheduler, Scheduling,
        Service, ServiceId, SynCookies, Timeouts, Vip, VipAddress,
    },
};

/// `lb service`.
#[derive(Debug, Clone, Subcommand)]
pub enum ServiceCommand {
    /// List services
    List,
    /// Show all of one service: settings, health, flows, traffic
    Show {
        /// Name, or ADDRESS:PORT/PROTOCOL
        service: String,
    },
    /// Add a service
    #[command(after_help = "\
Examples:
  lb service add web --vip 10.0.0.100:80 \\
      --backend 10.0.0.11:8080 --backend 10.0.0.12:8080,weight=3 \\
      --backend 10.0.0.13:8080,backup,name=spare --health http:/healthz
  lb service add dns --vip 10.0.0.100:53 --protocol tcp+udp \\
      --backend 10.0.0.11:53
  lb service add ftp --vip 10.0.0.100:50000-50100 --backend 10.0.0.11 \\
      --health-port 21")]
    Add(Box<AddArgs>),
    /// Change a service
    #[command(
        override_usage = "lb service set [OPTIONS] <SERVICE>",
        after_help = "\
At least one option is needed. A change of the scheduler counts from the next
new flow on; flows that exist stay where they are.

Examples:
  lb service set web --on-down keep --failback false
  lb service set web --timeout tcp-established=1h --timeout tcp-syn=10s
  lb service set web --scheduler maglev --affinity off"
    )]
    Set(SetArgs),
    /// Remove a service; its flows end
    Remove {
        /// Name, or ADDRESS:PORT/PROTOCOL
        service: String,
    },
}

/// Options of `lb service add`.
#[derive(Debug, Clone, Args)]
pub struct AddArgs {
    /// Unique name
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: String,

    /// Virtual address with a port, ports FIRST-LAST or * for all
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = values::vip)]
    vip: Vip,

    /// tcp, udp or tcp+udp
    #[arg(long, value_enum, default_value = "tcp", hide_possible_values = true)]
    protocol: Protocols,

    /// full-nat, nat, l2-dsr, ipip or gue
    #[arg(long, value_enum, default_value = "full-nat", hide_possible_values = true)]
    mode: ForwardingMode,

    /// A server: ,weight=N ,backup ,tier=N ,max-connections=N ,name=X
    #[arg(long = "backend", value_name = "ADDRESS[:PORT][,...]", value_parser = values::backend)]
    backends: Vec<Backend>,

    #[command(flatten)]
    policy: PolicyArgs,

    /// Leave it to the operator that the host answers for the VIP
    #[arg(long, conflicts_with = "vip_interface")]
    no_vip_address: bool,

    /// Interface that gets the VIP [default: the one in its subnet]
    #[arg(long, value_name = "IFACE")]
    vip_interface: Option<String>,

    #[command(flatten)]
    health: HealthArgs,
}

/// What `add` and `set` share.
#[derive(Debug, Clone, Args)]
pub(super) struct PolicyArgs {
    /// Flows of a dead backend: reset (tcp), move (udp) or keep
    #[arg(long, value_name = "ACTION", value_enum, hide_possible_values = true)]
    on_down: Option<OnDown>,

    /// Whether a recovered lower tier takes new flows back
    #[arg(long, value_name = "true|false", value_parser = clap::value_parser!(bool), hide_possible_values = true)]
    failback: Option<bool>,

    /// Idle timeout: tcp-syn, -established, -fin, -closing or udp
    #[arg(long = "timeout", value_name = "NAME=DURATION", value_parser = values::timeout)]
    timeouts: Vec<TimeoutChange>,

    #[command(flatten)]
    scheduling: SchedulingArgs,
}

/// How a new flow finds its backend.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Scheduling")]
pub(super) struct SchedulingArgs {
    /// round-robin, least-conn, source-hash or maglev
    #[arg(long, value_name = "NAME", value_enum, hide_possible_values = true)]
    scheduler: Option<Scheduler>,

    /// Slots of the hash table, a prime number [default: 65537]
    #[arg(long, value_name = "N", value_parser = values::table_size)]
    maglev_table_size: Option<u32>,

    /// How long a replaced hash table counts [default: 5m]
    #[arg(long, value_name = "DURATION|off", value_parser = values::span)]
    rehash_window: Option<Duration>,

    /// Clients stay with their backend so long [default: off]
    #[arg(long, value_name = "DURATION|off", value_parser = values::span)]
    affinity: Option<Duration>,

    /// Each UDP datagram goes by itself [default: false]
    #[arg(long, value_name = "true|false", value_parser = clap::value_parser!(bool), hide_possible_values = true)]
    one_packet: Option<bool>,

    /// Shares of returning backends climb so long [default: off]
    #[arg(long, value_name = "DURATION|off", value_parser = values::span)]
    slow_start: Option<Duration>,

    /// Drains last so long at most [default: off]
    #[arg(long, value_name = "DURATION|off", value_parser = values::span)]
    drain_timeout: Option<Duration>,

    /// off, under-flood or always [default: off]
    #[arg(long, value_name = "WHEN", value_enum, hide_possible_values = true)]
    syn_cookies: Option<SynCookies>,

    /// Flows to store: all, or of moved slots alone [default: all]
    #[arg(long, value_name = "all|moved", value_enum, hide_possible_values = true)]
    flow_tracking: Option<FlowTracking>,
}

impl SchedulingArgs {
    /// Whether anything besides the scheduler is asked for.
    const fn any(&self) -> bool {
        self.maglev_table_size.is_some()
            || self.rehash_window.is_some()
            || self.affinity.is_some()
            || self.one_packet.is_some()
            || self.slow_start.is_some()
            || self.drain_timeout.is_some()
            || self.syn_cookies.is_some()
            || self.flow_tracking.is_some()
    }

    fn apply(&self, scheduling: &mut Scheduling) {
        let now = *scheduling;
        *scheduling = Scheduling {
            maglev_table_size: self.maglev_table_size.unwrap_or(now.maglev_table_size),
            rehash_window: self.rehash_window.unwrap_or(now.rehash_window),
            affinity: self.affinity.unwrap_or(now.affinity),
            one_packet: self.one_packet.unwrap_or(now.one_packet),
            slow_start: self.slow_start.unwrap_or(now.slow_start),
            drain_timeout: self.drain_timeout.unwrap_or(now.drain_timeout),
            syn_cookies: self.syn_cookies.unwrap_or(now.syn_cookies),
            flow_tracking: self.flow_tracking.unwrap_or(now.flow_tracking),
        };
    }
}

/// Options of `lb service set`.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("change").args([
    "on_down", "failback", "timeouts", "scheduler", "maglev_table_size", "rehash_window", "affinity", "one_packet",
    "slow_start", "drain_timeout", "syn_cookies", "flow_tracking",
]).required(true).multiple(true))]
pub struct SetArgs {
    /// Name, or ADDRESS:PORT/PROTOCOL
    service: String,

    #[command(flatten)]
    policy: PolicyArgs,
}

/// How backends are checked.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Health checks")]
pub(super) struct HealthArgs {
    /// tcp, http:PATH or none [default: tcp; none for udp]
    #[arg(long, value_name = "CHECK", value_parser = values::probe)]
    health: Option<Probe>,

    /// Port to check [default: the backend's]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    health_port: Option<u16>,

    /// Host header of an HTTP check
    #[arg(long, value_name = "HOST")]
    health_host: Option<String>,

    /// Status that an HTTP check expects [default: 200-399]
    #[arg(long, value_name = "N[-M]", value_parser = values::status_range)]
    health_status: Option<RangeInclusive<u16>>,

    /// Text that the body must hold
    #[arg(long, value_name = "TEXT")]
    health_body: Option<String>,

    /// Between two checks [default: 2s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    health_interval: Option<Duration>,

    /// The same while the state changes [default: 500ms at most]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    health_fast_interval: Option<Duration>,

    /// A check that takes longer has failed [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    health_timeout: Option<Duration>,

    /// Successes in a row that bring a backend up [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rise: Option<u32>,

    /// Failures in a row that bring a backend down [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    fall: Option<u32>,
}

impl ServiceCommand {
    pub(super) fn run(&self, session: &Session) -> Result<String, ApiError> {
        match self {
            Self::List => {
                let found = services(session, QUICK)?;
                session.view.show(&found, |view| text(&found, view))
            }
            Self::Show { service } => {
                let found = services(session, QUICK)?;
                let found = find(&found, service)?;
                session.view.show(found, |view| service_page::text(found, view))
            }
            Self::Add(args) => session.change(&Request::ServiceAdd {
                service: Box::new(args.service()?),
            }),
            Self::Set(args) => session.change(&args.request(|| services(session, QUICK))?),
            Self::Remove { service } => session.change(&Request::ServiceRemove {
                service: service.clone(),
            }),
        }
    }
}

impl AddArgs {
    pub(super) fn service(&self) -> Result<Service, ApiError> {
        let (protocol, udp_too) = self.protocol.split();
        let id = ServiceId {
            vip: self.vip.first,
            protocol,
        };
        let mut service = Service::new(self.name.clone(), id);
        service.extent = Extent {
            more_ports: self.vip.more_ports,
            udp_too,
        };
        service.mode = self.mode;
        let mut backends = self.backends.clone();
        backends.iter_mut().for_each(|backend| service.complete(backend));
        service.backends = backends;
        service.vip_address = if self.no_vip_address {
            VipAddress::Manual
        } else {
            VipAddress::Add(self.vip_interface.clone())
        };
        self.health.apply(&mut service.health)?;
        let PolicyArgs {
            on_down,
            failback,
            timeouts,
            scheduling,
        } = &self.policy;
        service.on_down = on_down.unwrap_or(service.on_down);
        service.failback = failback.unwrap_or(service.failback);
        service.scheduler = scheduling.scheduler.unwrap_or(service.scheduler);
        scheduling.apply(&mut service.scheduling);
        if service.scheduling.one_packet {
            service.timeouts.udp = service.timeouts.udp.min(Scheduling::ONE_PACKET_TIMEOUT);
        }
        timeouts.iter().for_each(|change| change.apply(&mut service.timeouts));
        Ok(service)
    }
}

impl HealthArgs {
    fn apply(&self, check: &mut HealthCheck) -> Result<(), ApiError> {
        if let Some(probe) = &self.health {
            check.probe = probe.clone();
        }
        self.apply_http(check)?;
        check.port = self.health_port;
        check.interval = self.health_interval.unwrap_or(check.interval);
        // A short interval takes the defaults that depend on it along.
        check.fast_interval = self
            .health_fast_interval
            .unwrap_or(check.fast_interval.min(check.interval));
        check.start_jitter = check.start_jitter.min(check.interval);
        check.timeout = self.health_timeout.unwrap_or(check.timeout);
        check.rise = self.rise.unwrap_or(check.rise);
        check.fall = self.fall.unwrap_or(check.fall);
        Ok(())
    }

    fn apply_http(&self, check: &mut HealthCheck) -> Result<(), ApiError> {
        let Probe::Http(http) = &mut check.probe else {
            let given = self.health_host.is_some() || self.health_status.is_some() || self.health_body.is_some();
            return if given {
                Err(ApiError {
                    kind: ErrorKind::Invalid,
                    message: "--health-host, --health-status and --health-body belong to --health http:PATH".to_owned(),
                })
            } else {
                Ok(())
            };
        };
        http.host.clone_from(&self.health_host);
        http.body.clone_from(&self.health_body);
        if let Some(status) = &self.health_status {
            http.status = status.clone();
        }
        Ok(())
    }
}

impl SetArgs {
    /// `now` lists the services: a change of one timeout is sent with the others as they are, and so with scheduling.
    pub(super) fn request(
        &self,
        now: impl FnOnce() -> Result<Vec<ServiceReport>, ApiError>,
    ) -> Result<Request, ApiError> {
        let PolicyArgs {
            on_down,
            failback,
            timeouts: changes,
            scheduling: wanted,
        } = &self.policy;
        let (mut timeouts, mut scheduling) = (None, None);
        if !changes.is_empty() || wanted.any() {
            let found = now()?;
            let service = find(&found, &self.service)?;
            if !changes.is_empty() {
                let timeouts = timeouts.insert(Timeouts::from(service.timeouts));
                changes.iter().for_each(|change| change.apply(timeouts));
            }
            if wanted.any() {
                wanted.apply(scheduling.insert(Scheduling::from(service.scheduling)));
            }
        }
        Ok(Request::ServiceSet {
            service: self.service.clone(),
            change: ServiceChange {
                on_down: *on_down,
                failback: *failback,
                timeouts,
                scheduler: wanted.scheduler,
                scheduling,
            },
        })
    }
}

fn find<'s>(services: &'s [ServiceReport], wanted: &str) -> Result<&'s ServiceReport, ApiError> {
    let found = services.iter().find(|service| is_service(service, wanted));
    found.ok_or_else(|| no_such_service(wanted))
}

/// As `service_matches` does in the daemon.
pub(super) fn is_service(service: &ServiceReport, wanted: &str) -> bool {
    service.name == wanted || service.address == wanted || format!("{}/{}", service.vip, service.protocol) == wanted
}

pub(super) fn no_such_service(wanted: &str) -> ApiError {
    ApiError {
        kind: ErrorKind::NotFound,
        message: format!("there is no service `{wanted}`: lb service list shows them all"),
    }
}

/// All services, as the daemon reports them.
pub(super) fn services(session: &Session, timeout: Duration) -> Result<Vec<ServiceReport>, ApiError> {
    let reply = session.client.call(&Request::ServiceList, timeout)?;
    let Reply::Services { services } = reply else {
        return Err(misfit(&reply));
    };
    Ok(services)
}

pub(super) fn text(services: &[ServiceReport], view: &View) -> String {
    if services.is_empty() {
        return "No services. Add one: lb service add --help\n".to_owned();
    }
    let mut grid = Grid::new(
        2,
        [
            ("NAME", Kind::Text),
            ("VIP", Kind::Text),
            ("STATE", Kind::Text),
            ("BACKENDS", Kind::Number),
            ("MODE", Kind::Text),
            ("ON-DOWN", Kind::Text),
            ("ACTIVE", Kind::Number),
            ("NEW", Kind::Number),
        ],
    );
    for service in services {
        let condition: Condition = verdict::of_service(service).condition;
        let serving = service.backends.iter().filter(|backend| backend.in_rotation).count();
        grid.row([
            service.name.as_str().into(),
            service.address.as_str().into(),
            Cell::toned(condition.word(), condition.tone()),
            format!("{serving}/{}", service.backends.len()).into(),
            service.mode.to_string().into(),
            service.on_down.to_string().into(),
            human::count(service.counters.active_flows).into(),
            human::count(service.counters.new_flows).into(),
        ]);
    }
    grid.render(view)
}
