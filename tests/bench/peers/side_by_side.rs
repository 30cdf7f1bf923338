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
        figure::{Target, Unit},
        thousands,
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
            ratio(outcome, bare, Some(table(traffic)), report);
        }
    }
    for outcome in outcomes.iter().filter(|outcome| !outcome.times.is_empty()) {
        let name = outcome.contender.name();
        report
            .add(
                &format!("{name}, program time"),
                Unit::Nanoseconds,
                &outcome.times,
                time_target(outcome.contender, &scene),
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
        balancers.for_each(|outcome| ratio(outcome, nftables, None, report));
    }
    Ok(outcomes)
}

/// A scene as a section's title.
pub(super) fn title(scene: &Scene) -> String {
    let family = match scene.load.traffic {
        Traffic::UdpV4 => "UDP over IPv4",
        Traffic::SynV4 | Traffic::AckV4 => "TCP over IPv4",
        Traffic::UdpV6 => "UDP over IPv6",
    };
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
pub(super) fn ratio(one: &Outcome, other: &Outcome, table: Option<&str>, report: &mut Report) {
    let ratios: Vec<f64> = one.rates.iter().zip(&other.rates).map(|(a, b)| a / b).collect();
    let target = match (one.contender, other.contender) {
        (Contender::FullNat, Contender::BareRedirect) => Some(Target::AtLeast(0.75)),
        (Contender::FullNat, Contender::Nftables) => Some(Target::AtLeast(5.0)),
        _ => None,
    };
    let name = one.contender.name();
    let figure = report.add(
        &format!("{name} to {}", other.contender.name()),
        Unit::Ratio,
        &ratios,
        target,
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

/// Adds what each mode takes over IPv6, by what it takes over IPv4.
pub(super) fn families(ipv4: &[Outcome], ipv6: &[Outcome], report: &mut Report) {
    report.section("IPv6 to IPv4, program time");
    for (four, six) in ipv4.iter().zip(ipv6) {
        if four.contender != six.contender || !four.contender.is_lb() {
            continue;
        }
        let ratios: Vec<f64> = six
            .times
            .iter()
            .zip(&four.times)
            .map(|(six, four)| six / four)
            .collect();
        let void = four.void.as_ref().or(six.void.as_ref());
        report.add(
            four.contender.name(),
            Unit::Ratio,
            &ratios,
            Some(Target::AtMost(1.15)),
            void,
        );
    }
}

/// What `full-nat` should take, and what every mode should at most: the time of Katran's program, measured on a machine whose
/// bare programs showed 23 ns.
pub(super) fn time_target(contender: Contender, scene: &Scene) -> Option<Target> {
    match (contender, scene.load.traffic, scene.flows) {
        (Contender::FullNat, Traffic::UdpV4, 1_000) => Some(Target::AtMost(80.0)),
        (Contender::FullNat, Traffic::UdpV4, 100_000) => Some(Target::AtMost(260.0)),
        (lb, Traffic::UdpV4, 1_000) if lb.is_lb() => Some(Target::AtMost(117.0)),
        (lb, Traffic::UdpV4, 100_000) if lb.is_lb() => Some(Target::AtMost(291.0)),
        (lb, Traffic::UdpV4, 1_000_000) if lb.is_lb() => Some(Target::AtMost(349.0)),
        _ => None,
    }
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
            let wanted = outcome.contender == Contender::FullNat && traffic != Traffic::UdpV6;
            let target = wanted.then_some(Target::AtLeast(500_000.0));
            report
                .add(name, Unit::PerSecond, &outcome.rates, target, outcome.void.as_ref())
                .cell(table(traffic), name, column);
        }
    }
    Ok(())
}
