//! The main tables: everyone in the plain scene, with what matters most.

use anyhow::Result;

use super::{
    contender::{Contender, Scene},
    contest::{self, Effort, Outcome},
};
use crate::{
    bed::traffic::Traffic,
    report::{
        Report, Table,
        figure::{Unit, medians},
        goals, thousands,
    },
};

/// New flows in one trial: within the kernel's usual limit of 262,144 tracked connections.
pub(super) const NEW_FLOWS: u32 = 200_000;

/// The name of a family's main table.
pub(super) const fn table(traffic: Traffic) -> &'static str {
    match traffic {
        Traffic::UdpV4 | Traffic::SynV4 | Traffic::AckV4 => "main-ipv4",
        Traffic::UdpV6 => "main-ipv6",
    }
}

/// Declares the tables.
pub(super) fn declare(report: &mut Report) {
    for (traffic, title) in [
        (
            Traffic::UdpV4,
            "IPv4: UDP, 64 bytes, 1,000 flows, one service over four backends, on one core; HTTP with keep-alive, on all cores",
        ),
        (
            Traffic::UdpV6,
            "IPv6: UDP, 68 bytes, 1,000 flows, one service over four backends, on one core",
        ),
    ] {
        report.table(Table {
            id: table(traffic).to_owned(),
            title: title.to_owned(),
            rows: "contender",
            axis: None,
        });
    }
}

/// Measures packets of established flows in the plain scene. What it returns is a point of the curves as well.
pub(super) fn established(traffic: Traffic, effort: Effort, report: &mut Report) -> Result<Vec<Outcome>> {
    let scene = Scene::plain(traffic);
    report.section(&title(&scene));
    let outcomes = contest::established(&scene, &Contender::ALL, effort, report)?;
    let rates_of = |contender| outcomes.iter().find(|outcome| outcome.contender == contender);
    for outcome in &outcomes {
        let (name, void) = (outcome.contender.name(), outcome.void.as_ref());
        report
            .add(name, Unit::PerSecond, &outcome.rates, None, void)
            .cell(table(traffic), name, "packets");
    }
    if let Some(bare) = rates_of(Contender::BareRedirect) {
        for outcome in &outcomes {
            ratio(&scene, outcome, bare, Some(table(traffic)), report);
        }
    }
    for outcome in outcomes.iter().filter(|outcome| !outcome.times.is_empty()) {
        let name = outcome.contender.name();
        report
            .add(
                &format!("{name}, program time"),
                Unit::Nanoseconds,
                &outcome.times,
                Some(&time_goal(outcome.contender, &scene)),
                outcome.void.as_ref(),
            )
            .cell(table(traffic), name, "program time");
    }
    if let Some(bare) = rates_of(Contender::BareTx) {
        for outcome in &outcomes {
            net_time(outcome, bare, table(traffic), report);
        }
    }
    if let Some(nftables) = rates_of(Contender::Nftables) {
        let balancers = outcomes.iter().filter(|o| o.contender == Contender::FullNat);
        balancers.for_each(|outcome| ratio(&scene, outcome, nftables, None, report));
    }
    Ok(outcomes)
}

/// A scene's family and number of flows, as goals have them.
fn circumstances(scene: &Scene) -> (&'static str, String) {
    let family = match scene.load.traffic {
        Traffic::UdpV4 | Traffic::SynV4 | Traffic::AckV4 => "IPv4",
        Traffic::UdpV6 => "IPv6",
    };
    (family, thousands(scene.flows))
}

/// The name of a ratio among goals.
pub(super) fn ratio_goal(scene: &Scene, one: &Outcome, other: &Outcome) -> String {
    let (family, flows) = circumstances(scene);
    goals::ratio(one.contender.name(), other.contender.name(), family, &flows)
}

/// The name of a time among goals.
pub(super) fn time_goal(contender: Contender, scene: &Scene) -> String {
    let (family, flows) = circumstances(scene);
    goals::time(contender.name(), family, &flows)
}

