//! The ranges that values must lie in, each once.

use std::{ops::RangeInclusive, time::Duration};

/// Entries of a flow table.
pub(in crate::config) const FLOWS: RangeInclusive<u32> = 1024..=1 << 24;
/// New flows of a core in a second.
pub(in crate::config) const NEW_FLOWS: RangeInclusive<u32> = 0..=lb_common::limit::MAX_RATE;
/// SYNs of a core in a second that are not answered with cookies.
pub(in crate::config) const SYN_COOKIES_ABOVE: RangeInclusive<u32> = 1..=lb_common::limit::MAX_RATE;
/// Services.
pub(in crate::config) const SERVICES: RangeInclusive<u32> = 1..=65_536;
/// Ports of services; those of one service on every port but as a range, over both protocols, are an eighth of it.
pub(in crate::config) const SERVICE_PORTS: RangeInclusive<u32> = 1..=1 << 20;
/// Backends of all services.
pub(in crate::config) const BACKENDS: RangeInclusive<u32> = 1..=262_144;
/// ICMP messages that a CPU may send in a second.
pub(in crate::config) const ICMP_PER_SECOND: RangeInclusive<u32> = 0..=1_000_000;
/// Slots of all schedules, four bytes each.
pub(in crate::config) const SLOTS: RangeInclusive<u32> = 1024..=1 << 30;
/// Clients that stay with their backend.
pub(in crate::config) const AFFINITY: RangeInclusive<u32> = 1024..=1 << 24;
/// Slots of a Maglev table.
pub(in crate::config) const TABLE: RangeInclusive<u32> = 251..=5_000_011;
/// Time spans that something about the choice of backends lasts; 0 turns it off.
pub(in crate::config) const SPAN: RangeInclusive<Duration> = Duration::ZERO..=WEEK;
/// Active flows of a backend.
pub(in crate::config) const CONNECTIONS: RangeInclusive<u32> = 1..=1 << 30;
/// Share of new flows.
pub(in crate::config) const WEIGHT: RangeInclusive<u16> = 0..=256;
/// Tiers.
pub(in crate::config) const TIER: RangeInclusive<u8> = 0..=9;
/// Ports that packets go to.
pub(in crate::config) const PORT: RangeInclusive<u16> = 1..=65_535;
/// First of the source ports; those below are for servers.
pub(in crate::config) const LOWEST_SOURCE_PORT: u16 = 1024;
/// Results in a row.
pub(in crate::config) const RISE_FALL: RangeInclusive<u32> = 1..=1000;
/// Idle timeouts of flows.
pub(in crate::config) const FLOW_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=WEEK;
/// Between two health checks. A shorter interval would be a load of its own.
pub(in crate::config) const CHECK_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=WEEK;
/// Between two questions to a next hop, unless there are none. A question waits up to 0.7 s for its answer.
pub(in crate::config) const NEIGHBOUR_POLL: RangeInclusive<Duration> = Duration::from_millis(100)..=WEEK;
/// Length of a health check.
pub(in crate::config) const CHECK_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=WEEK;
/// Delay of the first health check.
pub(in crate::config) const START_JITTER: RangeInclusive<Duration> = Duration::ZERO..=WEEK;
/// Bytes of text expected in a body.
pub(in crate::config) const BODY_BYTES: RangeInclusive<usize> = 1..=4096;
/// Bytes of the path of a Unix socket, of the 108 in `sockaddr_un`, less the final NUL.
pub(in crate::config) const SOCKET_PATH_BYTES: usize = 107;
/// Bytes of an interface name: `IFNAMSIZ` less the final NUL.
pub(in crate::config) const INTERFACE_NAME_BYTES: usize = 15;

const WEEK: Duration = Duration::from_hours(7 * 24);
