//! [`Network`] over the Linux kernel.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use netlink_packet_route::RouteNetlinkMessage;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Network,
    error::{NetError, NextHopError},
    monitor::{self, SharedTables, lock},
    neighbour,
    path_test::{self, Answer, Question},
    poll,
    request::Requests,
    route::{self, Route},
    table::{NeighbourKey, Tables, next_hop_key},
    types::{CleanupScope, InterfaceAddress, InterfaceInfo, Mac, NetEvent, NextHop, RemoveVipOutcome, VipOutcome, Way},
    vip,
};

/// Events that may wait for the controller before they are replaced by one [`NetEvent::Resync`].
const EVENT_CAPACITY: usize = 1024;

/// The network namespace that it was started in, over rtnetlink.
///
/// Dropping it ends its tasks and the event stream. The stream also ends if the kernel ends the subscription, which only
/// a lack of memory should make it do: start another one then.
#[derive(Debug)]
pub struct KernelNetwork {
    requests: Requests,
    tables: SharedTables,
    /// Weak, so that the event stream ends with the subscription.
    events: mpsc::WeakSender<NetEvent>,
    tasks: Vec<JoinHandle<()>>,
}

impl KernelNetwork {
    /// Subscribes to the kernel's announcements, reads interfaces and neighbours, and follows them from then on.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When there is no netlink socket to be had, or the kernel does not answer.
    pub async fn start() -> Result<(Self, mpsc::Receiver<NetEvent>), NetError> {
        let open = |source| NetError::Open { source };
        let (connection, handle, _) = rtnetlink::new_connection().map_err(open)?;
        let (subscription, _, announcements) = rtnetlink::new_multicast_connection(&monitor::GROUPS).map_err(open)?;
        let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
        let mut network = Self {
            requests: Requests::new(handle),
            tables: Arc::new(Mutex::new(Tables::default())),
            events: events.downgrade(),
            tasks: vec![tokio::spawn(connection), tokio::spawn(subscription)],
        };
        // Subscribed first, read second: nothing that changes in between is missed.
        monitor::resync(&network.requests, &network.tables).await?;
        network.tasks.push(tokio::spawn(monitor::run(
            announcements,
            network.requests.clone(),
            Arc::clone(&network.tables),
            events,
        )));
        Ok((network, receiver))
    }

    /// Asks next hops from now on whether they are still there, this often, so that another host that takes an address over
    /// without a word is found. Not at all if that is zero.
    pub fn poll_next_hops(&mut self, every: Duration) {
        if !every.is_zero() {
            lock(&self.tables).polls.start(every);
            self.tasks.push(tokio::spawn(poll::run(Arc::clone(&self.tables))));
        }
    }

    /// By which interface packets to an address leave, and by which router. Asks the routing table only: no neighbour is
    /// looked for, and nothing is sent.
    ///
    /// # Errors
    /// Why there is no way.
    pub async fn way_to(&self, to: IpAddr) -> Result<Way, NextHopError> {
        let route = self.route(to).await?;
        let tables = lock(&self.tables);
        let link = tables.links().find(|link| link.index == route.ifindex);
        let link = link.ok_or(NextHopError::NoRoute { to })?;
        Ok(Way {
            interface: link.name.clone(),
            gateway: route.gateway,
        })
    }

    /// Asks a backend, by its next hop, whether it answers for a VIP: see [`Question`].
    ///
    /// # Errors
    /// When raw packets may not be sent.
    pub async fn test_path(&self, question: Question, hop: &NextHop) -> Result<Answer, NetError> {
        path_test::ask(question, hop.clone(), self.link(&hop.interface_name)?).await
    }

    /// Who on an interface's link answers for an address, this host left out.
    ///
    /// # Errors
    /// When the interface is missing or down, or raw packets may not be sent.
    pub async fn claimants(&self, vip: IpAddr, interface: &str) -> Result<Vec<Mac>, NetError> {
        let own = lock(&self.tables).links().filter_map(|l| l.mac).collect();
        path_test::claimants(vip, self.link(interface)?, own).await
    }

    fn link(&self, name: &str) -> Result<InterfaceInfo, NetError> {
        let absent = || NetError::NoSuchInterface { name: name.to_owned() };
        lock(&self.tables).link(name).cloned().ok_or_else(absent)
    }

