//! Sends the questions that [`super::polls`] says are due, and hears the answers.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use tokio::time::sleep_until;

use super::{
    duplicate::PacketSocket,
    frame,
    monitor::{SharedTables, lock},
    polls::{Poll, TICK},
    table::NeighbourKey,
    types::InterfaceInfo,
};

/// Room for the answers that come within a tick; the default would do for some 200.
const RECEIVE_BUFFER: usize = 4 << 20;
/// At the latest a new next hop is heard of after this.
const IDLE: Duration = Duration::from_millis(250);
/// A frame of the neighbour protocols is shorter; the rest of a longer one is no matter.
const LONGEST_FRAME: usize = 256;

/// Asks until it is aborted.
pub(super) async fn run(tables: SharedTables) {
    let mut sockets = Sockets::default();
    loop {
        let now = Instant::now();
        let next = lock(&tables).polls.due();
        let next = next.map_or(now + IDLE, |due| due.clamp(now + TICK, now + IDLE));
        sleep_until(next.into()).await;
        // What was answered is not asked again.
        let answers = sockets.receive();
        let (due, links) = {
            let mut tables = lock(&tables);
            answers.into_iter().for_each(|key| tables.polls.heard(key));
            tables.due_polls(Instant::now())
        };
        for poll in due {
            if let Some(link) = links.get(&poll.key.ifindex) {
                sockets.send(&poll, link);
            }
        }
    }
}

/// A socket for each interface and IP version with next hops.
#[derive(Default)]
struct Sockets(BTreeMap<(u32, bool), PacketSocket>);

impl Sockets {
    /// Asks. What cannot be sent now is asked again in its turn.
    fn send(&mut self, poll: &Poll, link: &InterfaceInfo) {
        let Some(own) = link.mac else { return };
        let Some(question) = frame::question(poll.key.address, poll.at, own, poll.source) else {
            return;
        };
        let place = (link.index, poll.key.address.is_ipv6());
        if let Err(error) = self.socket(place, poll, link).and_then(|s| s.send(&question)) {
            tracing::debug!(address = %poll.key.address, interface = link.name, %error, "a next hop could not be asked");
            // The interface may have been made anew.
            self.0.remove(&place);
        }
    }

    fn socket(&mut self, place: (u32, bool), poll: &Poll, link: &InterfaceInfo) -> io::Result<&PacketSocket> {
        use std::collections::btree_map::Entry;
        match self.0.entry(place) {
            Entry::Occupied(open) => Ok(open.into_mut()),
            Entry::Vacant(new) => {
                let socket = PacketSocket::open(poll.key.address, link)?;
                socket.as_socket().set_nonblocking(true)?;
                if let Err(error) = setsockopt(&socket.as_socket().as_fd(), RcvBufForce, &RECEIVE_BUFFER) {
                    tracing::debug!(%error, "answers of next hops have little room");
                }
                Ok(new.insert(socket))
            }
        }
    }

    /// Who has been heard of since the last time.
    fn receive(&mut self) -> Vec<NeighbourKey> {
        let mut heard = Vec::new();
        let mut buffer = [0; LONGEST_FRAME];
        self.0.retain(|(ifindex, _), socket| {
            loop {
                match socket.as_socket().read(&mut buffer) {
                    Ok(length) => {
                        let address = buffer.get(..length).and_then(frame::speaker);
                        heard.extend(address.map(|address| NeighbourKey {
                            ifindex: *ifindex,
                            address,
                        }));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
                }
            }
        });
        heard
    }
}
