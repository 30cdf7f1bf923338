//! The flow cache in front of the table of established flows.

use lb_common::{
    abi::{Backend, BackendState},
    flow::{Direction, TcpFlags, Tick},
    flow_cache::{self, Cached, Forwarding},
    splice::Splice,
};

use crate::{
    family::{Family, Key},
    maps::{self, CachePlace},
    packet::Frame,
    parse::{Packet, Places},
    vlan,
};

/// How the packets of a flow are forwarded, and the backend that it belongs to.
pub type Found<F> = (Forwarding<<F as Family>::Addr>, &'static Backend);

/// A flow's key, as places hold it.
type Tuple<F> = <<F as Family>::Addr as Cached>::Tuple;

/// The copy for an established flow's packet, if there is one, and the packet changes nothing.
#[inline(always)]
pub fn find<F: Family>(frame: Frame, packet: &Packet<F>, places: &Places<F>, now: Tick) -> Option<Found<F>> {
    if packet.flags.any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST) {
        return None;
    }
    let (place, tuple) = place::<F>(&packet.key)?;
    let forwarding = flow_cache::find::<F::Addr>(&place, &tuple, now)?;
    if forwarding.direction() == Direction::TO_BACKEND {
        let ethernet = F::ethernet(places.head);
        let [mac] = ethernet.words::<1, 8>();
        let macs = (ethernet.long::<0>(), mac);
        if !forwarding.came_by(macs, frame.ifindex(), vlan::of(frame)) {
            return None;
        }
    }
    let backend = maps::backend(forwarding.backend())?;
    let is_good = backend.state == BackendState::UP && forwarding.is_of_epoch(backend);
    is_good.then_some((forwarding, backend))
}

/// Makes a copy for the packets of an established flow.
#[inline(always)]
pub fn fill<F: Family>(key: &Key<F>, now: Tick) {
    let Some((place, tuple)) = place::<F>(key) else {
        return;
    };
    flow_cache::fill::<F::Addr>(&place, &tuple, now, || {
        let flow = F::flows().get(key)?;
        let backend = maps::backend(flow.backend)?;
        (flow.splice == Splice::NONE).then(|| (Forwarding::of(flow, backend), flow.refresh))
    });
}

/// Voids the copy for a flow's packets, because the entry of the key was removed, or is made anew.
#[inline(always)]
pub fn forget<F: Family>(key: &Key<F>) {
    if let Some((place, tuple)) = place::<F>(key) {
        flow_cache::forget::<F::Addr>(&place, &tuple);
    }
}

#[inline(always)]
fn place<F: Family>(key: &Key<F>) -> Option<(CachePlace<F::Addr>, Tuple<F>)> {
    let tuple = F::Addr::tuple(key);
    Some((F::cache_place(F::Addr::hash(&tuple))?, tuple))
}
