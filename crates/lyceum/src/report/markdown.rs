//! The report as markdown.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::Report;
use crate::figure::Row;

/// The whole report.
pub(super) fn render(report: &Report) -> String {
    let mut out = format!("# {}\n\n", report.title);
    section(&mut out, "What the figures say", &report.story());
    section(&mut out, "Notes", &report.notes);
    let _ = write!(
        out,
        "## Means\n\n| method | metric | mean | n |\n|---|---|---|---|\n"
    );
    let tasks: BTreeSet<&str> = report.rows.iter().map(|r| r.task.as_str()).collect();
    let whole = |r: &&Row| r.task == "mean" || r.metric.starts_with("acc");
    for r in report.rows.iter().filter(whole) {
        let (label, task) = (r.label(), if r.task == "mean" { "" } else { &r.task });
        let (digits, n) = (if r.metric == "rouge-l" { 2 } else { 4 }, r.n);
        let _ = writeln!(
            out,
            "| {label} | {task} {} | {:.digits$} ± {:.digits$} | {n} |",
            r.metric, r.mean, r.stderr
        );
    }
    let _ = write!(out, "\n## ROUGE-L by task\n\n");
    let of = |task: &str| -> Vec<&Row> {
        report
            .rows
            .iter()
            .filter(|r| r.metric == "rouge-l" && r.task == task)
            .collect()
    };
    let labels: Vec<String> = of("mean").into_iter().map(Row::label).collect();
    let _ = writeln!(out, "| task | {} |", labels.join(" | "));
    let _ = writeln!(out, "|---|{}", "---|".repeat(labels.len()));
    for task in tasks.iter().filter(|t| **t != "mean") {
        let cells: Vec<String> = of(task).iter().map(|r| format!("{:.1}", r.mean)).collect();
        if !cells.is_empty() {
            let _ = writeln!(out, "| {task} | {} |", cells.join(" | "));
        }
    }
    let _ = write!(out, "\n## Clusters\n\n");
    for similarity in &report.similarity {
        for (name, members) in &similarity.clusters {
            let _ = writeln!(out, "- {name}: {}", members.join(", "));
        }
    }
    let _ = write!(
        out,
        "\n## Stages\n\n| stage | seconds | tokens/s | peak MiB | |\n"
    );
    let _ = writeln!(out, "|---|---|---|---|---|");
    for s in &report.stages {
        let speed = s.tokens_per_second();
        let reused = if s.resumed { "reused" } else { "" };
        let (name, seconds, memory) = (&s.name, s.seconds, s.peak_memory_mib);
        let _ = writeln!(
            out,
            "| {name} | {seconds:.1} | {speed:.0} | {memory:.0} | {reused} |"
        );
    }
    out
}

fn section(out: &mut String, title: &str, lines: &[String]) {
    if !lines.is_empty() {
        let _ = write!(out, "## {title}\n\n- {}\n\n", lines.join("\n- "));
    }
}
