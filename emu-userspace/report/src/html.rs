//! The HTML page of a report.
use std::fmt::Write as _;

use super::{
    ReportError, Table,
    page::{Part, Report, Verdict},
};

/// Style sheet that follows the browser's dark or light theme, also for print.
const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c1c1c;--back:#fff;--line:#d5d5d5;--soft:#f4f4f4}
@media (prefers-color-scheme:dark){:root{--ink:#e6e6e6;--back:#17181a;--line:#3b3d40;--soft:#232528}}
@media print{:root{--ink:#000;--back:#fff;--line:#bbb;--soft:#fff}figure,table{break-inside:avoid}}
body{font:16px/1.5 system-ui,'DejaVu Sans',Verdana,sans-serif;color:var(--ink);background:var(--back);
max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.2rem;border-bottom:1px solid var(--line)}
table{border-collapse:collapse;margin:1rem 0;font-size:.9rem;display:block;overflow-x:auto}
th,td{padding:.25rem .7rem;border-bottom:1px solid var(--line);text-align:left}
th{background:var(--soft)}.n{text-align:right;font-variant-numeric:tabular-nums}
figure{margin:1.2rem 0}figure svg{max-width:100%;height:auto;background:#fff;border:1px solid var(--line);border-radius:4px}
figcaption{font-size:.9rem}
.v{padding:.4rem .8rem;border-left:.35rem solid;background:var(--soft);margin:.6rem 0}
.holds{border-color:#009e73}.fails{border-color:#d55e00}.undecided{border-color:#e69f00}";

impl Report {
    /// Renders the page: one file with embedded pictures and without scripts.
    ///
    /// # Errors
    /// [`ReportError::Draw`] if a chart cannot be drawn.
    pub fn html(&self) -> Result<String, ReportError> {
        page(self)
    }
}

fn page(report: &Report) -> Result<String, ReportError> {
    let title = escaped(&report.title);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n<h1>{title}</h1>\n<table>\n"
    );
    for (name, value) in report.environment.lines() {
        let _ = writeln!(page, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&value));
    }
    page += "</table>\n";
    for part in &report.parts {
        match part {
            Part::Section(title) => {
                let _ = writeln!(page, "<h2>{}</h2>", escaped(title));
            }
            Part::Text(text) => {
                let _ = writeln!(page, "<p>{}</p>", escaped(text));
            }
            Part::Verdict(verdict, text) => {
                let class = match verdict {
                    Verdict::Holds => "holds",
                    Verdict::Fails => "fails",
                    Verdict::Undecided => "undecided",
                };
                let (verdict, text) = (verdict.text(), escaped(text));
                let _ = writeln!(page, "<p class=\"v {class}\"><b>{verdict}</b>: {text}</p>");
            }
            Part::Table(_, cells) => table(&mut page, cells),
            Part::Figure { chart, caption, .. } => {
                let (svg, caption) = (chart.svg()?, escaped(caption));
                let label = escaped(chart.title());
                let svg = svg.replacen(
                    "<svg ",
                    &format!("<svg role=\"img\" aria-label=\"{label}\" "),
                    1,
                );
                let _ = writeln!(
                    page,
                    "<figure>\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>"
                );
            }
        }
    }
    page += "</body>\n</html>\n";
    Ok(page)
}

fn table(page: &mut String, table: &Table) {
    let class = |column| {
        if table.is_numeric(column) {
            " class=\"n\""
        } else {
            ""
        }
    };
    let row = |tag: &str, cells: &[String]| -> String {
        let cells = cells.iter().enumerate();
        let cells = cells.map(|(i, c)| format!("<{tag}{}>{}</{tag}>", class(i), escaped(c)));
        cells.collect()
    };
    let _ = writeln!(page, "<table>\n<tr>{}</tr>", row("th", table.header()));
    for cells in table.rows() {
        let _ = writeln!(page, "<tr>{}</tr>", row("td", cells));
    }
    *page += "</table>\n";
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
