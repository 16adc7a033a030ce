//! The report as one page that needs nothing beside it.

use std::fmt::Write;

use super::svg::escape;
use crate::error::{Error, Result};
use crate::report::Report;
use crate::report::chart::Chart;
use crate::report::table::{self, Table};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #212529; --soft: #59636e; --page: #f6f7f9;
  --card: #fff; --line: #dfe3e8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #a3adb8; --page: #14171a; --card: #1d2126; --line: #343b43; }
  svg rect.paper { fill: #1d2126; }
  svg text.ink { fill: #e4e7eb; }
  svg text.muted { fill: #a3adb8; }
  svg polyline.ink { stroke: #e4e7eb; }
  svg polyline.muted { stroke: #a3adb8; }
  svg polyline.faint { stroke: #343b43; }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page);
  margin: 0; }
main { max-width: 64rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; }
h2, figure { scroll-margin-top: 1rem; }
nav { margin: 1rem 0; }
nav ul { list-style: none; padding: 0; margin: 0; columns: 16rem; }
a { color: inherit; }
.facts, .note { color: var(--soft); }
.facts { margin: 0 0 .6rem; }
.note { margin: 0 0 .6rem; font-size: .9rem; }
figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  margin: 1.2rem 0; padding: .5rem; overflow-x: auto; }
figure svg { max-width: 100%; min-width: 640px; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .9rem; padding: .3rem 1rem .5rem; }
table { border-collapse: collapse; font-size: .9rem; background: var(--card); width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
details summary { cursor: pointer; margin: 0 0 .6rem; color: var(--soft); }
code, pre { font: .85rem/1.45 ui-monospace, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem; overflow-x: auto; }
";

/// A part of the page.
struct Section {
    title: String,
    body: String,
}

/// The whole page, with `charts` in it.
pub(in crate::report) fn render(report: &Report, charts: &[Chart]) -> Result<String> {
    let mut sections = Vec::new();
    sections.extend(list("What the figures say", &report.story()));
    sections.extend(list("Notes", &report.notes));
    sections.extend(pictures(charts)?);
    let open = [table::means(report), table::differences(report)];
    sections.extend(open.iter().filter_map(|table| tabled(table, false)));
    let folded = [table::by_task(report), figures(report)];
    sections.extend(folded.iter().filter_map(|table| tabled(table, true)));
    for table in [
        table::clusters(report),
        table::settings(report),
        table::sources(report),
        table::stages(report),
    ] {
        sections.extend(tabled(&table, false));
    }
    sections.push(provenance(report)?);

    let title = escape(&report.title);
    let facts = escape(&report.facts().join(" · "));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title><style>{STYLE}</style></head><body><main>\n<h1>{title}</h1>\n\
         <p class=\"facts\">{facts}</p>\n"
    );
    if let Some(command) = report.command() {
        let _ = writeln!(out, "<pre>{}</pre>", escape(command));
    }
    out += "<nav aria-label=\"Contents\"><ul>\n";
    for section in &sections {
        let (id, title) = (id(&section.title), escape(&section.title));
        let _ = writeln!(out, "<li><a href=\"#{id}\">{title}</a></li>");
    }
    out += "</ul></nav>\n";
    for section in &sections {
        let (id, title) = (id(&section.title), escape(&section.title));
        let _ = write!(out, "<h2 id=\"{id}\">{title}</h2>\n{}", section.body);
    }
    out += "</main></body></html>\n";
    Ok(out)
}

/// A title as the name of a place in the page.
fn id(title: &str) -> String {
    let letters = title.chars().map(|c| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_lowercase(),
        false => '-',
    });
    letters.collect()
}

fn list(title: &str, lines: &[String]) -> Option<Section> {
    let mut body = "<ul>\n".to_owned();
    for line in lines {
        let _ = writeln!(body, "<li>{}</li>", escape(line));
    }
    body += "</ul>\n";
    let title = title.to_owned();
    (!lines.is_empty()).then_some(Section { title, body })
}

fn pictures(charts: &[Chart]) -> Result<Option<Section>> {
    let mut body = String::new();
    for chart in charts {
        let (svg, caption) = (chart.svg()?, escape(&chart.caption));
        let id = id(&chart.name);
        let _ = writeln!(
            body,
            "<figure id=\"{id}\">{svg}<figcaption>{caption}</figcaption></figure>"
        );
    }
    let title = "Charts".to_owned();
    Ok((!charts.is_empty()).then_some(Section { title, body }))
}

fn tabled(table: &Table, folded: bool) -> Option<Section> {
    if table.rows.is_empty() {
        return None;
    }
    let mut body = String::new();
    if !table.note.is_empty() {
        let _ = writeln!(body, "<p class=\"note\">{}</p>", escape(&table.note));
    }
    if folded {
        let count = table.rows.len();
        let _ = writeln!(body, "<details><summary>{count} rows</summary>");
    }
    body += "<div class=\"scroll\"><table>\n";
    row(&mut body, &table.head, "th", table.words);
    for cells in &table.rows {
        row(&mut body, cells, "td", table.words);
    }
    body += "</table></div>\n";
    if folded {
        body += "</details>\n";
    }
    let title = table.title.to_owned();
    Some(Section { title, body })
}

fn row(out: &mut String, cells: &[String], tag: &str, words: usize) {
    *out += "<tr>";
    for (i, cell) in cells.iter().enumerate() {
        let class = if i < words { "" } else { " class=\"n\"" };
        let _ = write!(out, "<{tag}{class}>{}</{tag}>", escape(cell));
    }
    *out += "</tr>\n";
}

fn provenance(report: &Report) -> Result<Section> {
    let text = serde_json::to_string_pretty(&report.provenance)
        .map_err(|e| Error::format("report.html", e))?;
    let text = escape(&text);
    Ok(Section {
        title: "Provenance".into(),
        body: format!("<details><summary>JSON</summary>\n<pre>{text}</pre></details>\n"),
    })
}

/// Every figure.
fn figures(report: &Report) -> Table {
    let head = [
        "method",
        "task",
        "metric",
        "mean",
        "± 1 standard error",
        "n",
    ];
    let mut table = Table::new("All figures", &head, 3);
    for row in &report.rows {
        table.rows.push(vec![
            row.label(),
            row.task.clone(),
            row.metric.clone(),
            format!("{:.4}", row.mean),
            format!("{:.4}", row.stderr),
            row.n.to_string(),
        ]);
    }
    table
}
