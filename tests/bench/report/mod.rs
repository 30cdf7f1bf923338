//! What was measured, as lines on the terminal, as a document, as data and as pictures.

mod docs;
pub(crate) mod figure;
pub(crate) mod goals;
mod markdown;
mod plot;
mod summary;
mod table;

use std::{fs, path::Path, time::Instant};

use anyhow::{Context as _, Result};
use figure::{Figure, Unit};
use goals::Goal;
use serde_json::{Value, json};
use table::Grid;
pub(crate) use table::{Axis, Table, thousands};

use crate::machine::Conditions;

/// All figures so far; each is printed as it comes.
#[derive(Debug)]
pub(crate) struct Report {
    begin: Instant,
    quick: bool,
    part: &'static str,
    section: String,
    goals: Vec<Goal>,
    figures: Vec<Figure>,
    tables: Vec<Table>,
    plots: Vec<Plot>,
    /// Parts whose figures are shown as lists.
    parts: Vec<&'static str>,
    /// What was not measured, and why.
    left_out: Vec<(String, String)>,
    /// Parts that came to no end, and why.
    failed: Vec<(&'static str, String)>,
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
            part: "",
            section: String::new(),
            goals: goals::all(),
            figures: Vec::new(),
            tables: Vec::new(),
            plots: Vec::new(),
            parts: Vec::new(),
            left_out: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// What is added from now on belongs to a part.
    pub(crate) const fn part(&mut self, name: &'static str) {
        self.part = name;
    }

    /// Says that the part at hand came to no end. What it has added so far stays.
    pub(crate) fn fail(&mut self, why: String) {
        println!("  FAILED: {}: {why}", self.part);
        self.failed.push((self.part, why));
    }

    /// Declares a table; tables are shown in this order.
    pub(crate) fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// Declares a picture.
    pub(crate) fn plot(&mut self, plot: Plot) {
        self.plots.push(plot);
    }

    /// Declares a part whose figures are shown as a list, except those that stand in a table.
    pub(crate) fn list(&mut self, part: &'static str) {
        self.parts.push(part);
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

    /// Adds the median of several measurements. `goal` is its [name among goals](goals), of which it may be none; `void` says
    /// why they do not count. Returns the figure, to be put into tables.
    pub(crate) fn add(
        &mut self,
        name: &str,
        unit: Unit,
        samples: &[f64],
        goal: Option<&str>,
        void: Option<&String>,
    ) -> &mut Figure {
        let goal = self
            .goals
            .iter()
            .find(|known| Some(known.key.as_str()) == goal)
            .cloned();
        let figure = self.put(name, unit, samples, void);
        figure.target = goal.as_ref().map(|goal| goal.target);
        figure.goal = goal.map(|goal| goal.key);
        println!("{}", figure.line());
        figure
    }

    /// Whether there is a goal of that name.
    pub(crate) fn has_goal(&self, key: &str) -> bool {
        self.goals.iter().any(|goal| goal.key == key)
    }

    /// Adds a median that the terminal need not see, or has seen under another name.
    pub(crate) fn put(&mut self, name: &str, unit: Unit, samples: &[f64], void: Option<&String>) -> &mut Figure {
        let mut figure = Figure::new(&self.section, name, unit, samples);
        figure.part = self.part;
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

    /// Whether all parts came to their ends and every figure counts.
    pub(crate) fn is_sound(&self) -> bool {
        self.failed.is_empty() && self.figures.iter().all(|figure| figure.void.is_none())
    }

    /// Prints every goal beside what was reached, and what went wrong.
    pub(crate) fn summarize(&self) {
        print!("{}", summary::lines(self));
    }

    /// Every goal, with its figure if there is one.
    fn results(&self) -> impl Iterator<Item = (&Goal, Option<&Figure>)> {
        let of = |goal: &Goal| self.figures.iter().find(|f| f.goal.as_ref() == Some(&goal.key));
        self.goals.iter().map(move |goal| (goal, of(goal)))
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

    /// Fills the tables of `docs/performance.md` and `README.md` in the root of the repository, and puts the pictures beside
    /// the former.
    ///
    /// # Errors
    /// When there is no such page, it names a table that this report does not have, or it cannot be written.
    pub(crate) fn write_docs(&self, root: &Path, conditions: &Conditions) -> Result<()> {
        let mut pages = Vec::new();
        for name in ["docs/performance.md", "README.md"] {
            let path = root.join(name);
            let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let filled = self
                .fill(&page, conditions)
                .with_context(|| format!("cannot fill {}", path.display()))?;
            pages.push((path, filled));
        }
        let pictures = root.join("docs/performance");
        fs::create_dir_all(&pictures).with_context(|| format!("cannot make {}", pictures.display()))?;
        self.draw(&pictures)?;
        pages.iter().try_for_each(|(path, page)| store(path, page))
    }

    /// A page with its tables filled.
    ///
    /// # Errors
    /// When it names a table that this report does not have.
    pub(crate) fn fill(&self, page: &str, conditions: &Conditions) -> Result<String> {
        docs::fill(page, &markdown::blocks(self, conditions, "performance/"))
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
        let failed: Value = self
            .failed
            .iter()
            .map(|(part, why)| json!({ "part": part, "why": why }))
            .collect();
        let mut all = conditions.to_json();
        if let Value::Object(all) = &mut all {
            all.insert("quick".to_owned(), json!(self.quick));
            all.insert("figures".to_owned(), figures);
            all.insert("not_measured".to_owned(), left_out);
            all.insert("failed".to_owned(), failed);
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
