//! merge: many experts into one.

use anyhow::{Context, Result};
use lyceum::Name;
use lyceum::expert::Expert;
use lyceum::library::Library;
use lyceum::merge::{Knobs, MergeSpec, Weights, merge as merge_experts};
use lyceum::store::Put;
use serde_json::json;

use super::model;
use crate::args::{MembersArgs, MergeArgs};
use crate::out::{Format, show};

pub(crate) fn merge(args: &MergeArgs, format: Format) -> Result<()> {
    let weights: Weights = args.weights.iter().cloned().collect();
    if weights.len() != args.weights.len() {
        anyhow::bail!("--weights names an expert twice");
    }
    let knobs = Knobs {
        weights: (!weights.is_empty()).then_some(weights),
        density: args.density,
        steps: args.steps,
        lr: args.lr,
    };
    let spec = MergeSpec::new(&args.method, knobs)?;
    let name = Name::new(&args.name)?;
    let library = Library::open(&args.uri)?;
    let experts = chosen(&library, &args.members, &name)?;
    let merged = merge_experts(&experts, &spec, &name)?;
    let (uri, put) = match args.replace {
        true => (args.library.as_deref(), Put::Replace),
        false => (args.library.as_deref(), Put::New),
    };
    let uri = uri.unwrap_or(&args.uri);
    Library::prepare(uri)?
        .add(&merged, put)
        .with_context(|| format!("adding the merged expert to {uri}"))?;
    let ranks: Vec<usize> = merged
        .loras
        .values()
        .map(lyceum::lora::Lora::rank)
        .collect();
    let names: Vec<&Name> = experts.iter().map(|e| &e.card.name).collect();
    let value = json!({
        "expert": name, "library": uri, "merge": spec, "experts": names,
        "sites": ranks.len(), "largest_rank": ranks.iter().max(),
    });
    show(format, &value, |_| {
        let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        let rank = ranks.iter().max().copied().unwrap_or_default();
        format!(
            "{name} in {uri}: {} of {} at {} layers, rank {rank}",
            args.method,
            names.join(", "),
            ranks.len()
        )
    })
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
