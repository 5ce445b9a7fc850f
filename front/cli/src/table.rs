//! Lists as tables, JSON lines or templates.

use serde_json::{Map, Value};

use crate::arguments::ListArgs;
use crate::error::Error;
use crate::print;
use crate::template::Template;

/// A list: its columns, and each row's fields by name.
pub(crate) struct List {
    /// Field name and heading of each column of the plain table.
    pub(crate) columns: &'static [(&'static str, &'static str)],
    /// Rows; may have more fields than the table shows.
    pub(crate) rows: Vec<Map<String, Value>>,
}

impl List {
    /// Prints the list as `args` ask for it; `--quiet` prints the field `ID` only.
    ///
    /// # Errors
    /// [`Error::Value`] for a wrong format, [`Error::Io`] when the output is closed.
    pub(crate) fn print(self, args: &ListArgs) -> Result<(), Error> {
        if args.quiet {
            let ids = self.rows.iter().map(|row| text(row.get("ID")) + "\n");
            return print::text(&ids.collect::<String>());
        }
        match args.format() {
            "table" => {
                let headings = self
                    .columns
                    .iter()
                    .map(|(_, heading)| (*heading).to_owned());
                let mut cells = vec![headings.collect::<Vec<_>>()];
                cells.extend(self.rows.iter().map(|row| {
                    self.columns
                        .iter()
                        .map(|(field, _)| text(row.get(*field)))
                        .collect()
                }));
                print::text(&aligned(&cells))
            }
            "json" => self
                .rows
                .into_iter()
                .try_for_each(|row| print::line(&Value::Object(row).to_string())),
            format => self.print_template(format),
        }
    }

    fn print_template(self, format: &str) -> Result<(), Error> {
        let (is_table, format) = match format.strip_prefix("table ") {
            Some(rest) => (true, rest),
            None => (false, format),
        };
        let template = Template::parse(format)?;
        let mut lines = Vec::new();
        if is_table {
            let heading = |field: &str| {
                let known = self.columns.iter().find(|(name, _)| *name == field);
                known.map_or_else(
                    || field.to_uppercase(),
                    |(_, heading)| (*heading).to_owned(),
                )
            };
            lines.push(template.headings(heading));
        }
        for row in self.rows {
            lines.push(template.render(&Value::Object(row))?);
        }
        if is_table {
            let cells: Vec<Vec<String>> = lines
                .iter()
                .map(|line| line.split('\t').map(str::to_owned).collect())
                .collect();
            return print::text(&aligned(&cells));
        }
        lines.iter().try_for_each(|line| print::line(line))
    }
}

/// Lays rows out in columns at least ten wide with three blanks between, as Docker does.
fn aligned(rows: &[Vec<String>]) -> String {
    const MIN_WIDTH: usize = 10;
    const GAP: usize = 3;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width_of = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        (widest + GAP).max(MIN_WIDTH)
    };
    let widths: Vec<usize> = (0..columns).map(width_of).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let is_last = column + 1 == row.len();
            let width = if is_last { 0 } else { widths[column] };
            text.push_str(&format!("{cell:<width$}"));
        }
        text.push('\n');
    }
    text
}

/// A field as a cell.
fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_dockers() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["CONTAINER ID", "IMAGE", "NAMES"]),
            row(["0123", "a-long-name", "x"]),
        ];
        assert_eq!(
            aligned(&rows),
            "CONTAINER ID   IMAGE         NAMES\n0123           a-long-name   x\n"
        );
        assert_eq!(aligned(&[row(["A", "B", "C"])]), "A         B         C\n");
    }
}
