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
    let serving = service
        .backends
        .iter()
        .filter(|backend| backend.in_rotation)
        .count();
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
        _ if service
            .backends
            .iter()
            .any(|backend| is_missed(backend, active)) =>
        {
            verdict(Condition::Degraded, serves)
        }
        _ => verdict(Condition::Ok, serves),
    }
}

/// The operator wants it to take new flows when its tier's turn comes.
fn is_wanted(backend: &BackendReport) -> bool {
    backend.admin == AdminState::Enabled && backend.weight > 0
}

fn is_missed(backend: &BackendReport, active: u8) -> bool {
    let ill = matches!(
        backend.health.state,
        HealthState::Down | HealthState::Unknown
    );
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
    if parts.is_empty() {
        parts.push(match judged.len() {
            0 => "no services are configured".to_owned(),
            1 => "the service is healthy".to_owned(),
            n => format!("all {n} services are healthy"),
        });
    }
    let (condition, phrase) = of_interfaces(&status.interfaces);
    worst = worst.max(condition);
    parts.extend(phrase);
    if !status.warnings.is_empty() {
        worst = worst.max(Condition::Degraded);
        parts.push(plural(status.warnings.len(), "warning"));
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
