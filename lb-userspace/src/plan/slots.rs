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

/// A schedule in pages. They are shared: a Maglev table has a thousand of them, which stand in several cuts of the maps at a
/// time.
#[must_use]
pub fn paginate(order: &[u32]) -> Vec<Arc<SlotPage>> {
    let page = |slots: &[u32]| {
        let mut page = [NO_BACKEND; SLOTS_PER_PAGE as usize];
        for (place, slot) in page.iter_mut().zip(slots) {
            *place = *slot;
        }
        Arc::new(SlotPage(page))
    };
    order.chunks(SLOTS_PER_PAGE as usize).map(page).collect()
}

/// Whether a rotation refers to this schedule.
#[must_use]
pub fn is_order(rotation: Rotation, pages: &BTreeMap<u32, Arc<SlotPage>>, order: &[u32]) -> bool {
    let Range { first, .. } = pages_of(rotation);
    rotation.len() as usize == order.len()
        && (first..)
            .zip(order.chunks(SLOTS_PER_PAGE as usize))
            .all(|(number, slots)| {
                let page = pages.get(&number).and_then(|page| page.0.get(..slots.len()));
                page == Some(slots)
            })
}

/// The schedule that a rotation refers to; `None` when a page is missing.
#[must_use]
pub fn order_of(rotation: Rotation, pages: &BTreeMap<u32, Arc<SlotPage>>) -> Option<Vec<u32>> {
    let Range { first, len } = pages_of(rotation);
    let mut order = Vec::with_capacity(rotation.len() as usize);
    for number in first..first.checked_add(len)? {
        order.extend_from_slice(&pages.get(&number)?.0);
    }
    order.truncate(rotation.len() as usize);
    Some(order)
}

#[cfg(test)]
mod tests {
    use lb_common::abi::Rule;

    use super::*;

    #[test]
    fn a_schedule_survives_pagination() {
        for len in [0u32, 1, 63, 64, 65, 1000] {
            let order: Vec<u32> = (0..len).map(|i| i % 7).collect();
            let pages = paginate(&order);
            assert_eq!(pages.len() as u32, pages_for(len));
            let pages = (3..).zip(pages).collect();
            let rotation = Rotation::new(3 * SLOTS_PER_PAGE, len, Rule::ROUND_ROBIN);
            assert!(
                is_order(rotation, &pages, &order) && !is_order(rotation, &pages, &[order.clone(), vec![7]].concat())
            );
            assert_eq!(
                order_of(Rotation::new(3 * SLOTS_PER_PAGE, len, Rule::ROUND_ROBIN), &pages),
                Some(order)
            );
        }
        assert_eq!(order_of(Rotation::new(0, 1, Rule::ROUND_ROBIN), &BTreeMap::new()), None);
    }
}
