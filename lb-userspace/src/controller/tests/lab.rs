//! A daemon in a box.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use lb_common::abi::BackendState;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    api::{ApiError, BackendChange, BackendReport, HealthReport, HealthState, Reply, Request, ServiceReport, Status},
    controller::{
        Call, ControllerError, Deps, Inputs, Lock, Options,
        ports::{Health, HealthEvent, HopError, NetEvent, Network, NextHop, PlacedVip},
        run,
    },
    datapath::fake::FakeDatapath,
    model::{Config, FullNat, HealthTarget, Interface, Limits, Service, XdpMode},
    plan::{Action, slots::order_of},
    state::Rules,
};

/// A network whose neighbours all answer, unless told otherwise.
#[derive(Debug, Default)]
pub(super) struct FakeNet {
    pub(super) interfaces: BTreeMap<String, u32>,
    /// VLAN devices by name, with the one below.
    pub(super) vlan_devices: BTreeMap<String, String>,
    pub(super) hops: BTreeMap<IpAddr, Result<NextHop, HopError>>,
    /// Who owns addresses that lb must not have.
    pub(super) foreign: Vec<IpAddr>,
    pub(super) vips: BTreeMap<IpAddr, String>,
    pub(super) cleaned: bool,
    pub(super) asked_anew: Vec<IpAddr>,
    /// What it takes to look a next hop up.
    pub(super) takes: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Net(pub(super) Mutex<FakeNet>);

pub(super) fn hop(mac: u8) -> NextHop {
    NextHop {
        ifindex: 1,
        interface: "eth0".into(),
        local_mac: [2, 0, 0, 0, 0, 1],
        remote_mac: [2, 0, 0, 0, 1, mac],
        mtu: 1500,
        gateway: None,
        source: Some(IpAddr::from([10, 0, 1, 254])),
        lower: Vec::new(),
    }
}

impl Network for Net {
    fn interfaces(&self) -> BTreeMap<String, u32> {
        self.0.lock().unwrap().interfaces.clone()
    }

    fn vlan_devices(&self, on: &[String]) -> Vec<String> {
        let devices = self.0.lock().unwrap().vlan_devices.clone();
        devices
            .into_iter()
            .filter(|(_, lower)| on.contains(lower))
            .map(|(name, _)| name)
            .collect()
    }

    async fn next_hop(&self, to: IpAddr) -> Result<NextHop, HopError> {
        let takes = self.0.lock().unwrap().takes;
        sleep(takes).await;
        self.0
            .lock()
            .unwrap()
            .hops
            .get(&to)
            .cloned()
            .unwrap_or_else(|| Ok(hop(1)))
    }

    async fn refresh(&self, _: &[IpAddr]) {}

    async fn ask_anew(&self, backend: IpAddr) {
        self.0.lock().unwrap().asked_anew.push(backend);
    }

    async fn cleanup_neighbours(&self) -> Result<(), String> {
        self.0.lock().unwrap().cleaned = true;
        Ok(())
    }

    async fn add_vip(&self, vip: IpAddr, candidates: &[String]) -> Result<PlacedVip, String> {
        sleep(Duration::from_millis(300)).await;
        let mut net = self.0.lock().unwrap();
        if net.foreign.contains(&vip) {
            return Err(format!("{vip} is already used by another host"));
        }
        let interface = candidates.first().cloned().ok_or("no interface")?;
        net.vips.insert(vip, interface.clone());
        Ok(PlacedVip { interface, ours: true })
    }

    async fn remove_vip(&self, vip: IpAddr, _: &str) -> Result<(), String> {
        sleep(Duration::from_millis(50)).await;
        self.0.lock().unwrap().vips.remove(&vip);
        Ok(())
    }

    fn adopt_vip(&self, _: IpAddr, _: &str) {}

    async fn announce_vip(&self, _: IpAddr, _: &str) -> Result<(), String> {
        Ok(())
    }
}

pub(super) type Targets = Vec<(HealthTarget, Option<HealthState>)>;

#[derive(Debug, Clone, Default)]
pub(super) struct FakeHealth(Arc<Mutex<Targets>>);

impl Health for FakeHealth {
    fn set_targets(&mut self, targets: Targets) {
        *self.0.lock().unwrap() = targets;
    }

