//! The brain: one task that owns all that is wanted, known and written.
//!
//! Requests, health events, network events and timers come in one after the other; each is turned into what is wanted
//! (`outlook`), then into what the maps shall hold ([`crate::plan`]), then into writes. Whatever waits (address
//! look-ups, VIP addresses, walks over the flow tables) runs aside and comes back as an event, so that a health verdict
//! never waits behind it.

mod climb;
mod events;
pub(crate) mod execute;
mod flows;
mod interfaces;
pub mod lock;
pub(crate) mod outlook;
pub mod persist;
pub mod ports;
mod reconcile;
mod requests;
mod saver;
mod start;
mod status;
mod strays;
mod sweep;
mod targets;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod vips;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    iter,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

pub use self::lock::{Lock, LockError};
use self::{
    climb::Climbs,
    events::Internal,
    outlook::{Outlook, World},
    persist::StateFile,
    ports::{Health, HealthEvent, NetEvent, Network},
    saver::Saver,
    sweep::Books,
    vips::Vip,
};
use crate::{
    api::{Counters, Reply, Request},
    datapath::{Attachment, Datapath, DatapathError, FlowTables},
    model::{Config, HealthTarget, ServiceId},
    plan::{Capacities, Layout},
    state::{Desired, Rules},
};

/// Network events are gathered for so long before next hops are looked up again.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Between two walks over the flow tables.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Between two confirmations of the neighbours, and two attempts at what failed in the network.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// Before a failed write is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A request and where its reply goes.
pub type Call = (Request, oneshot::Sender<Reply>);

/// What the controller works with.
pub struct Deps<D, N, H> {
    /// The packet path, loaded or adopted.
    pub datapath: D,
    /// Its flow tables.
    pub flows: Arc<dyn FlowTables>,
    /// The network.
    pub network: Arc<N>,
    /// The health checks.
    pub health: H,
    /// Held as long as the controller runs.
    pub lock: Lock,
}

/// What comes in.
pub struct Inputs {
    /// Requests of the control interface.
    pub requests: mpsc::Receiver<Call>,
    /// Health verdicts.
    pub health: mpsc::UnboundedReceiver<HealthEvent>,
    /// Changes in the network.
    pub network: mpsc::UnboundedReceiver<NetEvent>,
    /// Ends the controller: SIGTERM or SIGINT.
    pub stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// How to run.
#[derive(Debug)]
pub struct Options {
    /// The validated configuration.
    pub config: Config,
    /// Whether the end of the daemon is the end of the packet path.
    pub detach_on_exit: bool,
    /// Whether changes made while an earlier daemon ran are thrown away.
    pub forget_runtime_changes: bool,
    /// Whether the packet path was loaded to forward frames with VLAN tags.
    pub vlans: bool,
    /// Pages of the slot arena.
    pub slot_pages: u32,
    /// Addresses in the source arena.
    pub source_addresses: u32,
    /// Whether the kernel can make SYN cookies.
    pub syn_cookies: bool,
    /// What added services and backends are held to.
    pub rules: Rules,
}

/// Why the controller ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The packet path refused.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// No service could be had, because of their addresses.
    #[error("no service can be served: {0}")]
    Vips(String),
    /// Something is left behind after a detach.
    #[error("not everything was removed: {0}")]
    Teardown(String),
}

/// Runs until it is told to stop. The packet path goes on after that, unless the options or a request say otherwise.
///
/// # Errors
/// When the start fails (what was attached by then is taken back, unless it was adopted), or when something is left
/// behind after a detach. Failures in between are retried, and shown as warnings in the status.
pub async fn run<D, N, H>(deps: Deps<D, N, H>, options: Options, mut inputs: Inputs) -> Result<(), ControllerError>
where
    D: Datapath,
    N: Network,
    H: Health,
{
    let (internal, mut events) = mpsc::unbounded_channel();
    let detach_on_exit = options.detach_on_exit;
    let mut controller = Controller::new(deps, options, internal)?;
    controller.start(&mut events).await?;
    let end = controller.work(&mut inputs, &mut events).await;
    match end {
        End::Stop if !detach_on_exit => {
            controller.save();
            controller.saver.flush().await;
            tracing::info!("stopping; the packet path goes on");
            Ok(())
        }
        End::Stop => controller.detach_for_good(&mut events).await,
        End::Shutdown(reply) => {
            let result = controller.detach_for_good(&mut events).await;
            // The client may be gone; the work is done all the same.
            drop(reply.send(requests::shutdown_reply(&result)));
            result
        }
    }
}

/// Resolves when the process is told to end by SIGTERM or SIGINT.
///
/// # Errors
/// When the signals cannot be caught.
pub fn signals() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Why the work ended.
enum End {
    Stop,
    Shutdown(oneshot::Sender<Reply>),
}

struct Controller<D, N, H> {
    datapath: D,
    flows: Arc<dyn FlowTables>,
    network: Arc<N>,
    health: H,
    _lock: Lock,
    config: Config,
    rules: Rules,
    state_file: StateFile,
    saver: Saver,
    /// Where work that ran aside reports.
    internal: mpsc::UnboundedSender<Internal>,
    /// Whether the packet path was running already.
    adopted: bool,
    started: Instant,
    started_at: SystemTime,

