//! What a status means: served, served less than it should be, or not served. Pure.

use super::{human::plural, view::Tone};
use crate::{
    api::{BackendReport, HealthState, InterfaceReport, ServiceReport, Status},
    model::AdminState,
};

/// Names that a sentence lists before it says how many more there are.
const NAMED: usize = 5;

/// How well something is served. The worse, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    /// As the operator meant it.
    Ok,
    /// New flows are served, but something that should work does not.
    Degraded,
    /// New flows are refused.
    Down,
}

impl Condition {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Degraded => "DEGRADED",
            Self::Down => "DOWN",
        }
    }

    pub(super) const fn tone(self) -> Tone {
        match self {
            Self::Ok => Tone::Good,
            Self::Degraded => Tone::Warn,
            Self::Down => Tone::Bad,
        }
    }
}

/// A condition, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) condition: Condition,
    pub(super) reason: String,
}

/// About one service. Standby backends, drained and disabled ones, and those of weight 0 are as the operator wants them: they
/// degrade nothing, unless nothing else serves.
pub(super) fn of_service(service: &ServiceReport) -> Verdict {
    let verdict = |condition, reason| Verdict { condition, reason };
    let all = service.backends.len();
    let Some(active) = service.active_tier else {
        return verdict(
            Condition::Down,
            if all == 0 {
                "it has no backends".to_owned()
            } else {
                format!("none of {} takes new flows", plural(all, "backend"))
            },
        );
    };
    let serving = service.backends.iter().filter(|backend| backend.in_rotation).count();
    let serves = format!("{serving} of {} in rotation", plural(all, "backend"));
    let first = service
        .backends
        .iter()
        .filter(|backend| is_wanted(backend))
        .map(|backend| backend.tier)
        .min();
    match first {
        Some(first) if first < active => verdict(
            Condition::Degraded,
            format!("{serves}, tier {active} serves instead of tier {first}"),
        ),
        _ if service.backends.iter().any(|backend| is_missed(backend, active)) => verdict(Condition::Degraded, serves),
        _ => verdict(Condition::Ok, serves),
    }
}

/// The operator wants it to take new flows when its tier's turn comes.
fn is_wanted(backend: &BackendReport) -> bool {
    backend.admin == AdminState::Enabled && backend.weight > 0
}

fn is_missed(backend: &BackendReport, active: u8) -> bool {
    let ill = matches!(backend.health.state, HealthState::Down | HealthState::Unknown);
    is_wanted(backend) && (ill || (!backend.in_rotation && backend.tier <= active))
}

/// Whether packets that come in by an interface reach the packet path.
pub(super) fn is_attached(interface: &InterfaceReport) -> bool {
    matches!(interface.xdp.as_str(), "native" | "generic")
}

/// About everything.
pub(super) fn of_status(status: &Status) -> Verdict {
    let mut worst = Condition::Ok;
    let mut parts = Vec::new();
    let judged: Vec<_> = status
        .services
        .iter()
        .map(|service| (service, of_service(service).condition))
        .collect();
    for (condition, phrase) in [(Condition::Down, "down"), (Condition::Degraded, "degraded")] {
        let named: Vec<_> = judged
            .iter()
            .filter(|(_, found)| *found == condition)
            .map(|(service, _)| service.name.as_str())
            .collect();
        if !named.is_empty() {
            worst = worst.max(condition);
            parts.push(format!(
                "{} of {} {phrase} ({})",
                named.len(),
                plural(judged.len(), "service"),
                some_of(&named)
            ));
        }
    }
    let all_healthy = parts.is_empty();
    let (condition, phrase) = of_interfaces(&status.interfaces);
    worst = worst.max(condition);
    parts.extend(phrase);
    if !status.warnings.is_empty() {
        worst = worst.max(Condition::Degraded);
        parts.push(plural(status.warnings.len(), "warning"));
    }
    if all_healthy {
        parts.push(match judged.len() {
            0 => "no services are configured".to_owned(),
            1 => "the service is healthy".to_owned(),
            n => format!("all {n} services are healthy"),
        });
    }
    Verdict {
        condition: worst,
        reason: parts.join(", "),
    }
}

