//! Follows the kernel's announcements: keeps the tables current and tells the controller.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage, neighbour::NeighbourMessage};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    sys::SocketAddr,
};
use tokio::{sync::mpsc, time::Instant};

use super::{error::NetError, message, request::Requests, table::Tables, types::NetEvent};

/// What is listened to. Rules decide over routes, so they count as routes.
pub(super) const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// The tables, shared by the monitor and by those who ask. The lock is never held across an await.
pub(super) type SharedTables = Arc<Mutex<Tables>>;

/// No code panics while it holds the lock; if one did, the tables would still be whole.
pub(super) fn lock(tables: &SharedTables) -> MutexGuard<'_, Tables> {
    tables.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fills the tables from scratch.
pub(super) async fn resync(requests: &Requests, tables: &SharedTables) -> Result<(), NetError> {
    let get_links = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let links = requests.dump("list the interfaces", get_links).await?;
    let get_neighbours = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let neighbours = requests.dump("list the neighbours", get_neighbours).await?;
    let mut tables = lock(tables);
    tables.replace_links(
        links
            .iter()
            .filter_map(|m| {
                if let RouteNetlinkMessage::NewLink(link) = m {
                    message::interface(link)
                } else {
                    None
                }
            })
            .collect(),
    );
    tables.replace_neighbours(
        neighbours
            .iter()
            .filter_map(|m| {
                if let RouteNetlinkMessage::NewNeighbour(neighbour) = m {
                    message::neighbour(neighbour)
                } else {
                    None
                }
            })
            .collect(),
    );
    Ok(())
}

/// Follows the announcements until the connection closes or nobody listens any more.
pub(super) async fn run(
    mut announcements: impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Unpin,
    requests: Requests,
    tables: SharedTables,
    events: mpsc::Sender<NetEvent>,
) {
    // Set while the receiver is so far behind that events were dropped: it gets a `Resync` as soon as there is room.
    let mut behind = false;
    let mut overrun: Option<Overrun> = None;
    loop {
        let resync_at = overrun.as_ref().map_or_else(Instant::now, Overrun::resync_at);
        tokio::select! {
            announcement = announcements.next() => {
                let Some((announcement, _)) = announcement else { break };
                if let NetlinkPayload::Overrun(_) = announcement.payload {
                    overrun.get_or_insert_with(Overrun::now);
                }
                if let Some(overrun) = &mut overrun {
                    overrun.last_announcement = Instant::now();
                }
                if let NetlinkPayload::InnerMessage(message) = announcement.payload
                    && let Some(event) = apply(&message, &mut lock(&tables))
                    && !behind
                {
                    behind = matches!(events.try_send(event), Err(mpsc::error::TrySendError::Full(_)));
                }
            }
            () = tokio::time::sleep_until(resync_at), if overrun.is_some() => {
                overrun = None;
                behind = true;
                if let Err(error) = resync(&requests, &tables).await {
                    tracing::warn!(%error, "network changes were missed, and the network could not be read anew");
                }
            }
            room = events.reserve(), if behind => {
                let Ok(room) = room else { break };
                room.send(NetEvent::Resync);
                behind = false;
            }
            () = events.closed() => break,
        }
    }
}

/// The socket's buffer was full (ENOBUFS), and the kernel dropped announcements.
///
/// It says so once, and goes on dropping until the buffer has been read empty, and what is still in the buffer is older
/// than what was dropped. So the tables are read anew only when the announcements have ceased for a moment: read
/// earlier, old announcements would overwrite what was read, and newer ones might be missing.
struct Overrun {
    since: Instant,
    last_announcement: Instant,
}

impl Overrun {
    const QUIET: Duration = Duration::from_millis(20);
    /// On a network that never rests, a busy reader still has read its buffer empty by then.
    const AT_LATEST: Duration = Duration::from_secs(1);

    fn now() -> Self {
        let now = Instant::now();
        Self {
            since: now,
            last_announcement: now,
        }
    }

