//! Tables of a report.

/// A table of words and numbers. Cells that begin with a digit or a sign stand right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows. Numbers have their unit in the header.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self {
            header: header.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<String> = cells.into_iter().collect();
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
    }

    /// The header.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The rows, each as long as the header.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// Whether a column holds numbers: all that is in it looks like one.
    pub fn is_numeric(&self, column: usize) -> bool {
        let cells = || self.rows.iter().filter_map(|row| row.get(column));
        let number = |cell: &String| {
            let first = cell.trim_start_matches(['+', '-', '−', '<', '>', '≥', '≤', ' ']);
            cell.is_empty() || cell == "–" || first.starts_with(|c: char| c.is_ascii_digit())
        };
        cells().all(number) && cells().any(|cell| !cell.is_empty())
    }

    /// Comma-separated values as in RFC 4180, with a header.
    pub fn csv(&self) -> String {
        let mut writer = csv::WriterBuilder::new()
            .terminator(csv::Terminator::CRLF)
            .from_writer(Vec::new());
        for row in std::iter::once(&self.header).chain(&self.rows) {
            // Into memory, rows of one length: nothing can go wrong.
            let _ = writer.write_record(row);
        }
        let bytes = writer.into_inner().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