fn of_interfaces(interfaces: &[InterfaceReport]) -> (Condition, Option<String>) {
    let away: Vec<_> = interfaces
        .iter()
        .filter(|i| !is_attached(i))
        .map(|i| i.name.as_str())
        .collect();
    if away.len() == interfaces.len() {
        let phrase = "the packet path is attached to no interface".to_owned();
        (Condition::Down, Some(phrase))
    } else if away.is_empty() {
        (Condition::Ok, None)
    } else {
        let s = if away.len() == 1 { "" } else { "s" };
        (
            Condition::Degraded,
            Some(format!("not attached to interface{s} {}", some_of(&away))),
        )
    }
}

/// `a, b, c and 4 more`.
fn some_of(names: &[&str]) -> String {
    let shown: Vec<_> = names.iter().take(NAMED).copied().collect();
    match names.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixtures;

    fn verdict(service: &ServiceReport) -> (Condition, String) {
        let Verdict { condition, reason } = of_service(service);
        (condition, reason)
    }

    #[test]
    fn a_dead_standby_degrades_before_it_is_needed() {
        let mut spare = fixtures::down(fixtures::backend("spare", "10.0.0.12:80"), "HTTP 503");
        spare.tier = 1;
        let pool = vec![fixtures::backend("web-1", "10.0.0.11:80"), spare];
        let (condition, _) = verdict(&fixtures::service("web", "10.0.0.100:80", pool));
        assert_eq!(condition, Condition::Degraded);
    }

    #[test]
    fn a_drained_first_tier_is_no_failure() {
        let mut drained = fixtures::backend("web-1", "10.0.0.11:80");
        (drained.admin, drained.in_rotation) = (AdminState::Drain, false);
        let mut spare = fixtures::backend("spare", "10.0.0.12:80");
        spare.tier = 1;
        let (condition, _) = verdict(&fixtures::service("web", "10.0.0.100:80", vec![drained, spare]));
        assert_eq!(condition, Condition::Ok);
    }

    #[test]
    fn a_backend_not_yet_checked_is_missed() {
        let mut fresh = fixtures::backend("web-1", "10.0.0.11:80");
        (fresh.health.state, fresh.in_rotation) = (HealthState::Unknown, false);
        let pool = vec![fresh.clone(), fixtures::backend("web-2", "10.0.0.12:80")];
        let (condition, reason) = verdict(&fixtures::service("web", "10.0.0.100:80", pool));
        assert_eq!(
            (condition, reason.as_str()),
            (Condition::Degraded, "1 of 2 backends in rotation")
        );
        let (condition, _) = verdict(&fixtures::service("web", "10.0.0.100:80", vec![fresh]));
        assert_eq!(condition, Condition::Down);
    }

    #[test]
    fn the_worst_decides_and_problems_come_first() {
        let down = fixtures::service("a", "10.0.0.1:80", Vec::new());
        let mut ill = fixtures::web();
        ill.name = "b".into();
        if let Some(backend) = ill.backends.pop() {
            ill.backends.push(fixtures::down(backend, "HTTP 503"));
        }
        let mut status = fixtures::status(vec![ill, down, fixtures::web()]);
        let found = of_status(&status);
        assert_eq!(found.condition, Condition::Down);
        assert_eq!(found.reason, "1 of 3 services down (a), 1 of 3 services degraded (b)");

        status.services.truncate(0);
        status.services.push(fixtures::web());
        status.warnings.push("look here".into());
        let found = of_status(&status);
        assert_eq!(found.condition, Condition::Degraded);
        assert_eq!(found.reason, "1 warning, the service is healthy");

        status.interfaces.clear();
        assert_eq!(of_status(&status).condition, Condition::Down, "no packet reaches lb");
    }

    #[test]
    fn many_names_are_cut_short() {
        let services = (0..7).map(|n| fixtures::service(&format!("s{n}"), "10.0.0.1:80", Vec::new()));
        let found = of_status(&fixtures::status(services.collect()));
        assert_eq!(found.reason, "7 of 7 services down (s0, s1, s2, s3, s4 and 2 more)");
    }
}
