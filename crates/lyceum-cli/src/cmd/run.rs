//! Whole experiments, pre-training, and reports drawn again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lyceum::backbone::LoadOptions;
use lyceum::recipe::{self, Recipe, RunInputs};
use lyceum::report::chart::{Chart, Kind, Lines};
use lyceum::report::{self, Report};
use lyceum_pretrain::{Pretrain, PretrainState};
use serde_json::json;

use super::{Settings, model};
use crate::args::RunArgs;
use crate::out::{Bar, Format, Stages, show, wrote};

pub(crate) fn run(args: &RunArgs, settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let mut recipe = Recipe::read(&args.recipe)?;
    if let Some(base) = &args.base {
        recipe.base.clone_from(base);
    }
    if let Some(seed) = args.seed {
        recipe = recipe.with_seed(seed);
    }
    if let Some(precision) = args.kept() {
        recipe.precision = precision;
    }
    // Whatever can be known beforehand is known before the base is opened.
    lyceum::file::probe(&args.out).with_context(|| format!("--out {}", args.out.display()))?;
    let place = LoadOptions::new(recipe.precision, &settings.device);
    let embedded = Path::new("embedded");
    let data = Some(recipe.data.as_path()).filter(|path| *path != embedded);
    let data = model::data(data, session)?;
    let mut questions = match &recipe.downstream {
        Some(path) => model::questions(path).context("the recipe's `downstream`")?,
        None => Vec::new(),
    };
    questions.truncate(recipe.downstream_limit.unwrap_or(usize::MAX));
    let base = match recipe.base == embedded {
        true => lyceum::assets::base(place)?,
        false => model::opened(&recipe.base, place, session)?,
    };
    model::doubts(&base);
    let mut progress = Stages {
        quiet: format == Format::Json,
    };
    let inputs = RunInputs::new(Arc::new(base), data)
        .questions(questions)
        .session(session.clone());
    let report = recipe::run(&recipe, inputs, &args.out, &mut progress)?;
    show(format, &report, |report| {
        let means = { report.rows.iter() }.filter(|r| r.task == "mean" && r.metric == "rouge-l");
        let means: Vec<_> = means.map(|row| (row.label(), row)).collect();
        let width = means.iter().map(|(label, _)| label.chars().count()).max();
        let width = width.unwrap_or_default();
        let mut text = String::new();
        for (label, row) in means {
            text += &format!("{label:<width$} {:>6.2} ± {:.2}\n", row.mean, row.stderr);
        }
        for line in report.story() {
            text += &format!("{line}\n");
        }
        text + &format!("report: {}", args.out.join("report.md").display())
    })
}

pub(crate) fn pretrain(path: &Path, root: &Path, out: &Path, settings: &Settings) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let how: Pretrain = toml::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), recipe::explain(&error)))?;
    let mut bar = Bar::stoppable("pretrain", "loss");
    let state = lyceum_pretrain::pretrain(&how, root, out, &settings.device, &mut bar)?;
    drop(bar);
    if report::drawable().is_ok() {
        curves(&state, how.save_every).write(out)?;
    }
    let held_out = state.held_out.last();
    let value = json!({
        "steps": state.losses.len(), "wrote": [out],
        "held_out_loss": held_out.map(|(_, loss, _)| loss),
        "bits_per_byte": held_out.map(|(_, _, bits)| bits),
        "baseline_bits_per_byte": state.baseline,
    });
    show(settings.format, &value, |_| {
        let mut text = format!("{} steps; base in {}", state.losses.len(), out.display());
        if let Some((_, loss, bits)) = held_out {
            text += &format!("\nheld out: loss {loss:.3}, {bits:.3} bits per byte");
        }
        if let Some(bits) = state.baseline {
            text += &format!(" (4-gram, Witten-Bell: {bits:.3})");
        }
        text
    })
}

/// Training loss, averaged between held-out measurements, and held-out loss.
fn curves(state: &PretrainState, every: usize) -> Chart {
    let means = state.losses.chunks(every).enumerate();
    let mean = |(i, some): (usize, &[f64])| {
        let at = (i * every + some.len()) as f64;
        [at, some.iter().sum::<f64>() / some.len() as f64]
    };
    let held = state.held_out.iter().map(|h| [h.0 as f64, h.1]);
    Chart {
        name: "loss".into(),
        title: "Pre-training".into(),
        caption: "Cross-entropy per token, nats.".into(),
        kind: Kind::Lines(Lines {
            x: "step".into(),
            y: "loss".into(),
            lines: vec![
                ("training".into(), means.map(mean).collect()),
                ("held out".into(), held.collect()),
            ],
            whole: true,
            ..Lines::default()
        }),
    }
}

pub(crate) fn plot(paths: &[PathBuf], out: Option<&Path>, format: Format) -> Result<()> {
    report::drawable()?;
    let report = match paths {
        [path] => Report::read(path)?,
        _ => {
            let runs: Vec<Report> = paths
                .iter()
                .map(|p| Report::read(p))
                .collect::<Result<_, _>>()?;
            Report::over_seeds(&runs)?
        }
    };
    let out = match (out, paths) {
        (Some(out), _) => out,
        (None, [path]) => path.parent().unwrap_or(Path::new(".")),
        (None, _) => bail!("say with --out where the mean over several reports goes"),
    };
    report.write(out)?;
    wrote(format, &[&out.join("report.html")])
}
