//! merge: many experts into one.

use anyhow::{Context, Result};
use lyceum::Name;
use lyceum::check::weigh;
use lyceum::expert::Expert;
use lyceum::library::Library;
use lyceum::lora::Lora;
use lyceum::merge::{Knobs, MergeSpec, Truncation, Weights, merge as merge_experts};
use lyceum::store::Put;
use serde::Serialize;

use super::{Settings, model};
use crate::args::{MembersArgs, MergeArgs};
use crate::out::{Format, say, show};

pub(crate) fn merge(args: &MergeArgs, settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let weights: Weights = args.weights.iter().cloned().collect();
    if weights.len() != args.weights.len() {
        anyhow::bail!("--weights names an expert twice");
    }
    let knobs = Knobs {
        weights: (!weights.is_empty()).then_some(weights),
        density: args.density,
        steps: args.steps,
        lr: args.lr,
        rank: args.rank,
    };
    let spec = MergeSpec::new(&args.method, knobs)?;
    let name = Name::new(&args.name)?;
    let library = Library::open_with(&args.uri, session)?;
    let experts = chosen(&library, &args.members, &name)?;
    let merged = merge_experts(&experts, &spec, &name)?;
    let mut warnings: Vec<String> = spec.caution().into_iter().collect();
    if weigh(&merged, None)?.zero {
        warnings.push(format!(
            "expert `{name}` changes nothing: its B A is zero at every site"
        ));
    }
    let (uri, put) = match args.replace {
        true => (args.library.as_deref(), Put::Replace),
        false => (args.library.as_deref(), Put::New),
    };
    let uri = uri.unwrap_or(&args.uri);
    Library::prepare_with(uri, session)?
        .add(&merged, put)
        .with_context(|| format!("adding the merged expert to {uri}"))?;
    let report = Report {
        merge: &spec,
        library: uri,
        experts: experts.iter().map(|e| &e.card.name).collect(),
        sites: merged.loras.len(),
        largest_rank: merged
            .loras
            .values()
            .map(Lora::rank)
            .max()
            .unwrap_or_default(),
        truncation: Truncation::of(&merged.card),
        expert: name,
        warnings,
    };
    if format == Format::Text {
        { report.warnings.iter() }.for_each(|warning| say(&format!("warning: {warning}")));
    }
    show(format, &report, Report::text)
}

#[derive(Serialize)]
struct Report<'a> {
    expert: Name,
    library: &'a str,
    merge: &'a MergeSpec,
    experts: Vec<&'a Name>,
    sites: usize,
    largest_rank: usize,
    truncation: Option<Truncation>,
    warnings: Vec<String>,
}

impl Report<'_> {
    fn text(&self) -> String {
        let names: Vec<&str> = self.experts.iter().map(|name| name.as_str()).collect();
        let mut text = format!(
            "{} in {}: {} of {} at {} layers, rank {}",
            self.expert,
            self.library,
            self.merge.about().name,
            names.join(", "),
            self.sites,
            self.largest_rank
        );
        if let Some(cut) = &self.truncation {
            text += &format!(
                ", relative error {} to the exact sum (the largest, at {}: {})",
                share(cut.relative_error),
                cut.worst_site,
                share(cut.worst_site_error)
            );
        }
        text
    }
}

/// A relative error as people read it.
fn share(x: f64) -> String {
    match x {
        0.0 => "0".into(),
        x if x >= 1e-3 => format!("{x:.3}"),
        x => format!("{x:.0e}"),
    }
}

/// The experts that count, but not the one that is being made unless it is named.
fn chosen(library: &Library, members: &MembersArgs, made: &Name) -> Result<Vec<Expert>> {
    let library = model::members(library, members)?;
    let mut names = library.names()?;
    if members.experts.is_empty() {
        names.retain(|name| name != made);
    }
    let experts = names.iter().map(|name| library.expert(name));
    Ok(experts.collect::<Result<_, _>>()?)
}
