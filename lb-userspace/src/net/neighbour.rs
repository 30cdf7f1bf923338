//! Has the kernel resolve neighbours, keeps them fresh, and clears up afterwards.

use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourMessage, NeighbourState},
};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::{
    error::{NetError, NextHopError},
    message,
    monitor::{SharedTables, lock},
    request::Requests,
    table::{Neighbour, NeighbourKey},
    types::CleanupScope,
};

/// Has the kernel ask a neighbour for its MAC address, or confirm the one it has. An entry that this makes is marked
/// as `lb`'s; one that exists keeps its owner, and a fixed one is left alone.
pub(super) async fn solicit(requests: &Requests, tables: &SharedTables, key: NeighbourKey) -> Result<(), NetError> {
    let known = lock(tables).neighbour(key).cloned();
    let existing = match known {
        Some(neighbour) => Some(neighbour),
        None if create(requests, key).await? => return Ok(()),
        // The kernel does not announce entries whose address it is still asking for.
        None => look_up(requests, key).await?,
    };
    match existing {
        Some(neighbour) if neighbour.is_fixed() => Ok(()),
        Some(_) => touch(requests, key).await,
        None => Ok(()),
    }
}

/// Has the kernel forget the MAC address that it has, and ask everybody on the link. To confirm an entry, it would ask the old
/// address, for seconds.
pub(super) async fn ask_anew(requests: &Requests, tables: &SharedTables, key: NeighbourKey) -> Result<(), NetError> {
    if lock(tables).neighbour(key).is_some_and(Neighbour::is_fixed) {
        return Ok(());
    }
    delete(requests, key).await?;
    create(requests, key).await.map(drop)
}

/// Makes an entry unless there is one; returns whether it did.
async fn create(requests: &Requests, key: NeighbourKey) -> Result<bool, NetError> {
    let message = RouteNetlinkMessage::NewNeighbour(message::solicitation(key, true));
    let made = requests
        .change("resolve a neighbour", message, NLM_F_CREATE | NLM_F_EXCL)
        .await;
    match made {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Confirms an entry that exists, or makes it if it has just gone.
async fn touch(requests: &Requests, key: NeighbourKey) -> Result<(), NetError> {
    let message = RouteNetlinkMessage::NewNeighbour(message::solicitation(key, false));
    match requests.change("confirm a neighbour", message, 0).await {
        Err(error) if error.errno() == Some(libc::ENOENT) => create(requests, key).await.map(drop),
        done => done,
    }
}

async fn look_up(requests: &Requests, key: NeighbourKey) -> Result<Option<Neighbour>, NetError> {
    let question = RouteNetlinkMessage::GetNeighbour(message::neighbour_message(key));
    match requests.get("look up a neighbour", question).await {
        Ok(Some(RouteNetlinkMessage::NewNeighbour(answer))) => Ok(message::neighbour(&answer).map(|(_, n)| n)),
        Ok(_) => Ok(None),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a failed solicitation says about the next hop.
pub(super) fn solicit_error(key: NeighbourKey, error: NetError) -> NextHopError {
    if error.errno() == Some(libc::ENOBUFS) {
        return NextHopError::NeighbourTableFull { address: key.address };
    }
    error.into()
}

/// Deletes the entries that `lb` made; returns how many.
pub(super) async fn cleanup(
    requests: &Requests,
    tables: &SharedTables,
    scope: CleanupScope,
) -> Result<usize, NetError> {
    let question = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let entries = requests.dump("list the neighbours", question).await?;
    let (mut deleted, mut failure) = (0, None);
    for entry in &entries {
        let RouteNetlinkMessage::NewNeighbour(entry) = entry else {
            continue;
        };
        let Some((key, neighbour)) = message::neighbour(entry) else {
            continue;
        };
        let in_scope = scope == CleanupScope::Host || lock(tables).is_wanted(key);
        if !in_scope || !neighbour.marked || neighbour.state == NeighbourState::Permanent {
            continue;
        }
        lock(tables).forget_wanted(key);
        match delete(requests, key).await {
            Ok(()) => deleted += 1,
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(deleted), Err)
}

async fn delete(requests: &Requests, key: NeighbourKey) -> Result<(), NetError> {
    let message = RouteNetlinkMessage::DelNeighbour(message::neighbour_message(key));
    match requests.change("delete a neighbour", message, 0).await {
        // It, or its interface, went by itself.
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        done => done,
    }
}