    /// The route to an address, from the cache or the kernel.
    async fn route(&self, to: IpAddr) -> Result<Route, NextHopError> {
        route::check_address(to)?;
        let now = Instant::now();
        let (cached, generation) = {
            let tables = lock(&self.tables);
            (tables.cached_route(to, now), tables.route_generation())
        };
        if let Some(answer) = cached {
            return answer;
        }
        let answer = self.ask_for_route(to).await?;
        if lock(&self.tables).keep_route(to, answer.clone(), generation, now) {
            self.announce_route_change();
        }
        answer
    }

    /// The outer error is one that says nothing about the route, and is not worth keeping.
    async fn ask_for_route(&self, to: IpAddr) -> Result<Result<Route, NextHopError>, NextHopError> {
        let question = RouteNetlinkMessage::GetRoute(route::question(to));
        match self.requests.get(&format!("look up the route to {to}"), question).await {
            Ok(Some(RouteNetlinkMessage::NewRoute(message))) => Ok(route::answer(to, &message)),
            Ok(_) => Ok(Err(NextHopError::NoRoute { to })),
            Err(error) => route::refusal(to, &error).map(Err).ok_or_else(|| error.into()),
        }
    }

    /// For a change that the kernel kept to itself.
    fn announce_route_change(&self) {
        if let Some(events) = self.events.upgrade() {
            // A receiver that has as many events to read as fit will ask for its routes anyway.
            let _ = events.try_send(NetEvent::RoutesChanged);
        }
    }

    async fn solicit(&self, key: NeighbourKey) -> Result<(), NextHopError> {
        let solicited = neighbour::solicit(&self.requests, &self.tables, key).await;
        solicited.map_err(|error| {
            lock(&self.tables).not_asked(key);
            neighbour::solicit_error(key, error)
        })
    }

    /// Whether the neighbour on the way to a backend is due for a question of the kernel's.
    fn is_due(&self, to: IpAddr, route: &Route) -> bool {
        let mut tables = lock(&self.tables);
        let key = next_hop_key(to, route);
        if tables.usable_link(to, route).is_err() {
            return false;
        }
        tables.want(key);
        tables.polls.add(key, route.source, Instant::now());
        tables.needs_refresh(key)
    }
}

impl Drop for KernelNetwork {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Network for KernelNetwork {
    fn interfaces(&self) -> Vec<InterfaceInfo> {
        lock(&self.tables).links().cloned().collect()
    }

    async fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetError> {
        vip::addresses(&self.requests).await
    }

    async fn next_hop(&self, to: IpAddr) -> Result<NextHop, NextHopError> {
        let route = self.route(to).await?;
        let key = next_hop_key(to, &route);
        let (ask, answer) = {
            let mut tables = lock(&self.tables);
            tables.usable_link(to, &route)?;
            tables.polls.add(key, route.source, Instant::now());
            (tables.want(key), tables.next_hop(to, &route))
        };
        if ask {
            self.solicit(key).await?;
        }
        answer
    }

    async fn refresh(&self, backends: &[IpAddr]) {
        let mut seen = HashSet::new();
        for &to in backends {
            let Ok(route) = self.route(to).await else { continue };
            let key = next_hop_key(to, &route);
            // Backends behind one gateway share it.
            if seen.insert(key)
                && self.is_due(to, &route)
                && let Err(error) = self.solicit(key).await
            {
                tracing::debug!(address = %key.address, %error, "a neighbour could not be refreshed");
            }
        }
        lock(&self.tables).polls.retain(&seen);
    }

    async fn ask_anew(&self, backend: IpAddr) {
        let Ok(route) = self.route(backend).await else { return };
        if route.gateway.is_some() {
            return;
        }
        let asked = neighbour::ask_anew(&self.requests, &self.tables, next_hop_key(backend, &route)).await;
        if let Err(error) = asked {
            tracing::debug!(address = %backend, %error, "a neighbour could not be asked anew");
        }
    }

    async fn cleanup_neighbours(&self, scope: CleanupScope) -> Result<usize, NetError> {
        neighbour::cleanup(&self.requests, &self.tables, scope).await
    }

    async fn add_vip(&self, vip: IpAddr, interface: &str) -> Result<VipOutcome, NetError> {
        vip::add(&self.requests, &self.tables, vip, interface).await
    }

    async fn remove_vip(&self, vip: IpAddr, interface: &str) -> Result<RemoveVipOutcome, NetError> {
        vip::remove(&self.requests, &self.tables, vip, interface).await
    }

    fn adopt_vip(&self, vip: IpAddr, interface: &str) {
        vip::adopt(&self.tables, vip, interface);
    }

    async fn announce_vip(&self, vip: IpAddr, interface: &str) -> Result<(), NetError> {
        vip::announce(&self.tables, vip, interface)
    }
}
