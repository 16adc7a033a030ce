//! The report as markdown.

use std::fmt::Write;

use super::Report;
use super::table::{self, Table};

/// The whole report.
pub(super) fn render(report: &Report) -> String {
    let mut out = format!("# {}\n\n{}\n\n", report.title, report.facts().join(" · "));
    if let Some(command) = report.command() {
        let _ = write!(out, "    {command}\n\n");
    }
    section(&mut out, "What the figures say", &report.story());
    section(&mut out, "Notes", &report.notes);
    for table in [
        table::means(report),
        table::differences(report),
        table::by_task(report),
        table::clusters(report),
        table::settings(report),
        table::sources(report),
        table::stages(report),
    ] {
        write_table(&mut out, &table);
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn section(out: &mut String, title: &str, lines: &[String]) {
    if !lines.is_empty() {
        let _ = write!(out, "## {title}\n\n- {}\n\n", lines.join("\n- "));
    }
}

fn write_table(out: &mut String, table: &Table) {
    if table.rows.is_empty() {
        return;
    }
    let _ = write!(out, "## {}\n\n", table.title);
    if !table.note.is_empty() {
        let _ = write!(out, "{}\n\n", table.note);
    }
    let row = |cells: &[String]| {
        let cells: Vec<String> = cells
            .iter()
            .map(|cell| cell.replace('|', "\\|").replace('\n', " "))
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    *out += &row(&table.head);
    for i in 0..table.head.len() {
        *out += if i < table.words { "|---" } else { "|---:" };
    }
    *out += "|\n";
    for cells in &table.rows {
        *out += &row(cells);
    }
    out.push('\n');
}
