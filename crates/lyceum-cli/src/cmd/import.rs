//! Taking experts from elsewhere: a folder of MTTL's, a PEFT adapter, a folder or cache of them.

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use lyceum::Name;
use lyceum::check::{Weighed, weigh};
use lyceum::library::{self, Library};
use serde::Serialize;

use super::model;
use crate::args::BaseArgs;
use crate::out::{Format, say, show};

#[derive(Serialize)]
struct Report {
    experts: Vec<Weighed>,
    removed: Vec<Name>,
    artifacts: usize,
    base: Option<String>,
    warnings: Vec<String>,
}

pub(crate) fn import(source: &Path, to: &str, base: &BaseArgs, format: Format) -> Result<()> {
    let base = base.base.as_ref().map(|_| model::base(base, &Device::Cpu));
    let base = base.transpose()?;
    let host = base.map(|base| base.host());
    let mut contents = library::contents(source, host.as_ref())?;
    let mut warnings = std::mem::take(&mut contents.notes);
    let experts = contents.experts.iter_mut().chain(&mut contents.removed);
    if let Some(host) = &host {
        for expert in experts {
            expert.check_base(host)?;
            expert.card.base = Some(host.fingerprint.clone());
        }
    } else {
        let text = "the base is not known, so nothing was checked against it; --base DIR does, and \
                    records it";
        warnings.push(text.to_owned());
    }
    let weighed: Vec<Weighed> = contents
        .experts
        .iter()
        .map(|expert| weigh(expert, host.as_ref()))
        .collect::<Result<_, _>>()?;
    for zero in weighed.iter().filter(|w| w.zero) {
        let name = &zero.expert;
        warnings.push(format!(
            "expert `{name}` changes nothing: its B A is zero at every site"
        ));
    }
    let library = Library::prepare(to)?;
    contents.add_to(&library)?;
    library.make()?;
    let report = Report {
        experts: weighed,
        removed: contents
            .removed
            .iter()
            .map(|e| e.card.name.clone())
            .collect(),
        artifacts: contents.artifacts.len(),
        base: host.map(|host| host.fingerprint),
        warnings,
    };
    if format == Format::Text {
        report
            .warnings
            .iter()
            .for_each(|warning| say(&format!("warning: {warning}")));
    }
    show(format, &report, text)
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for w in &report.experts {
        let norms = w.norms.iter().map(|(_, norm)| *norm);
        let (low, high) = norms.fold((f64::INFINITY, 0f64), |(l, h), n| (l.min(n), h.max(n)));
        let sites = match w.matched {
            Some(matched) => format!("{matched}/{} sites", w.sites),
            None => format!("{} sites", w.sites),
        };
        text += &format!("{:<60} {sites:<14} |dW| {low:.4} to {high:.4}\n", w.expert);
    }
    for name in &report.removed {
        text += &format!("{name:<60} removed there; `lyceum remove --restore` brings it back\n");
    }
    let base = report.base.as_deref().unwrap_or("not known");
    let (experts, artifacts) = (report.experts.len(), report.artifacts);
    text + &format!("imported {experts} experts and {artifacts} artifacts; base {base:.12}\n")
}
