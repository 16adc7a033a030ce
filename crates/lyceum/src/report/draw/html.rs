//! The report as one page that needs nothing beside it.

use serde::Serialize;
use serde_json::json;

use crate::error::{Error, Result};
use crate::report::Report;
use crate::report::chart::Chart;
use crate::report::table::{self, Table};
use crate::report::template;

/// A section of the page.
#[derive(Serialize)]
struct Section {
    title: &'static str,
    #[serde(flatten)]
    body: Body,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Body {
    Lines(Vec<String>),
    Figures(Vec<Figure>),
    Table(Table),
    /// A table that is shown on demand.
    Folded(Table),
    Json(String),
}

/// A chart, drawn.
#[derive(Serialize)]
struct Figure {
    name: String,
    svg: String,
    caption: String,
}

/// Renders the page, with `charts` in it.
pub(in crate::report) fn render(report: &Report, charts: &[Chart]) -> Result<String> {
    let mut sections = sections(report, charts)?;
    sections.retain(|section| match &section.body {
        Body::Lines(lines) => !lines.is_empty(),
        Body::Figures(figures) => !figures.is_empty(),
        Body::Table(table) | Body::Folded(table) => !table.rows.is_empty(),
        Body::Json(_) => true,
    });
    let source = include_str!("../templates/report.html");
    let context = json!({
        "title": report.title,
        "facts": report.facts(),
        "command": report.command(),
        "sections": sections,
    });
    template::render("report.html", source, &context)
}

fn sections(report: &Report, charts: &[Chart]) -> Result<Vec<Section>> {
    let figure = |chart: &Chart| {
        Ok(Figure {
            name: chart.name.clone(),
            svg: chart.svg()?,
            caption: chart.caption.clone(),
        })
    };
    let figures = charts.iter().map(figure).collect::<Result<_>>()?;
    let provenance = serde_json::to_string_pretty(&report.provenance)
        .map_err(|e| Error::format("report.html", e))?;
    let section = |title, body| Section { title, body };
    let open = |table: Table| section(table.title, Body::Table(table));
    let folded = |table: Table| section(table.title, Body::Folded(table));
    Ok(vec![
        section("What the figures say", Body::Lines(report.story())),
        section("Notes", Body::Lines(report.notes.clone())),
        section("Charts", Body::Figures(figures)),
        open(table::means(report)),
        open(table::differences(report)),
        folded(table::by_task(report)),
        folded(figures_table(report)),
        open(table::clusters(report)),
        open(table::settings(report)),
        open(table::sources(report)),
        open(table::stages(report)),
        section("Provenance", Body::Json(provenance)),
    ])
}

/// Every figure.
fn figures_table(report: &Report) -> Table {
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
