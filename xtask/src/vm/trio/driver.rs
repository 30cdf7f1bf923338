//! What the virtio-net driver counts of packets that the packet path saw.

use std::collections::BTreeMap;

use anyhow::Result;

use super::guest::Guest;

/// Of one device.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DriverCounters {
    /// By queue.
    pub(super) received: BTreeMap<u32, u64>,
    /// By `XDP_TX`, over all queues.
    pub(super) transmitted: u64,
    /// To another device.
    pub(super) redirected: u64,
    pub(super) dropped: u64,
}

impl DriverCounters {
    /// Asks for those of an interface.
    ///
    /// # Errors
    /// When the guest is off.
    pub(super) fn read(guest: &mut Guest, number: u8) -> Result<Self> {
        let said = guest.run(&format!("ethtool -S eth{number} | grep xdp"))?;
        Ok(Self::parse(&said))
    }

    /// Queues by which packets came.
    pub(super) fn queues(&self) -> usize {
        self.received.values().filter(|packets| **packets > 0).count()
    }

    /// Reads `ethtool --statistics`: `rx_queue_0_xdp_tx` in Linux 6.1; `rx0_xdp_tx`, and `rx_xdp_tx` for all queues, in 6.12.
    fn parse(text: &str) -> Self {
        let mut counters = Self::default();
        let lines = text.lines().filter_map(|line| line.trim().split_once(": "));
        for (name, value) in lines {
            let Some((queue, what)) = name.split_once("_xdp_") else {
                continue;
            };
            let Ok(number) = queue.trim_start_matches(|c: char| !c.is_ascii_digit()).parse() else {
                continue;
            };
            let value: u64 = value.parse().unwrap_or(0);
            match (queue.starts_with("rx"), what) {
                (true, "packets") => *counters.received.entry(number).or_default() += value,
                (true, "tx") => counters.transmitted += value,
                (true, "redirects") => counters.redirected += value,
                (true, "drops") | (false, "tx_drops") => counters.dropped += value,
                _ => {}
            }
        }
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_counts_by_queue_in_either_spelling() {
        let old = "rx_queue_0_xdp_packets: 6\n rx_queue_1_xdp_packets: 0\n rx_queue_0_xdp_tx: 7\n rx_queue_1_xdp_tx: 2\n rx_queue_0_xdp_redirects: 5\n tx_queue_0_xdp_tx: 90\n tx_queue_0_xdp_tx_drops: 3\n";
        let new = "rx_xdp_packets: 6\n rx0_xdp_packets: 6\n rx1_xdp_packets: 0\n rx_xdp_tx: 9\n rx0_xdp_tx: 7\n rx1_xdp_tx: 2\n rx0_xdp_redirects: 5\n tx0_xdp_tx: 90\n rx0_xdp_drops: 1\n tx0_xdp_tx_drops: 2\n";
        for text in [old, new] {
            let counters = DriverCounters::parse(text);
            assert_eq!((counters.transmitted, counters.redirected, counters.dropped), (9, 5, 3));
            assert_eq!((counters.received.len(), counters.queues()), (2, 1));
        }
    }
}
