//! Taking experts from elsewhere: a folder of MTTL's, a PEFT adapter, a folder or cache of them.

use anyhow::{Result, bail};
use lyceum::Name;
use lyceum::backbone::{Base, OwnTensors, Precision};
use lyceum::check::{Weighed, weigh};
use lyceum::library::{self, Library, Taking};
use lyceum::mttl::Refused;
use lyceum::peft::{BaseTensors, Beside};
use lyceum::store::{Wanted, fetched_with};
use serde::Serialize;

use super::Settings;
use crate::args::ImportArgs;
use crate::out::{Format, NotClean, say, show};

#[derive(Serialize)]
struct Report {
    experts: Vec<Weighed>,
    removed: Vec<Name>,
    artifacts: usize,
    base: Option<String>,
    refused: Vec<LeftOut>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct LeftOut {
    what: String,
    why: String,
}

impl LeftOut {
    fn of(refused: &Refused) -> Self {
        let mut why = refused.why.chain();
        if refused.nameable {
            why += "; imported alone it can be given a name (--name)";
        }
        LeftOut {
            what: refused.what.clone(),
            why,
        }
    }
}

pub(crate) fn import(args: &ImportArgs, settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let fetch = |dir| fetched_with(dir, Wanted::Base, session);
    let dir = args.base.as_deref().map(fetch).transpose()?;
    let base = dir.as_ref().map(|dir| Base::open(dir, Precision::F32));
    let host = base.transpose()?.map(|base| base.host());
    let tensors = dir.as_ref().map(|dir| OwnTensors::open(dir)).transpose()?;
    let taking = Taking {
        base: Beside {
            host: host.as_ref(),
            tensors: tensors.as_ref().map(|own| own as &dyn BaseTensors),
        },
        name: args.name.clone(),
        session: session.clone(),
    };
    let mut contents = library::contents(&args.source, &taking)?;
    if !contents.experts.is_empty() || !contents.removed.is_empty() {
        let library = Library::prepare_with(&args.destination, session)?;
        library::take_in(&mut contents, &library)?;
    }
    let refused: Vec<LeftOut> = contents.refused.iter().map(LeftOut::of).collect();
    if contents.experts.is_empty() && contents.removed.is_empty() {
        let all = refused
            .iter()
            .map(|out| format!("{}: {}", out.what, out.why));
        bail!(
            "nothing could be imported: {}",
            all.collect::<Vec<_>>().join("\n  ")
        );
    }
    let mut warnings = std::mem::take(&mut contents.notes);
    if host.is_none() {
        let text = "nothing was checked against the base the experts were trained on; --base DIR \
                    does, and binds them to it";
        warnings.push(text.to_owned());
    }
    let weighed = { contents.experts.iter() }.map(|expert| weigh(expert, host.as_ref()));
    let weighed: Vec<Weighed> = weighed.collect::<Result<_, _>>()?;
    for zero in weighed.iter().filter(|w| w.zero) {
        let name = &zero.expert;
        warnings.push(format!(
            "expert `{name}` changes nothing: its B A is zero at every site"
        ));
    }
    let removed = contents.removed.iter().map(|e| e.card.name.clone());
    let report = Report {
        experts: weighed,
        removed: removed.collect(),
        artifacts: contents.artifacts.len(),
        base: host.map(|host| host.fingerprint),
        refused,
        warnings,
    };
    if format == Format::Text {
        { report.warnings.iter() }.for_each(|warning| say(&format!("warning: {warning}")));
    }
    show(format, &report, text)?;
    match report.refused.is_empty() {
        true => Ok(()),
        false => Err(NotClean.into()),
    }
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
        text += &format!("{name:<60} removed there; `lyceum restore` brings it back\n");
    }
    for LeftOut { what, why } in &report.refused {
        text += &format!("left out: {what}: {why}\n");
    }
    let base = report.base.as_deref().unwrap_or("not given");
    let (experts, artifacts) = (report.experts.len(), report.artifacts);
    text += &format!("imported {experts} experts and {artifacts} artifacts; base {base:.12}");
    match report.refused.len() {
        0 => {}
        n => text += &format!("; {n} left out"),
    }
    text + "\n"
}
