//! The report as markdown.

use serde_json::json;

use super::{Report, table, template};
use crate::error::Result;

/// Renders the whole report.
pub(super) fn render(report: &Report) -> Result<String> {
    let list = |title, lines: &[String]| json!({ "title": title, "lines": lines });
    let context = json!({
        "title": report.title,
        "facts": report.facts(),
        "command": report.command(),
        "lists": [
            list("What the figures say", &report.story()),
            list("Notes", &report.notes),
        ],
        "tables": [
            table::means(report),
            table::differences(report),
            table::by_task(report),
            table::clusters(report),
            table::settings(report),
            table::sources(report),
            table::stages(report),
        ],
    });
    template::render("report.md", include_str!("templates/report.md"), &context)
}
