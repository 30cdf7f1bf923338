//! Clients that stay with their backend, whatever the scheduler, for services that ask for it.

use lb_common::{
    abi::{Affinity, AffinityKey, BackendState, Service},
    flow::Tick,
};

use crate::{family::Family, maps, parse::Packet, select};

/// The backend that the client had last, if that takes new flows. The time begins anew.
#[inline(always)]
pub fn find<F: Family>(service: Service, packet: &Packet<F>, now: Tick) -> Option<u32> {
    if service.affinity == 0 {
        return None;
    }
    let entry = F::affinity(&key::<F>(service, packet))?;
    if entry.expires.passed(now) {
        return None;
    }
    let (index, backend) = (entry.backend, maps::backend(entry.backend)?);
    let takes_new = backend.takes_new != 0 && backend.state == BackendState::UP && backend.service == service.index;
    if !takes_new || select::is_full(index, backend) {
        return None;
    }
    entry.expires = now.plus(service.affinity);
    Some(index)
}

/// Takes note of the backend that was chosen for the client.
#[inline(always)]
pub fn remember<F: Family>(service: Service, packet: &Packet<F>, backend: u32, now: Tick) {
    if service.affinity > 0 {
        let expires = now.plus(service.affinity);
        F::set_affinity(&key::<F>(service, packet), &Affinity { backend, expires });
    }
}

#[inline(always)]
fn key<F: Family>(service: Service, packet: &Packet<F>) -> AffinityKey<F::Addr> {
    AffinityKey {
        client: packet.key.src,
        service: service.index,
    }
}
