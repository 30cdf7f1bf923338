//! Curves: the plain scene with one thing varied.

use anyhow::Result;

use super::{
    contender::{Contender, Scene},
    contest::{self, Effort, Outcome},
    side_by_side::{NEW_FLOWS, ratio, ratio_goal, time_goal, title},
};
use crate::{
    bed::traffic::{Load, Traffic},
    report::{Axis, Plot, Report, Table, figure::Unit},
};

/// What is varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vary {
    /// Flows that frames belong to, in turns.
    Flows,
    /// Services, of four backends each.
    Services,
    /// Backends of one service.
    Backends,
    /// Length of frames, in bytes with the frame check sequence.
    Size,
}

/// What is told of every point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    Rate,
    /// Rates over that of a bare redirect.
    Ratio,
    Gigabits,
    Time,
    Opening,
}

impl Vary {
    /// In the order of the report.
    pub(super) const ALL: [Self; 4] = [Self::Flows, Self::Services, Self::Backends, Self::Size];

    const fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Services => "services",
            Self::Backends => "backends",
            Self::Size => "size",
        }
    }

    const fn axis(self) -> (&'static str, Axis) {
        match self {
            Self::Flows => ("flows", Axis::Logarithmic),
            Self::Services => ("services", Axis::Logarithmic),
            Self::Backends => ("backends of the service", Axis::Logarithmic),
            Self::Size => ("bytes of a frame, with its check sequence", Axis::Linear),
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Flows => "Over the number of flows",
            Self::Services => "Over the number of services",
            Self::Backends => "Over the number of backends",
            Self::Size => "Over the size of packets",
        }
    }

    /// The address families that are measured.
    pub(super) const fn families(self) -> &'static [Traffic] {
        match self {
            Self::Flows | Self::Size => &[Traffic::UdpV4, Traffic::UdpV6],
            Self::Services | Self::Backends => &[Traffic::UdpV4],
        }
    }

    const fn measures(self) -> &'static [Measure] {
        match self {
            Self::Flows => &[Measure::Rate, Measure::Ratio, Measure::Time],
            Self::Services | Self::Backends => &[Measure::Rate, Measure::Time, Measure::Opening],
            Self::Size => &[Measure::Rate, Measure::Gigabits, Measure::Time],
        }
    }

    const fn contenders(self) -> &'static [Contender] {
        use Contender::{BareRedirect, FullNat, Ipip, IpipMoved, L2Dsr, L2DsrMoved, Nftables, Routing};
        match self {
            Self::Flows => &[
                BareRedirect,
                FullNat,
                L2Dsr,
                L2DsrMoved,
                Ipip,
                IpipMoved,
                Nftables,
                Routing,
            ],
            Self::Size => &[BareRedirect, FullNat, L2Dsr, Ipip, Nftables, Routing],
            // Routing knows neither services nor backends.
            Self::Services | Self::Backends => &[BareRedirect, FullNat, L2Dsr, Ipip, Nftables],
        }
    }

    /// Where it is measured.
    pub(super) fn points(self, quick: bool, traffic: Traffic) -> Vec<u32> {
        let shortest = u32::from(traffic.shortest());
        match (self, quick) {
            (Self::Flows, true) if traffic == Traffic::UdpV6 => vec![1_000],
            (Self::Flows, true) => vec![1_000, 100_000, 1_000_000],
            (Self::Flows, false) => vec![1, 1_000, 100_000, 1_000_000],
            (Self::Services, true) => vec![1, 1_000],
            (Self::Services, false) => vec![1, 10, 100, 1_000],
            (Self::Backends, true) => vec![1, 100],
            (Self::Backends, false) => vec![1, 4, 16, 64, 100, 1_000],
            (Self::Size, true) => vec![shortest, 1518],
            (Self::Size, false) => vec![shortest, 256, 512, 1024, 1518],
        }
    }

    /// The point that is the main table's scene, if there is one.
    pub(super) fn plain(self, traffic: Traffic) -> Option<u32> {
        match self {
            Self::Flows => Some(1_000),
            Self::Size => Some(traffic.shortest().into()),
            Self::Services | Self::Backends => None,
        }
    }

    fn scene(self, traffic: Traffic, x: u32) -> Result<Scene> {
        let plain = Scene::plain(traffic);
        // Ten for each of a thousand services, or backends.
        let flows = 10_000;
        Ok(match self {
            Self::Flows => Scene { flows: x, ..plain },
            Self::Services => Scene {
                flows,
                load: Load {
                    services: x.try_into()?,
                    ..plain.load
                },
            },
            Self::Backends => Scene {
                flows,
                load: Load {
                    backends: x.try_into()?,
                    ..plain.load
                },
            },
            Self::Size => Scene {
                load: Load {
                    frame: x.try_into()?,
                    ..plain.load
                },
                ..plain
            },
        })
    }

    fn table(self, traffic: Traffic, measure: Measure) -> String {
        let family = match (self.families(), traffic) {
            ([_], _) => "",
            (_, Traffic::UdpV6) => "-ipv6",
            (_, Traffic::UdpV4 | Traffic::SynV4 | Traffic::AckV4) => "-ipv4",
        };
        let measure = match measure {
            Measure::Rate => "rate",
            Measure::Ratio => "ratio",
            Measure::Gigabits => "gigabits",
            Measure::Time => "time",
            Measure::Opening => "opening",
        };
        format!("{}{family}-{measure}", self.name())
    }
}

