//! Training experts and deriving artifacts.

use anyhow::{Result, bail};
use lyceum::Name;
use lyceum::data::Dataset;
use lyceum::library::Library;
use lyceum::lora::LoraConfig;
use lyceum::train::{Differing, Plan, TaskGroup, TrainConfig, Trained, TrainedExpert, Trainer};
use lyceum::transform::{self, ClusterTasks, Derive, Phatgoose};

use super::{Settings, model};
use crate::args::{DeriveArgs, TrainArgs};
use crate::out::{Bar, Format, count, say, show};
use crate::table::{Column, Table, sparkline};

pub(crate) fn train(args: &TrainArgs, settings: &Settings) -> Result<()> {
    let session = &settings.session;
    let data = model::data(args.data.data.as_deref(), session)?;
    let groups = groups(args, &data)?;
    let lora = LoraConfig::default()
        .rank(args.rank)
        .alpha(args.alpha)
        .targets(args.targets.clone());
    let config = TrainConfig::default()
        .lr(args.lr)
        .batch(args.batch)
        .epochs(args.epochs)
        .max_input(args.data.max_input)
        .seed(args.seed)
        .recompute(args.recompute);
    // A place that cannot be written is told before the base is opened; until an expert is
    // finished nothing is left there.
    let library = Library::prepare_with(&args.library, session)?;
    let base = model::base(&args.base, settings)?;
    let mut trainer = Trainer::new(&base)
        .lora(lora)
        .config(config)
        .replace(args.replace)
        .mixed_bases(args.mixed_bases);
    if let Some(dir) = session.checkpoints() {
        trainer = trainer.checkpoints(dir);
    }
    let plan = trainer.plan(&groups, &data, &library)?;
    agreed(&plan, args)?;
    let mut bar = Bar::stoppable("train", "loss");
    let trained = plan.run(&mut bar);
    drop(bar);
    show_trained(&trained?, &library, settings.format)
}

/// The experts asked for, each with its tasks.
fn groups(args: &TrainArgs, data: &Dataset) -> Result<Vec<TaskGroup>> {
    if let Some(path) = &args.clusters {
        let ClusterTasks { groups, note } = transform::read_clusters(path)?;
        if let Some(note) = note {
            say(&format!("warning: {note}"));
        }
        let known = data.tasks();
        let unknown = |task: &&Name| !known.contains(task);
        if let Some(task) = groups.iter().flat_map(|group| &group.tasks).find(unknown) {
            bail!(
                "`{task}` in {} is no task of the data; of experts called otherwise than their \
                 tasks `lyceum cluster` writes the tasks to a second file, which must lie beside",
                path.display()
            );
        }
        return Ok(groups);
    }
    let mut tasks: Vec<Name> = Vec::new();
    for task in &args.tasks {
        let task = Name::new(task.trim())?;
        match tasks.contains(&task) {
            true => say(&format!("task `{task}` is named twice and trained once")),
            false => tasks.push(task),
        }
    }
    if tasks.is_empty() {
        tasks = data.tasks();
    }
    Ok(tasks.into_iter().map(TaskGroup::of_task).collect())
}

/// Refuses what `--replace` and `--mixed-bases` are for, naming them.
fn agreed(plan: &Plan<'_>, args: &TrainArgs) -> Result<()> {
    let uri = &args.library;
    if !plan.differing.is_empty() && !args.replace {
        let one = |differing: &Differing| format!("  `{}`: {}", differing.name, differing.said());
        let all: Vec<String> = plan.differing.iter().map(one).collect();
        bail!(
            "{uri} holds experts of these names that were made otherwise\n{}\n--replace trains them \
             again (version {} keeps those that are there), or give another --library",
            all.join("\n"),
            plan.version
        );
    }
    if let (Some((name, base)), false) = (plan.strangers.first(), args.mixed_bases)
        && !plan.missing().is_empty()
    {
        bail!(
            "expert `{name}` of {uri} belongs to another base (`{base}`), and no router takes experts \
             of two; give another --library, or --mixed-bases to keep both in this one"
        );
    }
    Ok(())
}

