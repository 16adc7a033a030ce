//! Evaluating a model on generated text or multiple choice.

use anyhow::{Result, bail};
use lyceum::Name;
use lyceum::data::Split;
use lyceum::eval::{Answer, Limits, choose, rouge_l};
use lyceum::report::mean_stderr;
use serde::Serialize;

use super::model;
use crate::args::EvalArgs;
use crate::out::{Bar, Format, show};

/// A line of the result.
#[derive(Serialize)]
struct Line {
    task: String,
    metric: &'static str,
    mean: f64,
    stderr: f64,
    n: usize,
}

impl Line {
    fn new(task: &str, metric: &'static str, values: &[f64]) -> Self {
        let (mean, stderr) = mean_stderr(values);
        Line {
            task: task.to_owned(),
            metric,
            mean,
            stderr,
            n: values.len(),
        }
    }
}

pub(crate) fn eval(args: &EvalArgs, format: Format) -> Result<()> {
    let (lines, predictions) = match &args.task {
        Some(task) => choices(args, task)?,
        None => generated(args)?,
    };
    if let Some(out) = &args.out {
        lyceum::file::write(&out.join("predictions.jsonl"), predictions.as_bytes())?;
        lyceum::file::write(
            &out.join("results.json"),
            &serde_json::to_vec_pretty(&lines)?,
        )?;
    }
    show(format, &lines, |lines| {
        let line = |l: &Line| {
            format!(
                "{:<60} {:<8} {:>8.4} ± {:.4}  n {}\n",
                l.task, l.metric, l.mean, l.stderr, l.n
            )
        };
        lines.iter().map(line).collect::<String>()
    })
}

fn json_lines<T: Serialize>(items: &[T]) -> Result<String> {
    let mut text = String::new();
    for item in items {
        text += &serde_json::to_string(item)?;
        text.push('\n');
    }
    Ok(text)
}

fn generated(args: &EvalArgs) -> Result<(Vec<Line>, String)> {
    if args.metric != "rouge-l" {
        bail!("metric `{}` is not known; there is rouge-l", args.metric);
    }
    let data = model::data(args.data.data.as_deref())?;
    let chosen: Vec<Name> = args
        .tasks
        .iter()
        .map(|t| Name::new(t))
        .collect::<Result<_, _>>()?;
    let split: Split = args.split.parse()?;
    let chosen = Some(chosen.as_slice()).filter(|tasks| !tasks.is_empty());
    let mut examples = data.select(chosen, split)?;
    examples.truncate(args.limit.unwrap_or(usize::MAX));
    let model = model::model(&args.model)?;
    let limits = Limits {
        max_new: args.max_new,
        max_input: args.data.max_input,
        ..Limits::default()
    };
    let mut bar = Bar::new("rouge-l", "rouge-l");
    let predictions = rouge_l(&model, &examples, &limits, &mut bar)?;
    let mut tasks: Vec<&Name> = predictions.iter().map(|p| &p.task).collect();
    tasks.sort();
    tasks.dedup();
    let mut lines = Vec::new();
    for task in tasks {
        let own = predictions.iter().filter(|p| p.task == *task);
        let values: Vec<f64> = own.map(|p| p.score).collect();
        lines.push(Line::new(task.as_str(), "rouge-l", &values));
    }
    let all: Vec<f64> = predictions.iter().map(|p| p.score).collect();
    lines.push(Line::new("mean", "rouge-l", &all));
    Ok((lines, json_lines(&predictions)?))
}

fn choices(args: &EvalArgs, task: &std::path::Path) -> Result<(Vec<Line>, String)> {
    let mut questions = model::questions(task)?;
    questions.truncate(args.limit.unwrap_or(usize::MAX));
    let model = model::model(&args.model)?;
    let mut bar = Bar::new("multiple choice", "acc");
    let answers = choose(&model, &questions, 16, &mut bar)?;
    let name = task
        .file_stem()
        .map_or_else(String::new, |s| s.to_string_lossy().into());
    let line = |metric, score: fn(&Answer) -> f64| {
        let values: Vec<f64> = answers.iter().map(score).collect();
        Line::new(&name, metric, &values)
    };
    let lines = vec![
        line("acc", Answer::acc),
        line("acc_norm", Answer::acc_norm),
        line("acc_tok", Answer::acc_tok),
    ];
    Ok((lines, json_lines(&answers)?))
}