/// Transport and family.
const fn family(traffic: Traffic) -> &'static str {
    match traffic {
        Traffic::UdpV4 => "UDP over IPv4",
        Traffic::SynV4 | Traffic::AckV4 => "TCP over IPv4",
        Traffic::UdpV6 => "UDP over IPv6",
    }
}

/// A scene as a section's title.
pub(super) fn title(scene: &Scene) -> String {
    let family = family(scene.load.traffic);
    let plural = |number: u32, noun: &str| {
        let ending = if number == 1 { "" } else { "s" };
        format!("{} {noun}{ending}", thousands(number))
    };
    let remark = scene.remark().map(|remark| format!(" ({remark})")).unwrap_or_default();
    format!(
        "{family}, {} bytes, {}, {} of {}{remark}",
        scene.load.frame,
        plural(scene.flows, "flow"),
        plural(scene.load.services.into(), "service"),
        plural(scene.load.backends.into(), "backend"),
    )
}

/// Adds one's rate over another's, by round.
pub(super) fn ratio(scene: &Scene, one: &Outcome, other: &Outcome, table: Option<&str>, report: &mut Report) {
    let name = one.contender.name();
    let goal = ratio_goal(scene, one, other);
    let figure = report.add(
        &format!("{name} to {}", other.contender.name()),
        Unit::Ratio,
        &one.over(other),
        Some(&goal),
        one.void.as_ref().or(other.void.as_ref()),
    );
    if let Some(table) = table {
        figure.cell(table, name, "to bare redirect");
    }
}

/// Adds what a fast machine and a slow one have in common: neither the statistics nor the calls around them count.
fn net_time(one: &Outcome, bare: &Outcome, table: &str, report: &mut Report) {
    if one.times.is_empty() || one.contender == Contender::BareTx {
        return;
    }
    let name = one.contender.name();
    let own: Vec<f64> = one.times.iter().zip(&bare.times).map(|(one, tx)| one - tx).collect();
    report
        .add(
            &format!("{name}, less what bare XDP_TX shows"),
            Unit::Nanoseconds,
            &own,
            None,
            one.void.as_ref().or(bare.void.as_ref()),
        )
        .cell(table, name, "program time less bare XDP_TX");
}

/// Measures what each mode takes over IPv6, by what it takes over IPv4.
pub(super) fn families(samples: usize, report: &mut Report) -> Result<()> {
    const TURNS: usize = 25;
    report.section("IPv6 to IPv4, program time, 1,000 flows");
    let turns = u32::try_from(samples * TURNS)?;
    let scenes = [Scene::plain(Traffic::UdpV6), Scene::plain(Traffic::UdpV4)];
    for contender in Contender::ALL.into_iter().filter(|contender| contender.is_lb()) {
        let (ratios, void) = contest::times_by_turn(scenes.each_ref(), contender, turns)?;
        report.add(
            contender.name(),
            Unit::Ratio,
            &medians(&ratios, TURNS),
            Some(&goals::families(contender.name())),
            void.as_ref(),
        );
    }
    Ok(())
}

/// Measures new flows a second.
pub(super) fn opening(effort: Effort, report: &mut Report) -> Result<()> {
    for (traffic, column) in [
        (Traffic::UdpV4, "new flows, UDP"),
        (Traffic::SynV4, "new flows, TCP"),
        (Traffic::UdpV6, "new flows, UDP"),
    ] {
        let scene = Scene {
            flows: NEW_FLOWS,
            ..Scene::plain(traffic)
        };
        report.section(&format!("New: {}", title(&scene)));
        for outcome in contest::opening(&scene, &Contender::BALANCERS, effort, report)? {
            let name = outcome.contender.name();
            let goal = goals::opening(name, family(traffic));
            report
                .add(
                    name,
                    Unit::PerSecond,
                    &outcome.rates,
                    Some(&goal),
                    outcome.void.as_ref(),
                )
                .cell(table(traffic), name, column);
        }
    }
    Ok(())
}
