//! What is going to be sent, how it is going, and what came of it.

use lb_common::traffic::Counter;

use super::refused;
use crate::{
    api::ApiError,
    bench::{
        meter::Meter,
        progress::Progress,
        report::{Figure, Latency, Outcome, Plan, StoppedBy, Value},
        stop::Stop,
    },
    datapath::traffic::{
        generator::{self, Generator, Phase},
        setup::{Kind, Order, Setup},
    },
};

pub(super) fn plan(setup: &Setup) -> Plan {
    let text = |text: String| Value::Text(text);
    let (what, several) = match setup.kind {
        Kind::Udp => ("UDP datagrams", true),
        Kind::Syn => ("TCP connection requests", false),
        Kind::Ack => ("TCP segments of open connections", true),
        Kind::Handshake => ("TCP handshakes", false),
    };
    let to: Vec<_> = setup.targets.iter().map(|t| t.address.to_string()).collect();
    let hops: Vec<_> = setup.targets.iter().map(|t| t.mac.to_string()).collect();
    let mut plan = Plan::new(format!("{what} to {}", to.join(", ")))
        .line("interface", text(setup.interface.clone()))
        .line("next hop", text(unique(hops).join(", ")))
        .line("source", text(format!("{} and up", setup.source)))
        .line("flows", Value::Count(setup.flows.into()));
    if several {
        plan = plan.line(
            "order",
            text(match setup.order {
                Order::InTurn => "in turn".to_owned(),
                Order::Uniform => "uniform".to_owned(),
                Order::Zipf(exponent) => format!("zipf {exponent}"),
            }),
        );
    }
    let lengths: Vec<_> = setup.lengths().iter().map(|n| (n + 4).to_string()).collect();
    plan = plan.line("frame bytes", text(lengths.join(", ")));
    plan = match setup.rate {
        Some(rate) => plan.line("rate", Value::Rate(rate as f64)),
        None => plan.line("rate", text("as fast as can be".to_owned())),
    };
    if let Some(count) = setup.count {
        plan = plan.line("packets", Value::Count(count));
    }
    let cores: Vec<_> = setup.cores.iter().map(ToString::to_string).collect();
    plan.line("duration at most", Value::Time(setup.duration))
        .line("cores", text(cores.join(", ")))
        .line("run", Value::Count(setup.run.into()))
}

fn unique(mut list: Vec<String>) -> Vec<String> {
    list.dedup();
    list
}

pub(super) fn send(setup: Setup, plan: &Plan, stop: &Stop, progress: &mut Progress) -> Result<Outcome, ApiError> {
    let answers = match setup.kind {
        Kind::Udp => (Counter::Packets, "returned"),
        Kind::Syn | Kind::Ack => (Counter::SynAcks, "accepted"),
        Kind::Handshake => (Counter::Handshakes, "completed"),
    };
    let mut meter = Meter::new(&["sent", answers.1]);
    let every = Meter::interval(setup.duration);
    let mut next = every;
    let mut generator = Generator::prepare(setup.clone()).map_err(refused)?;
    let native = generator.native();
    let came = generator.run(&|| stop.is_asked(), &mut |now| {
        if now.phase == Phase::Sending && now.elapsed >= next {
            next = now.elapsed + every;
            if let Some(reading) = meter.read(now.elapsed, &[now.sent, now.returned.get(answers.0)]) {
                progress.show(&reading);
            }
        }
    });
    // Detached before anything is said.
    drop(generator);
    let came = came.map_err(refused)?;
    let stopped_by = if came.stopped {
        StoppedBy::Interrupt
    } else if setup.count.is_some_and(|count| came.sent >= count) {
        StoppedBy::Count
    } else {
        StoppedBy::Duration
    };
    let mut outcome = Outcome::new(plan.clone(), stopped_by, came.took);
    outcome.figures = figures(&setup, &came);
    outcome.warnings = warnings(&setup, &came, native);
    meter.read(came.took, &[came.sent, came.returned.get(answers.0)]);
    outcome.series = meter.series();
    if !came.latencies.is_empty() {
        let name = if setup.kind == Kind::Udp {
            "round trip"
        } else {
            "SYN to SYN-ACK"
        };
        outcome.latencies = vec![Latency {
            name: name.to_owned(),
            histogram: came.latencies,
        }];
    }
    Ok(outcome)
}

fn figures(setup: &Setup, came: &generator::Outcome) -> Vec<Figure> {
    let seconds = came.took.as_secs_f64().max(1e-9);
    // With the frame check sequence, as sizes are given.
    let bits = (came.bytes + 4 * came.sent) as f64 * 8.0;
    let mut figures = vec![
        Figure::new("sent", Value::Count(came.sent)),
        Figure::new("sent", Value::Rate(came.sent as f64 / seconds)),
        Figure::new("sent", Value::Bits(bits / seconds)),
    ];
    let mut count = |name: &str, counter| {
        figures.push(Figure::new(name, Value::Count(came.returned.get(counter))));
    };
    match setup.kind {
        Kind::Udp => {
            count("returned", Counter::Packets);
            if came.returned.get(Counter::Packets) > 0 {
                count("returned reordered", Counter::Reordered);
                count("returned duplicates", Counter::Duplicates);
            }
        }
        Kind::Syn | Kind::Ack => count("accepted", Counter::SynAcks),
        Kind::Handshake => count("completed", Counter::Handshakes),
    }
    if setup.kind != Kind::Udp {
        count("refused", Counter::Resets);
    }
    if setup.check {
        count("checksum faults", Counter::L4Faults);
        count("header checksum faults", Counter::IpFaults);
    }
    if setup.kind == Kind::Ack {
        figures.push(Figure::new("opened", Value::Count(came.opened)));
    }
    figures
}

fn warnings(setup: &Setup, came: &generator::Outcome, native: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let (left, dropped) = came.interface;
    if left < came.generated - came.generated / 100 {
        warnings.push(format!(
            "{} packets were made, but {} counted {left} as sent and {dropped} as dropped: the rest was lost before the \
             wire, by a queue that was full or a driver that does not send XDP frames",
            came.generated, setup.interface
        ));
    }
    if let Some(rate) = setup.rate
        && !came.stopped
        && (came.sent as f64) < rate as f64 * came.took.as_secs_f64() * 0.99 - 1.0
    {
        warnings.push(format!(
            "the rate of {rate}/s was not reached: use more --cores, or ask for less"
        ));
    }
    if !native {
        warnings.push(format!(
            "the driver of {} has no XDP: what came back went the slower generic way",
            setup.interface
        ));
    }
    warnings
}
