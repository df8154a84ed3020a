//! What the checks found, as a table.

use std::fmt;

/// The outcome of one check, or of one part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Which part, if the check has several.
    pub(crate) part: String,
    /// What was measured.
    pub(crate) measured: String,
    pub(crate) pass: bool,
    /// Whether it could be made here at all; what could not does not pass.
    pub(crate) made: bool,
}

impl Finding {
    /// What cannot be found out on this machine, and why.
    pub(crate) fn not_made(why: impl fmt::Display) -> Vec<Finding> {
        let made = false;
        let finding = Finding::part("", false, format!("not made: {why}"));
        vec![Finding { made, ..finding }]
    }

    pub(crate) fn verdict(&self) -> &'static str {
        match (self.made, self.pass) {
            (false, _) => "NOT MADE",
            (true, true) => "yes",
            (true, false) => "NO",
        }
    }

    /// The finding of a check without parts.
    pub(crate) fn whole(pass: bool, measured: impl Into<String>) -> Vec<Finding> {
        vec![Finding::part("", pass, measured)]
    }

    pub(crate) fn part(
        part: impl Into<String>,
        pass: bool,
        measured: impl Into<String>,
    ) -> Finding {
        Finding {
            part: part.into(),
            measured: measured.into(),
            pass,
            made: true,
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) number: u8,
    pub(crate) title: &'static str,
    pub(crate) threshold: &'static str,
    pub(crate) finding: Finding,
}

impl Row {
    fn cells(&self) -> [String; 5] {
        let finding = &self.finding;
        let what = match finding.part.as_str() {
            "" => self.title.to_owned(),
            part => format!("{}: {part}", self.title),
        };
        [
            self.number.to_string(),
            what,
            self.threshold.to_owned(),
            // A problem may bring the end of a log along.
            finding
                .measured
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
            finding.verdict().to_owned(),
        ]
    }
}

/// The table, by the number of the check.
pub(crate) fn table(rows: &[Row]) -> String {
    let heads = ["check", "what", "threshold", "measured", "pass"].map(str::to_owned);
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by_key(|row| row.number);
    let lines: Vec<_> = [heads]
        .into_iter()
        .chain(rows.into_iter().map(Row::cells))
        .collect();
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths = [0, 1, 2, 3, 4].map(width);
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text += cells.join(" | ").trim_end();
        text += "\n";
        if index == 0 {
            text += &widths.map(|width| "-".repeat(width)).join("-|-");
            text += "\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u8, part: &str, pass: bool) -> Row {
        Row {
            number,
            title: "title",
            threshold: "0",
            finding: Finding::part(part, pass, "1 error\nand more of it"),
        }
    }

    #[test]
    fn rows_are_sorted_and_columns_are_aligned() {
        let rows = [
            row(18, "", true),
            row(2, "node1", false),
            row(2, "node2", true),
        ];
        let expected = "\
check | what         | threshold | measured | pass
------|--------------|-----------|----------|-----
2     | title: node1 | 0         | 1 error  | NO
2     | title: node2 | 0         | 1 error  | yes
18    | title        | 0         | 1 error  | yes
";
        assert_eq!(
            table(&rows).replace("-|-", "|"),
            expected.replace("-|-", "|")
        );
    }
}
