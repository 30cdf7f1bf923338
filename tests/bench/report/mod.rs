//! What was measured, as lines on the terminal, as a document, as data and as pictures.

mod docs;
pub(crate) mod figure;
mod markdown;
mod plot;
mod table;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use figure::{Figure, Target, Unit};
use serde_json::{Value, json};
use table::Grid;
pub(crate) use table::{Axis, Table, thousands};

use crate::machine::Conditions;

/// All figures so far; each is printed as it comes.
#[derive(Debug)]
pub(crate) struct Report {
    begin: Instant,
    quick: bool,
    section: String,
    figures: Vec<Figure>,
    tables: Vec<Table>,
    plots: Vec<Plot>,
    /// What was not measured, and why.
    left_out: Vec<(String, String)>,
}

/// A picture of several curves.
#[derive(Debug)]
pub(crate) struct Plot {
    /// The name of its file, without the ending.
    pub(crate) file: &'static str,
    /// Its heading.
    pub(crate) title: &'static str,
    /// What the points of its curves are at.
    pub(crate) axis: &'static str,
    /// The tables that stand below it.
    pub(crate) tables: Vec<String>,
    /// Those of them that it shows, from left to right and top to bottom.
    pub(crate) panels: Vec<String>,
}

impl Report {
    /// A report with nothing in it.
    pub(crate) fn new(quick: bool) -> Self {
        Self {
            begin: Instant::now(),
            quick,
            section: String::new(),
            figures: Vec::new(),
            tables: Vec::new(),
            plots: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Declares a table; tables are shown in this order.
    pub(crate) fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// Declares a picture.
    pub(crate) fn plot(&mut self, plot: Plot) {
        self.plots.push(plot);
    }

    /// How long it has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Starts a section.
    pub(crate) fn section(&mut self, title: &str) {
        title.clone_into(&mut self.section);
        println!(
            "\n{title}  [{} s]\n  {:<38} {:>10}  {:<24} {:>10}",
            self.begin.elapsed().as_secs(),
            "",
            "median",
            "least to most",
            "target"
        );
    }

    /// Adds the median of several measurements. `void` says why they do not count. Returns the figure, to be put into
    /// tables.
    pub(crate) fn add(
        &mut self,
        name: &str,
        unit: Unit,
        samples: &[f64],
        target: Option<Target>,
        void: Option<&String>,
    ) -> &mut Figure {
        let figure = self.put(name, unit, samples, void);
        figure.target = target;
        println!("{}", figure.line());
        figure
    }

    /// Adds a median that the terminal has seen already, under another name.
    pub(crate) fn put(&mut self, name: &str, unit: Unit, samples: &[f64], void: Option<&String>) -> &mut Figure {
        let mut figure = Figure::new(&self.section, name, unit, samples);
        figure.void = void.cloned();
        self.figures.push_mut(figure)
    }

    /// Says what was not measured, and why.
    pub(crate) fn leave_out(&mut self, what: &str, why: &str) {
        let entry = (what.to_owned(), why.to_owned());
        if !self.left_out.contains(&entry) {
            println!("  not measured: {what}: {why}");
            self.left_out.push(entry);
        }
    }

    /// Whether any figure does not count.
    pub(crate) fn has_void(&self) -> bool {
        self.figures.iter().any(|figure| figure.void.is_some())
    }

    /// Prints how many targets were met, and names those that were not.
    pub(crate) fn summarize(&self) {
        let (met, missed) = self.targets();
        println!("{} of {} targets met", met.len(), met.len() + missed.len());
        for figure in missed {
            println!("  {}: {}", figure.section, figure.line().trim());
        }
    }

    /// Figures that reach their targets, and those that do not.
    fn targets(&self) -> (Vec<&Figure>, Vec<&Figure>) {
        let with_target = self.figures.iter().filter(|figure| figure.target.is_some());
        with_target.partition(|figure| figure.met())
    }

    /// All tables, also those without a figure.
    fn grids(&self) -> impl Iterator<Item = Grid<'_>> {
        self.tables.iter().map(|table| Grid::gather(table, &self.figures))
    }

    /// Writes `report.md`, `report.json` and the pictures into a directory.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(crate) fn write(&self, directory: &Path, conditions: &Conditions) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        store(&directory.join("report.md"), &markdown::document(self, conditions))?;
        store(&directory.join("report.json"), &self.json(conditions))?;
        self.draw(directory)
    }

    /// Fills the tables of `performance.md` in the directory of the documentation, and puts the pictures beside it.
    ///
    /// # Errors
    /// When there is no such page, it names a table that this report does not have, or it cannot be written.
    pub(crate) fn write_docs(&self, directory: &Path, conditions: &Conditions) -> Result<()> {
        let path = directory.join("performance.md");
        let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let filled = docs::fill(&page, &markdown::blocks(self, conditions, "performance/"))
            .with_context(|| format!("cannot fill {}", path.display()))?;
        let pictures = directory.join("performance");
        fs::create_dir_all(&pictures).with_context(|| format!("cannot make {}", pictures.display()))?;
        self.draw(&pictures)?;
        store(&path, &filled)
    }

    /// The figures as JSON.
    pub(crate) fn json(&self, conditions: &Conditions) -> String {
        let figures: Value = self.figures.iter().map(Figure::to_json).collect();
        let left_out: Value = self
            .left_out
            .iter()
            .map(|(what, why)| json!({ "what": what, "why": why }))
            .collect();
        let tables: Value = self
            .tables
            .iter()
            .map(|table| json!({ "id": table.id, "title": table.title, "rows": table.rows }))
            .collect();
        let mut all = conditions.to_json();
        if let Value::Object(all) = &mut all {
            all.insert("quick".to_owned(), json!(self.quick));
            all.insert("figures".to_owned(), figures);
            all.insert("not_measured".to_owned(), left_out);
            all.insert("tables".to_owned(), tables);
        }
        format!("{all:#}\n")
    }

    fn draw(&self, directory: &Path) -> Result<()> {
        let grids: Vec<_> = self.grids().collect();
        for plot in &self.plots {
            let panels: Vec<_> = plot
                .panels
                .iter()
                .filter_map(|id| grids.iter().find(|grid| grid.table.id == *id && !grid.rows.is_empty()))
                .collect();
            if !panels.is_empty() {
                store(
                    &directory.join(format!("{}.svg", plot.file)),
                    &plot::draw(plot, &panels)?,
                )?;
            }
        }
        Ok(())
    }
}

/// Writes a file.
///
/// # Errors
/// When that fails.
pub(crate) fn store(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