    fn change_targets(&mut self, gone: &[HealthTarget], new: Targets) {
        let mut targets = self.0.lock().unwrap();
        for (target, _) in &new {
            assert!(!gone.contains(target), "{target:?} stays");
        }
        targets.retain(|(target, _)| !gone.contains(target));
        for (target, state) in new {
            if targets.iter().all(|(known, _)| *known != target) {
                targets.push((target, state));
            }
        }
    }

    fn snapshot(&self, _: &HealthTarget) -> Option<HealthReport> {
        None
    }
}

impl FakeHealth {
    /// Last octets of the addresses that are checked.
    pub(super) fn checked(&self) -> Vec<u8> {
        let last = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[15],
        };
        let targets = self.0.lock().unwrap();
        let mut checked: Vec<u8> = targets.iter().map(|(target, _)| last(target.address.ip())).collect();
        checked.sort_unstable();
        checked
    }

    /// The state that a backend's checks were told to start from.
    pub(super) fn initial(&self, service: &Service, backend: usize) -> Option<HealthState> {
        let wanted = service.health_target(&service.backends[backend]);
        let targets = self.0.lock().unwrap();
        targets
            .iter()
            .find(|(target, _)| *target == wanted)
            .and_then(|(_, state)| *state)
    }
}

/// What outlives a daemon: the host.
pub(super) struct Host {
    pub(super) datapath: FakeDatapath,
    pub(super) net: Arc<Net>,
    dir: TempDir,
}

/// A running daemon.
pub(super) struct Daemon {
    pub(super) datapath: FakeDatapath,
    pub(super) net: Arc<Net>,
    pub(super) targets: FakeHealth,
    pub(super) network: mpsc::UnboundedSender<NetEvent>,
    health: mpsc::UnboundedSender<HealthEvent>,
    requests: mpsc::Sender<Call>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ControllerError>>,
}

