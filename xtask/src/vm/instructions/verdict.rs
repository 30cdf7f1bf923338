//! What the figures mean for a change: pure.

use std::{collections::BTreeSet, fmt};

use super::{
    figures::Taken,
    guest::{Measured, Reading},
};

/// By how much a path may differ from its checked-in figure.
pub(super) const TOLERANCE: f64 = 0.02;
/// How many times as many instructions IPVS takes at least for a packet of an established flow.
pub(super) const IPVS_TIMES: f64 = 4.0;

/// Ways on which packets get another header. IPVS rewrites packets here, which is no measure of that.
const TUNNELS: [&str; 2] = ["lb ipip", "lb gue"];

const HOW_TO_UPDATE: &str = "cargo xtask vm instructions --update";

/// Something to say of a path.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Finding {
    /// The packets did not go the way that was to be measured.
    Void(String),
    /// It costs more than what is checked in.
    Dearer { was: f64, is: f64 },
    /// It costs less.
    Cheaper { was: f64, is: f64 },
    /// No figure is checked in.
    Unknown(f64),
    /// A figure is checked in that was not measured.
    NotMeasured,
    /// IPVS costs too little more.
    NearIpvs(f64),
    /// What IPVS costs was not measured.
    WithoutIpvs,
    /// The figures were taken with another version of the kernel; says which, and which this is.
    OtherKernel { was: String, is: String },
}

