//! Schedules as the slot arena holds them: in whole pages. Pure.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::abi::{Rotation, SLOTS_PER_PAGE, SlotPage};

use super::ranges::Range;

/// Fills the last page behind the end of a schedule. No rotation reaches it.
const NO_BACKEND: u32 = u32::MAX;

/// Pages that a schedule of `slots` slots takes.
#[must_use]
pub const fn pages_for(slots: u32) -> u32 {
    slots.div_ceil(SLOTS_PER_PAGE)
}

/// The pages that a rotation refers to; none for an empty one.
#[must_use]
pub const fn pages_of(rotation: Rotation) -> Range {
    Range {
        first: rotation.base() / SLOTS_PER_PAGE,
        len: pages_for(rotation.len()),
    }
}

/// The pages of one schedule, one after the other as in the arena. They are shared, not copied: a Maglev table has a
/// thousand of them, which stand in several cuts of the maps at a time.
pub type Pages = Arc<[SlotPage]>;

/// How many slots a schedule has.
#[must_use]
pub fn len(order: &[u32]) -> u32 {
    u32::try_from(order.len()).unwrap_or(u32::MAX)
}

/// A schedule in pages: the slots that `order` names by their positions in `backends`.
#[must_use]
pub fn paginate(order: &[u32], backends: &[u32]) -> Pages {
    in_pages(order, |position| name(position, backends))
}

/// The slots that `order` names by their positions in `backends`.
#[must_use]
pub fn named(order: &[u32], backends: &[u32]) -> Vec<u32> {
    order.iter().map(|position| name(*position, backends)).collect()
}

fn name(position: u32, backends: &[u32]) -> u32 {
    backends.get(position as usize).copied().unwrap_or(NO_BACKEND)
}

/// A schedule in pages, slot by slot as `slot` makes them.
#[must_use]
pub fn in_pages(order: &[u32], slot: impl Fn(u32) -> u32) -> Pages {
    let page = |chunk: &[u32]| {
        let mut page = SlotPage([NO_BACKEND; SLOTS_PER_PAGE as usize]);
        for (place, from) in page.0.iter_mut().zip(chunk) {
            *place = slot(*from);
        }
        page
    };
    order.chunks(SLOTS_PER_PAGE as usize).map(page).collect()
}

/// Whether a rotation refers to these pages, for as many slots.
#[must_use]
pub fn is_order(rotation: Rotation, all: &BTreeMap<u32, Pages>, pages: &Pages, slots: u32) -> bool {
    rotation.len() == slots && all.get(&pages_of(rotation).first) == Some(pages)
}

/// The schedule that a rotation refers to, perhaps with marks ([`super::moved`]); `None` when a page is missing.
#[must_use]
pub fn order_of(rotation: Rotation, all: &BTreeMap<u32, Pages>) -> Option<Vec<u32>> {
    let Range { first, len } = pages_of(rotation);
    if len == 0 {
        return Some(Vec::new());
    }
    let pages = all.get(&first)?.get(..len as usize)?;
    let slots = pages.iter().flat_map(|page| page.0);
    Some(slots.take(rotation.len() as usize).collect())
}

#[cfg(test)]
mod tests {
    use lb_common::abi::Rule;

    use super::*;

    #[test]
    fn a_schedule_survives_pagination() {
        for len in [0u32, 1, 63, 64, 65, 1000] {
            let order: Vec<u32> = (0..len).map(|i| i % 7).collect();
            let backends: Vec<u32> = (20..27).collect();
            let pages = paginate(&order, &backends);
            assert_eq!(pages.len() as u32, pages_for(len));
            let all = BTreeMap::from([(3, Arc::clone(&pages))]);
            let rotation = Rotation::new(3 * SLOTS_PER_PAGE, len, Rule::ROUND_ROBIN);
            let longer = [order.clone(), vec![6]].concat();
            assert!(
                is_order(rotation, &all, &pages, len)
                    && !is_order(rotation, &all, &paginate(&longer, &backends), len + 1)
            );
            let named = order.iter().map(|position| 20 + position).collect();
            assert_eq!(order_of(rotation, &all), Some(named));
        }
        assert_eq!(order_of(Rotation::new(0, 1, Rule::ROUND_ROBIN), &BTreeMap::new()), None);
    }
}