impl Host {
    pub(super) fn new() -> Self {
        let net = Net::default();
        net.0.lock().unwrap().interfaces = [("eth0".to_owned(), 1)].into();
        Self {
            datapath: FakeDatapath::with_interfaces(&["eth0"]),
            net: Arc::new(net),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn options(&self, services: &[Service]) -> Options {
        Options {
            config: Config {
                instance: "default".into(),
                socket: PathBuf::new(),
                bpffs: PathBuf::new(),
                state_dir: self.dir.path().to_owned(),
                interfaces: vec![Interface {
                    name: "eth0".into(),
                    xdp: XdpMode::Auto,
                }],
                limits: Limits::default(),
                full_nat: FullNat::default(),
                tunnel: crate::model::Tunnel::default(),
                vlans: None,
                neighbour_poll: Config::NEIGHBOUR_POLL,
                services: services.to_vec(),
            },
            vlans: true,
            detach_on_exit: false,
            forget_runtime_changes: false,
            slot_pages: 64,
            syn_cookies: true,
            source_addresses: 16,
            rules: Rules {
                service: Box::new(|_, _| Ok(())),
                backend: Box::new(|_, _, _| Ok(())),
            },
        }
    }

    /// A daemon, once it has come to rest.
    pub(super) async fn daemon(&self, services: &[Service]) -> Daemon {
        self.daemon_with(self.options(services)).await
    }

    pub(super) async fn daemon_with(&self, options: Options) -> Daemon {
        let (requests, requests_in) = mpsc::channel(8);
        let (health, health_in) = mpsc::unbounded_channel();
        let (network, network_in) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let targets = FakeHealth::default();
        let deps = Deps {
            datapath: self.datapath.clone(),
            flows: Arc::new(self.datapath.clone()),
            network: Arc::clone(&self.net),
            health: targets.clone(),
            lock: Lock::acquire(self.dir.path(), "default").unwrap(),
        };
        let inputs = Inputs {
            requests: requests_in,
            health: health_in,
            network: network_in,
            stop: Box::pin(async move { drop(stopped.await) }),
        };
        let task = tokio::spawn(run(deps, options, inputs));
        sleep(Duration::from_secs(1)).await;
        Daemon {
            datapath: self.datapath.clone(),
            net: Arc::clone(&self.net),
            targets,
            network,
            health,
            requests,
            stop: Some(stop),
            task,
        }
    }
}

impl Daemon {
    /// A verdict on a backend of a service, and what was written for it.
    pub(super) async fn verdict(&self, service: &Service, backend: usize, state: HealthState) -> Vec<Action> {
        self.verdicts(service, &[backend], state).await
    }

    /// The same of several that come at a time.
    pub(super) async fn verdicts(&self, service: &Service, backends: &[usize], state: HealthState) -> Vec<Action> {
        self.datapath.take_log();
        let report = HealthReport {
            state,
            since: 0,
            last_result: Some("connection refused".into()),
            latency_ms: None,
            progress: (0, 0),
        };
        for backend in backends {
            let target = service.health_target(&service.backends[*backend]);
            let report = report.clone();
            self.health.send(HealthEvent { target, report }).unwrap();
        }
        sleep(Duration::from_millis(1)).await;
        self.datapath.take_log()
    }

    pub(super) async fn all_up(&self, service: &Service) {
        for backend in 0..service.backends.len() {
            self.verdict(service, backend, HealthState::Up).await;
        }
    }

    pub(super) async fn ask_later(&self, request: Request) -> oneshot::Receiver<Reply> {
        let (reply, answer) = oneshot::channel();
        self.requests.send((request, reply)).await.unwrap();
        answer
    }

    pub(super) async fn ask(&self, request: Request) -> Result<Reply, ApiError> {
        let reply = self.ask_later(request).await.await.unwrap();
        if let Reply::Error { error } = reply {
            return Err(error);
        }
        Ok(reply)
    }

    pub(super) async fn set(&self, backend: &str, change: BackendChange) -> Vec<Action> {
        self.datapath.take_log();
        self.ask(Request::BackendSet {
            service: "web".into(),
            backend: backend.into(),
            change,
        })
        .await
        .unwrap();
        self.datapath.take_log()
    }

    pub(super) async fn status(&self) -> Status {
        let Ok(Reply::Status { status }) = self.ask(Request::Status).await else {
            panic!("no status");
        };
        *status
    }

    pub(super) async fn service(&self) -> ServiceReport {
        self.status().await.services.remove(0)
    }

    pub(super) async fn backend(&self, name: &str) -> BackendReport {
        let service = self.service().await;
        service.backends.into_iter().find(|b| b.name == name).unwrap()
    }

    pub(super) async fn network_event(&self, event: NetEvent) -> Vec<Action> {
        self.datapath.take_log();
        self.network.send(event).unwrap();
        sleep(Duration::from_millis(400)).await;
        self.datapath.take_log()
    }

    /// Last octets of the backends that take turns in the only service, in order.
    pub(super) fn order(&self) -> Vec<u8> {
        let state = self.datapath.state();
        let Some(service) = state.maps.services.values().next() else {
            return Vec::new();
        };
        let order = order_of(state.maps.rotations[&service.index], &state.maps.pages).unwrap();
        let last_octet = |i: &u32| state.maps.backends[i].address[0].to_ne_bytes()[3];
        order.iter().map(last_octet).collect()
    }

    /// States of all backend entries by index.
    pub(super) fn states(&self) -> Vec<(u32, BackendState)> {
        self.datapath
            .state()
            .maps
            .backends
            .iter()
            .map(|(i, b)| (*i, b.state))
            .collect()
    }

    pub(super) async fn stop(mut self) {
        drop(self.stop.take());
        self.task.await.unwrap().unwrap();
    }

    /// As `kill -9` does.
    pub(super) async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }

    pub(super) async fn end(self) -> Result<(), ControllerError> {
        self.task.await.unwrap()
    }
}
