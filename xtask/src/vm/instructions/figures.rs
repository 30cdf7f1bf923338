//! The figures that are checked in.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::guest::Measured;
use crate::shell;

/// Where they are, from the root of the repository.
const FILE: &str = "tests/bench/instructions/figures.toml";

const HEADER: &str = "\
# Instructions per packet of lb's paths, less those of making the packets. The gate compares with these; see
# CONTRIBUTING.md. Written by `cargo xtask vm instructions --update`.

";

/// Figures by series of kernels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Figures(BTreeMap<String, Taken>);

/// Figures that were taken with one kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Taken {
    /// The version of the kernel's package.
    pub(super) kernel: String,
    /// Instructions per packet, by path.
    pub(super) instructions: BTreeMap<String, f64>,
}

impl Figures {
    /// Those in the repository; none, if there is no such file.
    ///
    /// # Errors
    /// When the file cannot be read, or is not what this program writes.
    pub(super) fn read() -> Result<Self> {
        let path = path()?;
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {FILE}"))?;
        toml::from_str(&text).with_context(|| format!("cannot understand {FILE}"))
    }

    /// Puts them into the repository, and returns where.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self) -> Result<PathBuf> {
        let path = path()?;
        fs::write(&path, self.text()?).with_context(|| format!("cannot write {FILE}"))?;
        Ok(FILE.into())
    }

    fn text(&self) -> Result<String> {
        Ok(format!("{HEADER}{}", toml::to_string(self)?))
    }

    /// Those of a series.
    pub(super) fn of(&self, series: &str) -> Option<&Taken> {
        self.0.get(series)
    }

    /// Replaces those of a series.
    pub(super) fn set(&mut self, measured: &Measured) {
        let own = measured.readings.iter().filter(|reading| reading.is_own());
        let taken = Taken {
            kernel: measured.version.clone(),
            instructions: own.map(|reading| (reading.path.clone(), reading.per_packet)).collect(),
        };
        self.0.insert(measured.series.clone(), taken);
    }
}

fn path() -> Result<PathBuf> {
    Ok(shell::workspace()?.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::{super::verdict::tests::measured, *};

    #[test]
    fn what_is_written_is_read_again() {
        let mut figures = Figures::default();
        figures.set(&measured(&[
            ("lb nat, established, UDP over IPv4", 812.35),
            ("IPVS, established, UDP over IPv4", 5000.0),
        ]));
        let text = figures.text().unwrap();
        assert_eq!(toml::from_str::<Figures>(&text).unwrap(), figures);
        let taken = figures.of("6.1").unwrap();
        assert_eq!(taken.instructions.len(), 1, "only lb's own paths are checked in");
        assert!(
            text.contains("\"lb nat, established, UDP over IPv4\" = 812.35\n"),
            "{text}"
        );
    }

    #[test]
    fn another_series_stays_as_it_is() {
        let mut figures = Figures::default();
        figures.set(&measured(&[("lb nat, established, UDP over IPv4", 800.0)]));
        let mut other = measured(&[("lb nat, established, UDP over IPv4", 700.0)]);
        other.series = "6.12".to_owned();
        figures.set(&other);
        assert_eq!(
            figures.of("6.1").unwrap().instructions["lb nat, established, UDP over IPv4"],
            800.0
        );
    }

    #[test]
    fn the_figures_in_the_repository_are_readable() {
        assert_ne!(Figures::read().unwrap(), Figures::default());
    }
}
