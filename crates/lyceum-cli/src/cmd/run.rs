//! Whole experiments, pre-training, and reports drawn again.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use lyceum::backbone::Base;
use lyceum::recipe::{self, Recipe};
use lyceum::report::Report;
use lyceum::train::Pretrain;

use super::model;
use crate::args::RunArgs;
use crate::out::{Bar, Format, Stages, say, show};

pub(crate) fn run(args: &RunArgs, format: Format) -> Result<()> {
    let mut recipe = Recipe::read(&args.recipe)?;
    if let Some(seed) = args.seed {
        recipe = recipe.with_seed(seed);
    }
    if let Some(precision) = args.precision {
        recipe.precision = precision.into();
    }
    let embedded = Path::new("embedded");
    let base = match recipe.base == embedded {
        true => lyceum::assets::base(recipe.precision)?,
        false => Base::open(&recipe.base, recipe.precision)?,
    };
    let data = model::data(Some(recipe.data.as_path()).filter(|path| *path != embedded))?;
    let mut questions = match &recipe.downstream {
        Some(path) => model::questions(path)?,
        None => Vec::new(),
    };
    questions.truncate(recipe.downstream_limit.unwrap_or(usize::MAX));
    let mut progress = Stages {
        quiet: format == Format::Json,
    };
    let report = recipe::run(
        &recipe,
        (Arc::new(base), data, questions),
        &args.out,
        &mut progress,
    )?;
    show(format, &report, |report| {
        let mut text = String::new();
        for row in report
            .rows
            .iter()
            .filter(|r| r.task == "mean" && r.metric == "rouge-l")
        {
            text += &format!(
                "{:<32} {:>6.2} ± {:.2}\n",
                row.label(),
                row.mean,
                row.stderr
            );
        }
        for line in report.story() {
            text += &format!("{line}\n");
        }
        text + &format!("report: {}", args.out.join("report.md").display())
    })
}

pub(crate) fn pretrain(path: &Path, root: &Path, out: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let how: Pretrain = toml::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), recipe::explain(&error)))?;
    let mut bar = Bar::new("pretrain", "loss");
    let curve = lyceum::train::pretrain(&how, root, out, &mut bar)?;
    if let Some(last) = curve.last() {
        say(&format!(
            "loss {last:.3} after {} steps; base in {}",
            curve.len(),
            out.display()
        ));
    }
    Ok(())
}

pub(crate) fn plot(path: &Path, out: Option<&Path>) -> Result<()> {
    let report = Report::read(path)?;
    let beside = path.parent().unwrap_or(Path::new("."));
    Ok(report.write(out.unwrap_or(beside))?)
}
