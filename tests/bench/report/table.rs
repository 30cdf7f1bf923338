//! Tables of the report: contenders beside each other, and curves.

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::figure::Figure;

/// A table. Which figures stand in it, the figures say.
#[derive(Debug)]
pub(crate) struct Table {
    /// Its name in documents.
    pub(crate) id: String,
    /// Its heading.
    pub(crate) title: String,
    /// What the rows are.
    pub(crate) rows: &'static str,
    /// Curves have their lines in columns, and numbers at their rows.
    pub(crate) axis: Option<Axis>,
}

/// What a curve's points are at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Axis {
    /// From each mark to the next it is as far as to the next sum.
    Linear,
    /// From each mark to the next it is as far as to the next product.
    Logarithmic,
}

/// Where a figure stands.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) table: String,
    pub(super) row: Row,
    pub(super) column: String,
}

/// A row of a table, or a point of a curve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Row {
    Named(String),
    At(u32),
}

impl Row {
    /// As tables have it.
    pub(super) fn written(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::At(x) => thousands(*x),
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::At(a), Self::At(b)) => a.cmp(b),
            _ => Ordering::Equal,
        }
    }
}

impl Place {
    /// For the file of figures.
    pub(super) fn to_json(&self) -> Value {
        let row = match &self.row {
            Row::Named(name) => json!(name),
            Row::At(x) => json!(x),
        };
        json!({ "table": self.table, "row": row, "column": self.column })
    }
}

/// A table with its figures.
#[derive(Debug)]
pub(super) struct Grid<'a> {
    pub(super) table: &'a Table,
    pub(super) columns: Vec<&'a str>,
    pub(super) rows: Vec<&'a Row>,
    cells: Vec<(&'a Place, &'a Figure)>,
}

impl<'a> Grid<'a> {
    /// Gathers a table's figures: columns and named rows in the order of their first figures, curves by their points.
    pub(super) fn gather(table: &'a Table, figures: &'a [Figure]) -> Self {
        let cells: Vec<_> = figures
            .iter()
            .flat_map(|figure| figure.places.iter().map(move |place| (place, figure)))
            .filter(|(place, _)| place.table == table.id)
            .collect();
        let (mut columns, mut rows) = (Vec::new(), Vec::new());
        for (place, _) in &cells {
            if !columns.contains(&place.column.as_str()) {
                columns.push(place.column.as_str());
            }
            if !rows.contains(&&place.row) {
                rows.push(&place.row);
            }
        }
        rows.sort_by(|a, b| a.order(b));
        Self {
            table,
            columns,
            rows,
            cells,
        }
    }

    /// The figure at a place, if it was measured.
    pub(super) fn at(&self, row: &Row, column: &str) -> Option<&'a Figure> {
        let cell = self
            .cells
            .iter()
            .find(|(place, _)| place.row == *row && place.column == column);
        cell.map(|(_, figure)| *figure)
    }

    /// The figures of a column that count, by their points.
    pub(super) fn line(&self, column: &str) -> Vec<(u32, &'a Figure)> {
        self.rows
            .iter()
            .filter_map(|row| match row {
                Row::At(x) => Some((*x, self.at(row, column)?)),
                Row::Named(_) => None,
            })
            .filter(|(_, figure)| figure.void.is_none())
            .collect()
    }
}

/// A number with commas.
pub(crate) fn thousands(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::figure::Unit, *};

    fn figure(value: f64, x: u32, line: &str) -> Figure {
        let mut figure = Figure::new("", line, Unit::Ratio, &[value]);
        figure.point("t", x, line);
        figure
    }

    fn table() -> Table {
        Table {
            id: "t".to_owned(),
            title: String::new(),
            rows: "",
            axis: Some(Axis::Linear),
        }
    }

    #[test]
    fn a_curve_is_in_the_order_of_its_points() {
        let figures = [figure(1.0, 1000, "a"), figure(2.0, 1, "a"), figure(3.0, 1, "b")];
        let table = table();
        let grid = Grid::gather(&table, &figures);
        assert_eq!(grid.columns, ["a", "b"]);
        assert_eq!(grid.rows, [&Row::At(1), &Row::At(1000)]);
        assert!(grid.at(&Row::At(1000), "b").is_none());
    }

    #[test]
    fn a_void_figure_is_on_no_line() {
        let mut figures = [figure(1.0, 1, "a"), figure(2.0, 2, "a")];
        figures[1].void = Some("lost".to_owned());
        let table = table();
        let line = Grid::gather(&table, &figures).line("a");
        assert_eq!(line.iter().map(|(x, _)| *x).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn thousands_have_commas() {
        assert_eq!(
            [1, 999, 1000, 1_000_000].map(thousands),
            ["1", "999", "1,000", "1,000,000"]
        );
    }
}