/// Declares tables and pictures.
pub(super) fn declare(report: &mut Report) {
    for vary in Vary::ALL {
        let (rows, axis) = vary.axis();
        let (mut tables, mut panels) = (Vec::new(), Vec::new());
        for &traffic in vary.families() {
            let family = if traffic == Traffic::UdpV6 { "IPv6" } else { "IPv4" };
            for &measure in vary.measures() {
                let title = match measure {
                    Measure::Rate => format!("Packets of established flows, {family}"),
                    Measure::Ratio => format!("The same over those of a bare redirect, {family}"),
                    Measure::Gigabits => format!("Bits in frames, {family}"),
                    Measure::Time => format!("Program time per packet, {family}"),
                    Measure::Opening => format!("New flows, {family}"),
                };
                let id = vary.table(traffic, measure);
                // Payload is not the programs' business: that picture would be of straight lines. Ratios show in the
                // picture of rates.
                if (vary, measure) != (Vary::Size, Measure::Time) && measure != Measure::Ratio {
                    panels.push(id.clone());
                }
                tables.push(id.clone());
                report.table(Table {
                    id,
                    title,
                    rows,
                    axis: Some(axis),
                });
            }
        }
        report.plot(Plot {
            file: vary.name(),
            title: vary.title(),
            axis: rows,
            tables,
            panels,
        });
    }
}

/// A point in words.
pub(super) fn describe(vary: Vary, traffic: Traffic, x: u32) -> String {
    vary.scene(traffic, x)
        .map_or_else(|error| error.to_string(), |scene| title(&scene))
}

/// Measures a point with packets of established flows.
pub(super) fn established(vary: Vary, traffic: Traffic, x: u32, effort: Effort, report: &mut Report) -> Result<()> {
    let scene = vary.scene(traffic, x)?;
    report.section(&title(&scene));
    let outcomes = contest::established(&scene, vary.contenders(), effort, report)?;
    let all: Vec<_> = outcomes.iter().collect();
    add(vary, &scene, x, &all, true, report);
    let of = |contender| outcomes.iter().find(|outcome| outcome.contender == contender);
    if vary == Vary::Flows
        && traffic == Traffic::UdpV4
        && let (Some(balancer), Some(nftables)) = (of(Contender::FullNat), of(Contender::Nftables))
    {
        ratio(&scene, balancer, nftables, None, report);
    }
    Ok(())
}

