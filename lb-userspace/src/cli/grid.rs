//! Tables that always fit: in columns where there is room, else each row as a short block of its own.

use comfy_table::{
    Attribute, Cell as TableCell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, presets,
};

use super::view::{Tone, View};

/// Between two columns.
const GAP: usize = 2;

/// A last column that may wrap gets at least so many characters.
const MIN_WRAPPED: usize = 24;

/// What a column holds decides to which side it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
}

/// A table in the making.
#[derive(Debug, Clone)]
pub(super) struct Grid {
    columns: Vec<(String, Kind)>,
    /// So many columns say what a row is about; they head its block where the columns do not fit.
    keys: usize,
    rows: Vec<Vec<Cell>>,
    indent: usize,
    last_wraps: bool,
    optional: Option<&'static str>,
}

/// One field.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

impl Grid {
    pub(super) fn new<const N: usize>(keys: usize, columns: [(&'static str, Kind); N]) -> Self {
        Self::of(keys, columns.map(|(title, kind)| (title.to_owned(), kind)).into())
    }

    /// A table whose columns are known only when it is made.
    pub(super) const fn of(keys: usize, columns: Vec<(String, Kind)>) -> Self {
        Self {
            columns,
            keys,
            rows: Vec::new(),
            indent: 0,
            last_wraps: false,
            optional: None,
        }
    }

    pub(super) const fn indented(mut self, indent: usize) -> Self {
        self.indent = indent;
        self
    }

    /// The last column holds sentences.
    pub(super) const fn last_wraps(mut self) -> Self {
        self.last_wraps = true;
        self
    }

    /// A column that is left out where there is no room for all.
    pub(super) const fn optional(mut self, title: &'static str) -> Self {
        self.optional = Some(title);
        self
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    /// As [`Self::row`], for a table made by [`Self::of`].
    pub(super) fn push(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Removes a column that would tell nothing.
    pub(super) fn without(mut self, title: &str) -> Self {
        if let Some(at) = self.columns.iter().position(|(name, _)| name == title) {
            self.columns.remove(at);
            for row in self.rows.iter_mut().filter(|row| at < row.len()) {
                row.remove(at);
            }
        }
        self
    }

    /// The table, each line ended by a newline. Nothing for no rows.
    pub(super) fn render(&self, view: &View) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        if self.needed_width() <= view.width {
            return self.in_columns(view);
        }
        match self.optional.map(|title| self.clone().without(title)) {
            Some(fewer) if fewer.needed_width() <= view.width => fewer.in_columns(view),
            _ => self.in_blocks(view),
        }
    }

    fn needed_width(&self) -> usize {
        let last = self.columns.len().saturating_sub(1);
        let widths = self.columns.iter().enumerate().map(|(at, (title, _))| {
            let fields = self.rows.iter().filter_map(|row| row.get(at));
            let widest = fields
                .map(|cell| cell.text.chars().count())
                .fold(title.len(), usize::max);
            if self.last_wraps && at == last {
                widest.min(MIN_WRAPPED)
            } else {
                widest
            }
        });
        self.indent + widths.sum::<usize>() + GAP * last
    }

    fn in_columns(&self, view: &View) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).force_no_tty();
        if view.color {
            table.enforce_styling().style_text_only();
        }
        table.set_header(
            self.columns
                .iter()
                .map(|(title, _)| TableCell::new(title).add_attribute(Attribute::Bold)),
        );
        for row in &self.rows {
            table.add_row(row.iter().map(table_cell));
        }
        let last = self.columns.len().saturating_sub(1);
        for ((at, column), (_, kind)) in table.column_iter_mut().enumerate().zip(&self.columns) {
            column.set_padding((0, if at == last { 0 } else { 2 }));
            if *kind == Kind::Number {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if at != last || !self.last_wraps {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        let width = u16::try_from(view.width.saturating_sub(self.indent)).unwrap_or(u16::MAX);
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
        let indent = " ".repeat(self.indent);
        let line_of = |line: String| format!("{}\n", format!("{indent}{line}").trim_end());
        table.lines().map(line_of).collect()
    }

    fn in_blocks(&self, view: &View) -> String {
        let mut shown = String::new();
        for row in &self.rows {
            let (keys, rest) = row.split_at_checked(self.keys).unwrap_or((row, &[]));
            let head: Vec<_> = keys.iter().map(|cell| cell.text.as_str()).collect();
            shown.push_str(&view.paragraph(Tone::Title, self.indent, &head.join("  ")));
            let titles = self.columns.iter().skip(self.keys);
            let fields: Vec<_> = titles
                .zip(rest)
                .map(|((title, _), cell)| format!("{} {}", title.to_lowercase(), cell.text))
                .collect();
            // The worst tone of the row speaks for the block.
            let tones = rest.iter().map(|cell| cell.tone);
            let tone = tones.max_by_key(|tone| severity(*tone)).unwrap_or_default();
            let indent = self.indent + 4;
            for line in packed(&fields, view.width.saturating_sub(indent)) {
                shown.push_str(&view.paragraph(tone, indent, &line));
            }
        }
        shown
    }
}

/// As many fields a line as fit, none broken.
fn packed(fields: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for field in fields {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 2 + field.chars().count() <= width => {
                line.push_str(", ");
                line.push_str(field);
            }
            _ => lines.push(field.clone()),
        }
    }
    lines
}

const fn severity(tone: Tone) -> u8 {
    match tone {
        Tone::Plain | Tone::Title | Tone::Dim | Tone::Good => 0,
        Tone::Warn => 1,
        Tone::Bad => 2,
    }
}

fn table_cell(cell: &Cell) -> TableCell {
    let made = TableCell::new(&cell.text);
    match cell.tone {
        Tone::Plain => made,
        Tone::Title => made.add_attribute(Attribute::Bold),
        Tone::Good => made.fg(Color::DarkGreen),
        Tone::Warn => made.fg(Color::DarkYellow),
        Tone::Bad => made.fg(Color::DarkRed).add_attribute(Attribute::Bold),
        Tone::Dim => made.add_attribute(Attribute::Dim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View {
        json: false,
        color: false,
        width: 80,
        now: 0,
    };

    fn grid(name: &str, remark: &str) -> String {
        let mut grid = Grid::new(
            1,
            [("NAME", Kind::Text), ("COUNT", Kind::Number), ("REMARK", Kind::Text)],
        )
        .indented(2)
        .last_wraps();
        grid.row([name.into(), "12".into(), remark.into()]);
        grid.render(&VIEW)
    }

    #[test]
    fn columns_stand_under_their_titles() {
        assert_eq!(grid("web", "fine"), "  NAME  COUNT  REMARK\n  web      12  fine\n");
    }

    #[test]
    fn a_last_column_of_sentences_wraps() {
        let shown = grid("web", &"word ".repeat(30));
        assert!(
            shown.lines().count() > 2 && shown.lines().all(|line| line.len() <= 80),
            "{shown}"
        );
        assert!(
            shown
                .lines()
                .nth(2)
                .is_some_and(|line| line.starts_with("               word")),
            "{shown}"
        );
    }

    #[test]
    fn rows_too_wide_for_columns_become_blocks() {
        let name = "n".repeat(70);
        assert_eq!(grid(&name, "fine"), format!("  {name}\n      count 12, remark fine\n"));
    }

    #[test]
    fn colours_do_not_move_the_columns() {
        let mut grid = Grid::new(
            1,
            [("NAME", Kind::Text), ("STATE", Kind::Text), ("COUNT", Kind::Number)],
        );
        grid.row(["web".into(), Cell::toned("up", Tone::Good), "1".into()]);
        let colored = grid.render(&View { color: true, ..VIEW });
        assert!(colored.contains("\u{1b}["), "{colored}");
        let mut plain = String::new();
        let mut escape = false;
        for c in colored.chars() {
            escape |= c == '\u{1b}';
            if !escape {
                plain.push(c);
            }
            escape &= c != 'm';
        }
        assert_eq!(plain, grid.render(&VIEW));
    }
}