    /// What is wanted, and how many run-time changes that holds.
    desired: Desired,
    changes: u64,
    /// What is known.
    world: World,
    /// What is written.
    layout: Layout,
    /// What became of each service at its last publication.
    outlooks: BTreeMap<ServiceId, Outlook>,
    /// The tier that goes on serving without failback.
    holding: BTreeMap<ServiceId, u8>,
    /// How many backends are at each address.
    addresses: HashMap<std::net::IpAddr, usize>,
    /// Services by what their backends' health checks ask.
    targets: HashMap<HealthTarget, BTreeSet<ServiceId>>,
    /// Services whose last publication failed, and why.
    dirty: BTreeMap<ServiceId, String>,
    retry_at: Option<Instant>,
    /// Backends whose share will climb when they return.
    climbs: Climbs,
    /// When something changes by itself.
    due: Option<Instant>,

    attachments: BTreeMap<String, Result<Attachment, String>>,
    vips: BTreeMap<std::net::IpAddr, Vip>,
    /// Whether the packet path answers echo requests, by VIP, as it was told.
    echo: BTreeMap<std::net::IpAddr, bool>,
    /// Requests that wait for a VIP.
    waiting: Vec<(std::net::IpAddr, Call)>,
    /// Whether the kernel can make SYN cookies.
    syn_cookies: bool,
    /// What is answered to a removal once its VIP has left.
    leaving: Vec<(std::net::IpAddr, oneshot::Sender<Reply>, Reply)>,
    /// When gathered network events are acted on.
    network_due: Option<Instant>,
    /// Whether next hops are being looked up, and whether to do it again after that.
    resolving: bool,
    resolve_again: bool,
    books: Books,
    departed: BTreeMap<ServiceId, Counters>,
}

impl<D: Datapath, N: Network, H: Health> Controller<D, N, H> {
    fn new(
        deps: Deps<D, N, H>,
        options: Options,
        internal: mpsc::UnboundedSender<Internal>,
    ) -> Result<Self, ControllerError> {
        let Options { config, rules, .. } = options;
        let configured = Desired::of_config(&config);
        let state_file = StateFile::new(&config.state_dir, &config.instance);
        let saved = state_file.load();
        let (desired, changes) = persist::restore(&configured, saved.as_ref(), options.forget_runtime_changes);
        let contents = deps.datapath.contents()?;
        let adopted = !contents.services.is_empty() || !contents.backends.is_empty();
        let capacities = Capacities {
            services: config.limits.services,
            backends: config.limits.backends,
            pages: options.slot_pages,
            sources: options.source_addresses,
        };
        let saved = saved.unwrap_or_default();
        let mut controller = Self {
            datapath: deps.datapath,
            flows: deps.flows,
            network: deps.network,
            health: deps.health,
            _lock: deps.lock,
            config,
            rules,
            saver: Saver::new(state_file.clone(), configured),
            state_file,
            internal,
            adopted,
            started: Instant::now(),
            started_at: SystemTime::now(),
            desired,
            changes,
            world: World {
                vlans: options.vlans,
                ..World::default()
            },
            layout: Layout::adopt(contents, capacities, Duration::ZERO),
            outlooks: BTreeMap::new(),
            holding: BTreeMap::new(),
            addresses: HashMap::new(),
            targets: HashMap::new(),
            dirty: BTreeMap::new(),
            retry_at: None,
            climbs: Climbs::default(),
            due: None,
            attachments: BTreeMap::new(),
            vips: BTreeMap::new(),
            echo: BTreeMap::new(),
            waiting: Vec::new(),
            syn_cookies: options.syn_cookies,
            leaving: Vec::new(),
            network_due: None,
            resolving: false,
            resolve_again: false,
            books: Books::default(),
            departed: if adopted {
                saved.departed.into_iter().collect()
            } else {
                BTreeMap::new()
            },
        };
        controller.remember_vips(saved.vips);
        if adopted {
            let today = controller.today();
            climb::restore(&mut controller.world, saved.climbing, today);
        }
        Ok(controller)
    }

    async fn work(&mut self, inputs: &mut Inputs, events: &mut mpsc::UnboundedReceiver<Internal>) -> End {
        let mut sweeps = interval(SWEEP_EVERY);
        let mut refreshes = interval(REFRESH_EVERY);
        for timer in [&mut sweeps, &mut refreshes] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            // Health first: it is what users wait for.
            tokio::select! {
                biased;
                () = &mut inputs.stop => return End::Stop,
                Some(event) = inputs.health.recv() => self.on_health(with_waiting(event, &mut inputs.health)),
                Some(event) = events.recv() => self.on_internal(event),
                Some((request, reply)) = inputs.requests.recv() => {
                    if request == Request::Shutdown {
                        return End::Shutdown(reply);
                    }
                    self.on_request((request, reply));
                }
                Some(event) = inputs.network.recv() => self.on_network(&event),
                () = at(self.network_due) => self.on_network_settled(),
                () = at(self.retry_at) => self.retry(),
                () = at(self.due) => self.on_due(),
                _ = sweeps.tick() => self.begin_sweep(),
                _ = refreshes.tick() => self.refresh(),
            }
        }
    }

    /// The date, in seconds since the Unix epoch; steps of the clock after the start do not count.
    fn today(&self) -> u64 {
        status::seconds(self.started_at + self.now())
    }

    /// Time since the start, as the plan counts it.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// An event, and those that came while others were dealt with.
fn with_waiting(first: HealthEvent, events: &mut mpsc::UnboundedReceiver<HealthEvent>) -> Vec<HealthEvent> {
    iter::once(first)
        .chain(iter::from_fn(|| events.try_recv().ok()))
        .collect()
}

/// Resolves at a time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