/// Adds what the main table has already, as a point of a curve: the plain scene's.
pub(super) fn share(vary: Vary, traffic: Traffic, outcomes: &[Outcome], report: &mut Report) -> Result<()> {
    let Some(x) = vary.plain(traffic) else {
        return Ok(());
    };
    let scene = vary.scene(traffic, x)?;
    let contenders = vary.contenders();
    let its: Vec<_> = outcomes.iter().filter(|o| contenders.contains(&o.contender)).collect();
    add(vary, &scene, x, &its, false, report);
    Ok(())
}

fn add(vary: Vary, scene: &Scene, x: u32, outcomes: &[&Outcome], aloud: bool, report: &mut Report) {
    let traffic = scene.load.traffic;
    let bare = outcomes.iter().find(|o| o.contender == Contender::BareRedirect);
    for &measure in vary.measures() {
        for outcome in outcomes {
            let name = outcome.contender.name();
            let (title, unit, samples, goal) = match measure {
                Measure::Rate => (name.to_owned(), Unit::PerSecond, outcome.rates.clone(), None),
                Measure::Ratio => match bare {
                    Some(bare) if outcome.contender != bare.contender => (
                        format!("{name} to {}", bare.contender.name()),
                        Unit::Ratio,
                        outcome.over(bare),
                        Some(ratio_goal(scene, outcome, bare)),
                    ),
                    _ => continue,
                },
                Measure::Gigabits => (
                    format!("{name}, bits in frames"),
                    Unit::Gigabits,
                    gigabits(&outcome.rates, scene.load.frame),
                    None,
                ),
                Measure::Time => (
                    format!("{name}, program time"),
                    Unit::Nanoseconds,
                    outcome.times.clone(),
                    (vary == Vary::Flows).then(|| time_goal(outcome.contender, scene)),
                ),
                Measure::Opening => continue,
            };
            if samples.is_empty() {
                continue;
            }
            let table = vary.table(traffic, measure);
            let reference = bare.filter(|_| measure == Measure::Ratio);
            let void = outcome.void.as_ref().or(reference.and_then(|bare| bare.void.as_ref()));
            if aloud {
                report
                    .add(&title, unit, &samples, goal.as_deref(), void)
                    .point(&table, x, name);
            } else {
                report.put(&title, unit, &samples, void).point(&table, x, name);
            }
        }
    }
}

fn gigabits(rates: &[f64], frame: u16) -> Vec<f64> {
    rates.iter().map(|rate| rate * f64::from(frame) * 8.0 / 1e9).collect()
}

/// Measures a point with packets that each open a flow.
pub(super) fn opening(vary: Vary, traffic: Traffic, x: u32, effort: Effort, report: &mut Report) -> Result<()> {
    if !vary.measures().contains(&Measure::Opening) {
        return Ok(());
    }
    let scene = Scene {
        flows: NEW_FLOWS,
        ..vary.scene(traffic, x)?
    };
    report.section(&format!("New: {}", title(&scene)));
    for outcome in contest::opening(&scene, &Contender::CURVES, effort, report)? {
        let name = outcome.contender.name();
        report
            .add(name, Unit::PerSecond, &outcome.rates, None, outcome.void.as_ref())
            .point(&vary.table(traffic, Measure::Opening), x, name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_a_scene_with_distinct_tables() {
        let mut tables = std::collections::HashSet::new();
        for vary in Vary::ALL {
            for &traffic in vary.families() {
                for &measure in vary.measures() {
                    assert!(tables.insert(vary.table(traffic, measure)), "{vary:?} {measure:?}");
                }
                for x in vary.points(false, traffic) {
                    let scene = vary.scene(traffic, x).unwrap();
                    assert!(u32::from(scene.load.backends) * u32::from(scene.load.services) <= 4096);
                }
            }
        }
    }

    #[test]
    fn bits_are_those_of_frames() {
        assert_eq!(gigabits(&[1e6], 1250), [10.0]);
    }
}
