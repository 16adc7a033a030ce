//! Training experts and deriving artifacts.

use anyhow::{Context, Result, bail};
use candle_core::Device;
use lyceum::Name;
use lyceum::library::Library;
use lyceum::lora::LoraConfig;
use lyceum::recipe::train_missing;
use lyceum::train::How;
use lyceum::transform::{self, Clusters, Phatgoose};

use super::{done, model};
use crate::args::{DeriveArgs, TrainArgs};
use crate::out::{Bar, Format, show};

pub(crate) fn train(args: &TrainArgs, device: &Device, format: Format) -> Result<()> {
    let data = model::data(args.data.data.as_deref())?;
    let chosen: Vec<Name> = args
        .tasks
        .iter()
        .map(|t| Name::new(t))
        .collect::<Result<_, _>>()?;
    let groups: Vec<(Name, Vec<Name>)> = match &args.clusters {
        Some(path) => {
            let text = std::fs::read(path).with_context(|| path.display().to_string())?;
            let clusters: Clusters = serde_json::from_slice(&text)
                .with_context(|| format!("{} is not a clusters file", path.display()))?;
            clusters.into_iter().collect()
        }
        None => {
            let tasks = if chosen.is_empty() {
                data.tasks()
            } else {
                chosen
            };
            tasks
                .into_iter()
                .map(|task| (task.clone(), vec![task]))
                .collect()
        }
    };
    let lora = LoraConfig {
        rank: args.rank,
        alpha: args.alpha,
        targets: args.targets.clone(),
        ..LoraConfig::default()
    };
    let how = How {
        lr: args.lr,
        batch: args.batch,
        epochs: args.epochs,
        max_input: args.data.max_input,
        seed: args.seed,
        recompute: args.recompute,
        ..How::default()
    };
    let base = model::base(&args.base, device)?;
    let library = Library::create(&args.library)?;
    let mut bar = Bar::new("train", "loss");
    let trained = train_missing(&base, &library, &data, &groups, (&lora, &how), &mut bar)?;
    drop(bar);
    let kept = groups.len() - trained.len();
    let value: Vec<serde_json::Value> = trained
        .iter()
        .map(|(name, losses)| {
            serde_json::json!({
                "expert": name, "steps": losses.len(), "first": losses.first(), "last": losses.last(),
            })
        })
        .collect();
    show(format, &value, |_| {
        let mut text = String::new();
        for (name, losses) in &trained {
            let (first, last) = (losses.first(), losses.last());
            let (first, last) = (first.copied().unwrap_or(0.0), last.copied().unwrap_or(0.0));
            text += &format!("{name:<60} loss {first:.3} -> {last:.3}\n");
        }
        if kept > 0 {
            text += &format!("{kept} experts were there already with the same specification\n");
        }
        text
    })
}

pub(crate) fn derive(args: &DeriveArgs, device: &Device, format: Format) -> Result<()> {
    let library = Library::open(&args.uri)?;
    let derived = match args.kind.as_str() {
        "arrow" => {
            none_of_gates(args)?;
            transform::arrow(&library)?
        }
        "phatgoose" => {
            let standard = Phatgoose::default();
            let how = Phatgoose {
                steps: args.steps.unwrap_or(standard.steps),
                lr: args.lr.unwrap_or(standard.lr),
                warmup: args.warmup.unwrap_or(standard.warmup),
                batch: args.batch.unwrap_or(standard.batch),
                max_input: args.data.max_input,
                seed: args.seed.unwrap_or(standard.seed),
            };
            let options = model::Options {
                accepts: model::accepts(args.allow_other_base),
                ..model::Options::default()
            };
            let base = model::base_with(&args.base, options, device)?;
            let data = model::data(args.data.data.as_deref())?;
            let mut bar = Bar::new("phatgoose", "loss");
            transform::phatgoose(&base, &library, &data, &how, &mut bar)?
        }
        other => bail!("`{other}` cannot be derived; there are arrow and phatgoose"),
    };
    let all = library.names()?.len();
    done(
        format,
        &format!(
            "derived {} for {} of {all} experts",
            args.kind,
            derived.len()
        ),
    )
}

/// Checks that nothing is set that only trained gates have.
fn none_of_gates(args: &DeriveArgs) -> Result<()> {
    let given = [
        ("--steps", args.steps.is_some()),
        ("--lr", args.lr.is_some()),
        ("--warmup", args.warmup.is_some()),
        ("--batch", args.batch.is_some()),
        ("--seed", args.seed.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => bail!(
            "{flag} is a setting of phatgoose, whose gates are trained; arrow's prototypes follow \
             from the weights alone"
        ),
        None => Ok(()),
    }
}
