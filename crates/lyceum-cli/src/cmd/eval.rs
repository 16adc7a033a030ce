//! Evaluating a model on generated text or multiple choice.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use candle_core::Device;
use lyceum::Name;
use lyceum::data::{Dataset, Example, Split};
use lyceum::eval::{Limits, answer_rows, choose, prediction_rows, rouge_l};
use lyceum::figure::{Row, Subject};
use lyceum::model::Model;
use lyceum::report::{Provenance, Report, Stage};
use lyceum::train::Watch;
use serde::Serialize;

use super::model;
use crate::args::{EvalArgs, ModelArgs};
use crate::out::{Bar, Format, show};

/// Counts the tokens a bar is shown.
struct Counted(Bar, u64);

impl Watch for Counted {
    fn step(&mut self, step: usize, steps: usize, value: f64, tokens: usize) {
        self.1 += tokens as u64;
        self.0.step(step, steps, value, tokens);
    }
}

/// Rows, what was done, and every example's own result as JSON lines.
type Found = (Vec<Row>, Stage, String);

pub(crate) fn eval(args: &EvalArgs, device: &Device, format: Format) -> Result<()> {
    // What was asked for is checked before a model is opened.
    let (model, (rows, stage, predictions)) = match &args.task {
        Some(task) => {
            let mut questions = model::questions(task)?;
            questions.truncate(args.limit.unwrap_or(usize::MAX));
            ensure!(
                !questions.is_empty(),
                "--limit 0 leaves no question to answer"
            );
            let model = model::reading(&args.model, device, args.add_bos)?;
            let found = choices(&model, &subject(&args.model), task, &questions)?;
            (model, found)
        }
        None => {
            let examples = examples(args)?;
            let model = model::reading(&args.model, device, args.add_bos)?;
            let found = generated(&model, &subject(&args.model), args, &examples)?;
            (model, found)
        }
    };
    if let Some(out) = &args.out {
        lyceum::file::write(&out.join("predictions.jsonl"), predictions.as_bytes())?;
        report(args, &model, &rows, stage).write(out)?;
    }
    show(format, &rows, |rows| {
        let line = |r: &Row| {
            let (task, metric) = (&r.task, &r.metric);
            format!(
                "{task:<60} {metric:<8} {:>8.4} ± {:.4}  n {}\n",
                r.mean, r.stderr, r.n
            )
        };
        rows.iter().map(line).collect::<String>()
    })
}

fn subject(args: &ModelArgs) -> Subject {
    let text = |path: &Path| path.display().to_string();
    match &args.model {
        Some(dir) => Subject {
            method: "saved".into(),
            library: text(dir),
            ..Subject::default()
        },
        None => Subject {
            method: args.router.clone(),
            library: args.library.clone().unwrap_or_default(),
            mixing: match args.router.as_str() {
                "base" | "oracle" => String::new(),
                _ => args.mixing.to_string(),
            },
        },
    }
}

fn report(args: &EvalArgs, model: &Model, rows: &[Row], stage: Stage) -> Report {
    let spec = serde_json::json!({
        "router": args.model.router,
        "top_k": args.model.top_k.0,
        "temperature": args.model.temperature,
        "split": args.split,
        "limit": args.limit,
        "max_new": args.max_new,
        "add_bos": !model.base().tokenizer.start().is_empty(),
    });
    let mut provenance = Provenance::new(model.base(), 0, spec);
    provenance.mixing = subject(&args.model).mixing;
    let title = format!("Evaluation: {}", stage.name);
    let mut report = Report::new(title, provenance);
    report.rows = rows.to_vec();
    report.stages = vec![stage];
    report
}

fn json_lines<T: Serialize>(items: &[T]) -> Result<String> {
    let mut text = String::new();
    for item in items {
        text += &serde_json::to_string(item)?;
        text.push('\n');
    }
    Ok(text)
}

fn examples(args: &EvalArgs) -> Result<Vec<Example>> {
    if args.metric != "rouge-l" {
        bail!("metric `{}` is not known; there is rouge-l", args.metric);
    }
    let data: Dataset = model::data(args.data.data.as_deref())?;
    let chosen: Vec<Name> = args
        .tasks
        .iter()
        .map(|t| Name::new(t))
        .collect::<Result<_, _>>()?;
    let split: Split = args.split.parse()?;
    let chosen = Some(chosen.as_slice()).filter(|tasks| !tasks.is_empty());
    let mut examples = data.select(chosen, split)?;
    examples.truncate(args.limit.unwrap_or(usize::MAX));
    Ok(examples)
}

fn generated(
    model: &Model,
    subject: &Subject,
    args: &EvalArgs,
    examples: &[Example],
) -> Result<Found> {
    let limits = Limits {
        max_new: args.max_new,
        max_input: args.data.max_input,
        ..Limits::default()
    };
    let begun = Instant::now();
    let mut watch = Counted(Bar::new("rouge-l", "rouge-l"), 0);
    let predictions = rouge_l(model, examples, &limits, &mut watch)?;
    let stage = Stage::ended(format!("rouge-l {}", subject.method), begun, watch.1, false);
    Ok((
        prediction_rows(subject, &predictions),
        stage,
        json_lines(&predictions)?,
    ))
}

fn choices(
    model: &Model,
    subject: &Subject,
    task: &Path,
    questions: &[lyceum::data::Question],
) -> Result<Found> {
    let name = task
        .file_stem()
        .map_or_else(String::new, |s| s.to_string_lossy().into());
    let begun = Instant::now();
    let mut watch = Counted(Bar::new(&name, "acc"), 0);
    let answers = choose(model, questions, 16, &mut watch)?;
    let stage = Stage::ended(format!("{name} {}", subject.method), begun, watch.1, false);
    Ok((
        answer_rows(subject, &name, &answers),
        stage,
        json_lines(&answers)?,
    ))
}