    fn resync_at(&self) -> Instant {
        (self.last_announcement + Self::QUIET).min(self.since + Self::AT_LATEST)
    }
}

/// One announcement's effect on the tables, and what it means to the controller.
fn apply(message: &RouteNetlinkMessage, tables: &mut Tables) -> Option<NetEvent> {
    match message {
        RouteNetlinkMessage::NewLink(link) => tables.link_seen(message::interface(link)?),
        RouteNetlinkMessage::DelLink(link) => tables.link_gone(message::interface(link)?.index),
        RouteNetlinkMessage::NewNeighbour(neighbour) => {
            let (key, neighbour) = message::neighbour(neighbour)?;
            tables.neighbour_seen(key, neighbour)
        }
        RouteNetlinkMessage::DelNeighbour(neighbour) => tables.neighbour_gone(message::neighbour(neighbour)?.0),
        RouteNetlinkMessage::NewAddress(address) => address_event(address, true, tables),
        RouteNetlinkMessage::DelAddress(address) => address_event(address, false, tables),
        RouteNetlinkMessage::NewRoute(_)
        | RouteNetlinkMessage::DelRoute(_)
        | RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_) => {
            tables.forget_routes();
            Some(NetEvent::RoutesChanged)
        }
        _ => None,
    }
}

fn address_event(
    address: &netlink_packet_route::address::AddressMessage,
    present: bool,
    tables: &mut Tables,
) -> Option<NetEvent> {
    let address = message::address(address)?;
    tables.forget_routes();
    if !present {
        tables.own_vips.remove(&(address.index, address.address));
    }
    Some(NetEvent::AddressChanged {
        index: address.index,
        address: address.address,
        present,
    })
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use netlink_packet_route::{link::LinkAttribute, route::RouteMessage};
    use rtnetlink::packet_core::NetlinkHeader;

    use super::*;

    /// Ten changes of routes, then silence.
    fn burst() -> impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Unpin {
        let change = || NetlinkMessage::from(RouteNetlinkMessage::NewRoute(RouteMessage::default()));
        let changes = (0..10).map(move |_| (change(), SocketAddr::new(0, 0)));
        stream::iter(changes).chain(stream::pending())
    }

    #[tokio::test]
    async fn what_was_announced_before_an_overrun_does_not_outlive_it() {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let mut old = LinkMessage::default();
        old.header.index = 1;
        old.attributes = vec![LinkAttribute::IfName("lo".to_owned()), LinkAttribute::Mtu(1)];
        let overrun = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Overrun(Vec::new()));
        let messages = [overrun, RouteNetlinkMessage::NewLink(old).into()];
        let messages = messages.map(|m| (m, SocketAddr::new(0, 0)));
        let (events, mut receiver) = mpsc::channel(9);
        let tables = SharedTables::default();
        let announcements = stream::iter(messages).chain(stream::pending());
        tokio::spawn(run(announcements, Requests::new(handle), Arc::clone(&tables), events));
        while receiver.recv().await.unwrap() != NetEvent::Resync {}
        let mtu = lock(&tables).link("lo").unwrap().mtu;
        assert!(mtu > 1, "the kernel's answer was overwritten: {mtu}");
    }

    #[tokio::test]
    async fn a_receiver_that_fell_behind_gets_a_resync() {
        let (_connection, handle, _) = rtnetlink::new_connection().unwrap();
        let (events, mut receiver) = mpsc::channel(3);
        let monitor = tokio::spawn(run(burst(), Requests::new(handle), SharedTables::default(), events));
        tokio::task::yield_now().await;
        let mut received = Vec::new();
        for _ in 0..4 {
            received.push(receiver.recv().await.unwrap());
        }
        assert_eq!(received.pop(), Some(NetEvent::Resync));
        assert!(received.iter().all(|e| *e == NetEvent::RoutesChanged));
        drop(receiver);
        monitor.await.unwrap();
    }
}