fn show_trained(trained: &Trained, library: &Library, format: Format) -> Result<()> {
    let row = |expert: &TrainedExpert| {
        let losses = &expert.losses;
        let mut row = serde_json::json!({
            "expert": expert.name, "steps": losses.len(), "first": losses.first(),
            "last": losses.last(), "library": library.uri(), "version": trained.version,
        });
        if let Some(differing) = &expert.replaced {
            row["replaced"] =
                serde_json::json!({ "differs": differing.what, "kept_in": trained.before });
        }
        if let Some((first, last)) = expert.rose() {
            row["warning"] = format!(
                "the loss ended above where it began: {first:.3} -> {last:.3}, means over steps"
            )
            .into();
        }
        row
    };
    let rows: Vec<serde_json::Value> = trained.experts.iter().map(row).collect();
    show(format, &rows, |_| {
        let mut text = table(trained);
        match trained.already.len() {
            0 => {}
            1 => text += "1 expert was there already with the same specification\n",
            n => text += &format!("{n} experts were there already with the same specification\n"),
        }
        let (n, uri) = (trained.experts.len(), library.uri());
        if n > 0 {
            let (added, version) = (count(n, "expert"), trained.version);
            text += &format!("added {added} to {uri} (version {version})\n");
        }
        text
    })
}

/// The table of the experts trained now; empty if there is none.
fn table(trained: &Trained) -> String {
    if trained.experts.is_empty() {
        return String::new();
    }
    let line = |expert: &TrainedExpert| {
        let losses = &expert.losses;
        let loss = match (losses.first(), losses.last()) {
            (Some(first), Some(last)) => format!("{first:.3} -> {last:.3}"),
            _ => String::new(),
        };
        let replaced = match expert.replaced {
            Some(_) => format!("replaced (version {} keeps the old one)", trained.before),
            None => String::new(),
        };
        let (steps, curve) = (losses.len().to_string(), sparkline(losses, 12));
        [expert.name.to_string(), steps, loss, curve, replaced]
    };
    let columns = [
        Column::text("expert"),
        Column::number("steps"),
        Column::number("loss"),
        Column::word(""),
        Column::text(""),
    ];
    Table::new(columns, trained.experts.iter().map(line)).to_text()
}

pub(crate) fn derive(args: &DeriveArgs, settings: &Settings) -> Result<()> {
    let session = &settings.session;
    let library = model::members(&Library::open_with(&args.uri, session)?, &args.members)?;
    let derived = match transform::about(&args.kind)?.derive {
        Derive::Weights(derive) => {
            none_of_training(args)?;
            derive(&library)?
        }
        Derive::Training(derive) => {
            let mut config = Phatgoose::default().max_input(args.data.max_input);
            config.steps = args.steps.unwrap_or(config.steps);
            config.lr = args.lr.unwrap_or(config.lr);
            config.warmup = args.warmup.unwrap_or(config.warmup);
            config.batch = args.batch.unwrap_or(config.batch);
            config.seed = args.seed.unwrap_or(config.seed);
            config.checkpoints = session.checkpoints();
            let options = model::Options {
                accepts: model::accepts(args.allow_other_base),
                ..model::Options::default()
            };
            let base = model::base_with(&args.base, options, settings)?;
            let data = model::data(args.data.data.as_deref(), session)?;
            let mut bar = Bar::stoppable(&args.kind, "loss");
            let with = transform::Training {
                base: &base,
                data: &data,
                config: &config,
            };
            derive(&library, &with, &mut bar)?
        }
    };
    let all = library.names()?.len();
    let (uri, kind) = (&args.uri, &args.kind);
    let value = serde_json::json!({
        "library": uri, "kind": kind, "derived": derived, "experts": all,
    });
    show(settings.format, &value, |_| {
        format!(
            "derived {kind} for {} of {all} experts of {uri}",
            derived.len()
        )
    })
}

/// Checks that nothing is set that only training has.
fn none_of_training(args: &DeriveArgs) -> Result<()> {
    let given = [
        ("--steps", args.steps.is_some()),
        ("--lr", args.lr.is_some()),
        ("--warmup", args.warmup.is_some()),
        ("--batch", args.batch.is_some()),
        ("--seed", args.seed.is_some()),
    ];
    let trained: Vec<&str> = transform::TRANSFORMS
        .iter()
        .filter(|about| matches!(about.derive, Derive::Training(_)))
        .map(|about| about.kind)
        .collect();
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => bail!(
            "{flag} is a setting of training ({}); {} artifacts follow from the weights alone",
            trained.join(", "),
            args.kind
        ),
        None => Ok(()),
    }
}
