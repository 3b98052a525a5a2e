//! Tables of a report.

/// A table of text and numbers. Cells that start with a digit or a sign are right-aligned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows. By convention the header names the unit of numbers.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self {
            header: header.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Appends a row; missing cells are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<String> = cells.into_iter().collect();
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
    }

    /// The header cells.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The rows, each as long as the header.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// Whether all cells of a column look like numbers.
    pub fn is_numeric(&self, column: usize) -> bool {
        let cells = || self.rows.iter().filter_map(|row| row.get(column));
        let number = |cell: &String| {
            let first = cell.trim_start_matches(['+', '-', '−', '<', '>', '≥', '≤', ' ']);
            cell.is_empty() || cell == "–" || first.starts_with(|c: char| c.is_ascii_digit())
        };
        cells().all(number) && cells().any(|cell| !cell.is_empty())
    }

    /// The table as comma-separated values (RFC 4180), with a header.
    pub fn csv(&self) -> String {
        let mut writer = csv::WriterBuilder::new()
            .terminator(csv::Terminator::CRLF)
            .from_writer(Vec::new());
        for row in std::iter::once(&self.header).chain(&self.rows) {
            // Writing rows of equal length to memory cannot fail.
            let _ = writer.write_record(row);
        }
        let bytes = writer.into_inner().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