impl Finding {
    /// Whether the change cannot go in like this.
    pub(super) const fn fails(&self) -> bool {
        !matches!(self, Self::Cheaper { .. } | Self::OtherKernel { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Void(reason) => write!(f, "void: {reason}"),
            Self::Dearer { was, is } => write!(
                f,
                "{is:.0} instructions per packet where {was:.0} are checked in ({:+.1} %, at most {:+.0} %): make it cheaper, \
                 or say in the commit why it is worth it and run `{HOW_TO_UPDATE}` for it",
                change(*was, *is),
                TOLERANCE * 100.0
            ),
            Self::Cheaper { was, is } => write!(
                f,
                "only {is:.0} instructions per packet where {was:.0} are checked in ({:+.1} %): run `{HOW_TO_UPDATE}` and \
                 commit the figures, so that what was won is kept",
                change(*was, *is)
            ),
            Self::Unknown(is) => write!(
                f,
                "{is:.0} instructions per packet, and no figure is checked in: run `{HOW_TO_UPDATE}`"
            ),
            Self::NotMeasured => write!(
                f,
                "a figure is checked in, but it is not measured: run `{HOW_TO_UPDATE}`"
            ),
            Self::NearIpvs(times) => write!(
                f,
                "IPVS takes only {times:.2} times as many instructions (at least {IPVS_TIMES})"
            ),
            Self::WithoutIpvs => f.write_str("IPVS was not measured with the same traffic"),
            Self::OtherKernel { was, is } => write!(
                f,
                "this is {is}; the figures were taken with {was}, so a part of a difference may be the kernel's"
            ),
        }
    }
}

/// In percent.
pub(super) fn change(was: f64, is: f64) -> f64 {
    (is / was - 1.0) * 100.0
}

/// Everything that is to hold, and what is to be said of it, if anything.
pub(super) fn judge(measured: &Measured, taken: Option<&Taken>) -> Vec<(String, Vec<Finding>)> {
    let mut all = vec![("kernel".to_owned(), other_kernel(measured, taken))];
    all.extend(measured.readings.iter().map(|reading| {
        let findings = [
            void(reading),
            drift(reading, taken),
            against_ipvs(reading, &measured.readings),
        ];
        (reading.path.clone(), findings.into_iter().flatten().collect())
    }));
    all.extend(not_measured(measured, taken).map(|path| (path, vec![Finding::NotMeasured])));
    all
}

fn other_kernel(measured: &Measured, taken: Option<&Taken>) -> Vec<Finding> {
    let other = taken.filter(|taken| taken.kernel != measured.version);
    let finding = |taken: &Taken| Finding::OtherKernel {
        was: taken.kernel.clone(),
        is: measured.version.clone(),
    };
    other.map(finding).into_iter().collect()
}

fn void(reading: &Reading) -> Option<Finding> {
    reading.void.clone().map(Finding::Void)
}

fn drift(reading: &Reading, taken: Option<&Taken>) -> Option<Finding> {
    if !reading.is_own() {
        return None;
    }
    let is = reading.per_packet;
    let Some(&was) = taken.and_then(|taken| taken.instructions.get(&reading.path)) else {
        return Some(Finding::Unknown(is));
    };
    if is > was * (1.0 + TOLERANCE) {
        Some(Finding::Dearer { was, is })
    } else if is < was * (1.0 - TOLERANCE) {
        Some(Finding::Cheaper { was, is })
    } else {
        None
    }
}

fn against_ipvs(reading: &Reading, all: &[Reading]) -> Option<Finding> {
    if !reading.is_own() || reading.place != "established" || TUNNELS.contains(&reading.way.as_str()) {
        return None;
    }
    match times(reading, all) {
        None => Some(Finding::WithoutIpvs),
        Some(times) if times < IPVS_TIMES => Some(Finding::NearIpvs(times)),
        Some(_) => None,
    }
}

/// How many times as many instructions IPVS takes for the same packets.
pub(super) fn times(reading: &Reading, all: &[Reading]) -> Option<f64> {
    let ipvs = all
        .iter()
        .find(|other| other.way == "IPVS" && other.place == reading.place && other.traffic == reading.traffic)?;
    Some(ipvs.per_packet / reading.per_packet)
}

fn not_measured<'a>(measured: &'a Measured, taken: Option<&'a Taken>) -> impl Iterator<Item = String> + 'a {
    let known: BTreeSet<_> = measured.readings.iter().map(|reading| &reading.path).collect();
    let paths = taken.into_iter().flat_map(|taken| taken.instructions.keys());
    paths.filter(move |path| !known.contains(path)).cloned()
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    const OWN: &str = "lb nat, established, UDP over IPv4";
    const FIRST: &str = "lb nat, first packet, UDP over IPv4";
    const IPVS: &str = "IPVS, established, UDP over IPv4";

    /// What a guest with Linux 6.1 measured.
    pub(in super::super) fn measured(figures: &[(&str, f64)]) -> Measured {
        let reading = |&(path, per_packet): &(&str, f64)| {
            let mut parts = path.split(", ").map(str::to_owned);
            Reading {
                path: path.to_owned(),
                way: parts.next().unwrap(),
                place: parts.next().unwrap(),
                traffic: parts.next().unwrap(),
                packets: 100,
                total: 0,
                generator: 0,
                per_packet,
                void: None,
            }
        };
        Measured {
            series: "6.1".to_owned(),
            version: "6.1.9-1".to_owned(),
            programs: Vec::new(),
            readings: figures.iter().map(reading).collect(),
            took: Duration::ZERO,
        }
    }

    fn taken(figures: &[(&str, f64)]) -> Taken {
        Taken {
            kernel: "6.1.9-1".to_owned(),
            instructions: figures
                .iter()
                .map(|&(path, figure)| (path.to_owned(), figure))
                .collect(),
        }
    }

    /// What is said, of what.
    fn findings(measured: &Measured, taken: &Taken) -> Vec<(String, Finding)> {
        let all = judge(measured, Some(taken)).into_iter();
        all.flat_map(|(path, findings)| findings.into_iter().map(move |finding| (path.clone(), finding)))
            .collect()
    }

    #[test]
    fn two_percent_more_are_let_by_and_anything_beyond_fails_and_is_named() {
        let taken = taken(&[(FIRST, 1000.0)]);
        assert_eq!(findings(&measured(&[(FIRST, 1020.0)]), &taken), []);
        let (path, finding) = findings(&measured(&[(FIRST, 1020.1)]), &taken).remove(0);
        assert_eq!(path, FIRST);
        assert!(finding.fails());
        let said = finding.to_string();
        assert!(
            said.contains("1020 instructions") && said.contains("--update"),
            "{said}"
        );
    }

    #[test]
    fn an_improvement_is_told_and_does_not_fail() {
        let taken = taken(&[(FIRST, 1000.0)]);
        assert_eq!(findings(&measured(&[(FIRST, 980.0)]), &taken), []);
        let (_, finding) = findings(&measured(&[(FIRST, 979.0)]), &taken).remove(0);
        assert!(!finding.fails());
        assert!(finding.to_string().contains("--update"));
    }

    #[test]
    fn peers_are_not_gated() {
        let measured = measured(&[(IPVS, 9000.0)]);
        assert_eq!(findings(&measured, &taken(&[])), []);
    }

    #[test]
    fn a_path_on_one_side_only_fails() {
        let (path, finding) = findings(&measured(&[(FIRST, 1000.0)]), &taken(&[])).remove(0);
        assert!((path.as_str(), finding.fails()) == (FIRST, true));
        let (path, finding) = findings(&measured(&[]), &taken(&[(FIRST, 1000.0)])).remove(0);
        assert!((path.as_str(), finding.fails()) == (FIRST, true));
    }

    #[test]
    fn an_established_packet_takes_a_quarter_of_the_instructions_of_ipvs_at_most() {
        let taken = taken(&[(OWN, 1000.0)]);
        assert_eq!(findings(&measured(&[(OWN, 1000.0), (IPVS, 4000.0)]), &taken), []);
        let found = findings(&measured(&[(OWN, 1000.0), (IPVS, 3999.0)]), &taken);
        assert!(
            matches!(&found[..], [(path, Finding::NearIpvs(_))] if path == OWN),
            "{found:?}"
        );
        assert!(found[0].1.fails());
        assert!(Finding::WithoutIpvs.fails());
        let without = findings(&measured(&[(OWN, 1000.0)]), &taken);
        assert_eq!(without, [(OWN.to_owned(), Finding::WithoutIpvs)]);
    }

    #[test]
    fn a_void_figure_fails_whoevers_it_is() {
        let mut measured = measured(&[(IPVS, 4000.0)]);
        measured.readings[0].void = Some("of 100 packets 99 arrived".to_owned());
        let (path, finding) = findings(&measured, &taken(&[])).remove(0);
        assert!((path.as_str(), finding.fails()) == (IPVS, true));
    }

    #[test]
    fn another_kernel_is_told_and_does_not_fail() {
        let mut taken = taken(&[(FIRST, 1000.0)]);
        taken.kernel = "6.1.8-1".to_owned();
        let (_, finding) = findings(&measured(&[(FIRST, 1000.0)]), &taken).remove(0);
        assert!(!finding.fails());
        assert!(finding.to_string().contains("6.1.8-1"));
    }
}
