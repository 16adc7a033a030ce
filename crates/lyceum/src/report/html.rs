//! The report as one page that needs nothing beside it.

use std::fmt::Write;

use super::Report;
use super::chart::Chart;
use crate::error::Result;
use crate::figure::Row;

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #212529; background: #f6f7f9; margin: 0; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; }
.facts { color: #59636e; margin: 0 0 1.5rem; }
figure { background: #fff; border: 1px solid #dfe3e8; border-radius: 8px; margin: 1.2rem 0;
  padding: .8rem; overflow-x: auto; }
figure svg { max-width: 100%; height: auto; display: block; margin: 0 auto; }
figcaption { color: #59636e; font-size: .9rem; padding: .5rem .3rem 0; }
table { border-collapse: collapse; font-size: .9rem; background: #fff; width: 100%; }
th, td { border-bottom: 1px solid #e6e9ed; padding: .3rem .6rem; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; border: 1px solid #dfe3e8; border-radius: 8px; }
code, pre { font: .85rem/1.45 ui-monospace, monospace; }
pre { background: #fff; border: 1px solid #dfe3e8; border-radius: 8px; padding: .8rem;
  overflow-x: auto; }
";

/// The whole page, with `charts` in it.
pub(super) fn render(report: &Report, charts: &[Chart]) -> Result<String> {
    let p = &report.provenance;
    let mut out = String::new();
    let title = escape(&report.title);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title><style>{STYLE}</style></head><body><main>\n<h1>{title}</h1>\n\
         <p class=\"facts\">Lyceum {} · base {} · {} on {} · seed {}</p>\n",
        escape(&p.lyceum),
        escape(&p.base),
        escape(&p.precision),
        escape(&p.device),
        p.seed
    );
    list(&mut out, "What the figures say", &report.story());
    list(&mut out, "Notes", &report.notes);
    if !charts.is_empty() {
        out += "<h2>Charts</h2>\n";
    }
    for chart in charts {
        let (svg, caption) = (chart.svg()?, escape(&chart.caption));
        let _ = writeln!(
            out,
            "<figure>{svg}<figcaption>{caption}</figcaption></figure>"
        );
    }
    figures(&mut out, &report.rows);
    stages(&mut out, report);
    provenance(&mut out, report)?;
    out += "</main></body></html>\n";
    Ok(out)
}

fn list(out: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(out, "<h2>{title}</h2>\n<ul>\n");
    for line in lines {
        let _ = writeln!(out, "<li>{}</li>", escape(line));
    }
    out.push_str("</ul>\n");
}

fn figures(out: &mut String, rows: &[Row]) {
    *out += "<h2>All figures</h2>\n<div class=\"scroll\"><table><tr><th>method</th><th>task</th>\
             <th>metric</th><th>mean</th><th>standard error</th><th>n</th></tr>\n";
    for row in rows {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{:.4}</td>\
             <td class=\"n\">{:.4}</td><td class=\"n\">{}</td></tr>",
            escape(&row.label()),
            escape(&row.task),
            escape(&row.metric),
            row.mean,
            row.stderr,
            row.n
        );
    }
    *out += "</table></div>\n";
}

fn stages(out: &mut String, report: &Report) {
    *out += "<h2>Stages</h2>\n<div class=\"scroll\"><table><tr><th>stage</th><th>seconds</th>\
             <th>tokens/s</th><th>peak memory, MiB</th><th></th></tr>\n";
    for s in &report.stages {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"n\">{:.1}</td><td class=\"n\">{:.0}</td>\
             <td class=\"n\">{:.0}</td><td>{}</td></tr>",
            escape(&s.name),
            s.seconds,
            s.tokens_per_second(),
            s.peak_memory_mib,
            if s.resumed { "reused" } else { "" }
        );
    }
    *out += "</table></div>\n";
}

fn provenance(out: &mut String, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(&report.provenance)
        .map_err(|e| crate::error::Error::format("report.html", e))?;
    let text = escape(&text);
    let _ = write!(out, "<h2>Provenance</h2>\n<pre>{text}</pre>\n");
    Ok(())
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    #[test]
    fn markup_in_names_is_shown_not_obeyed() {
        let shown = super::escape("<script>\"&");
        assert_eq!(shown, "&lt;script&gt;&quot;&amp;");
    }
}
