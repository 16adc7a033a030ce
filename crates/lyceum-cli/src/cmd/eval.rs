//! Evaluating a model on generated text or multiple choice.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};
use lyceum::Name;
use lyceum::data::{Dataset, Example, Question, Split};
use lyceum::eval;
use lyceum::generate::GenerationConfig;
use lyceum::metrics::{Cut, Metric, RunKey};
use lyceum::model::Model;
use lyceum::progress::{Progress, Step};
use lyceum::recipe::{downstream_name, is_arc_easy};
use lyceum::report::paired::Scores;
use lyceum::report::{Provenance, Report, Source, Stage};
use lyceum::store::Session;
use serde::Serialize;
use serde_json::{Value, json};

use super::routed::{self, Chosen, Opened};
use super::{Settings, library, model};
use crate::args::EvalArgs;
use crate::out::{Bar, Format, say, show};
use crate::table::{Column, Table};

/// Prefix of the titles of this command's reports.
const TITLE: &str = "Evaluation: ";

/// Counts the tokens a bar is shown.
struct Counted(Bar, u64);

impl Progress for Counted {
    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        self.1 += step.tokens as u64;
        self.0.step(step)
    }
}

/// The inputs of an evaluation.
enum Task {
    /// Rows whose prompts are continued.
    Rows(Vec<Example>, GenerationConfig),
    /// Multiple choice, under a name.
    Questions(Vec<Question>, String),
}

/// The results of an evaluation.
struct Found {
    rows: Vec<Metric>,
    stage: Stage,
    cut: Cut,
    scores: Vec<Scores>,
    /// The accuracy of a blind choice, by task.
    chance: BTreeMap<String, f64>,
    /// Every example's own result as JSON lines.
    predictions: String,
}

pub(crate) fn eval(args: &EvalArgs, settings: &Settings) -> Result<()> {
    let format = settings.format;
    // What was asked for is checked, and what is to be written tried, before a model is opened.
    let chosen = routed::chosen(&args.model, &settings.session)?;
    if let (true, Some(questions)) = (chosen.is_oracle(), &args.eval_task) {
        let questions = questions.display();
        bail!(
            "the oracle cannot be used with --eval-task {questions}: it goes by the task of each \
             row, and questions have none"
        );
    }
    if let Some(out) = &args.out {
        prepare(out)?;
    }
    let (task, source) = task(args, &settings.session)?;
    let opened = chosen.open(settings, args.add_bos)?;
    let subject = chosen.subject();
    let found = task.evaluate(&opened.model, &subject)?;
    found.cut.sentences().iter().for_each(|text| say(text));
    let shown = show(format, &found.rows, |rows| table(rows));
    if let Some(out) = &args.out {
        write(args, (&chosen, &opened), (&found, source), out)?;
        if format == Format::Text {
            say(&format!("wrote {}", out.join("report.html").display()));
        }
    }
    shown
}

/// The table of metrics.
fn table(rows: &[Metric]) -> String {
    let line = |r: &Metric| {
        let task = match r.task.as_str() {
            "mean" => "mean over examples".into(),
            task => task.to_owned(),
        };
        // Accuracies are shares of 1, other metrics percentages.
        let decimals = if r.metric.starts_with("acc") { 4 } else { 2 };
        let mean = format!("{:.decimals$}", r.mean);
        let stderr = format!("± {:.decimals$}", r.stderr);
        [task, r.metric.clone(), mean, stderr, r.n.to_string()]
    };
    let columns = [
        Column::text("task"),
        Column::word("metric"),
        Column::number("value"),
        Column::number("stderr"),
        Column::number("n"),
    ];
    Table::new(columns, rows.iter().map(line)).to_text()
}

/// Checks that `out` can be written, and holds no report but an earlier evaluation's.
fn prepare(out: &Path) -> Result<()> {
    lyceum::file::probe(out).with_context(|| format!("--out {}", out.display()))?;
    let path = out.join("report.json");
    if !path.exists() {
        return Ok(());
    }
    let title = Report::read(&path).map(|report| report.title);
    if title.is_ok_and(|title| title.starts_with(TITLE)) {
        return Ok(());
    }
    bail!(
        "{} is no report of an evaluation and is not replaced; choose another folder for --out",
        path.display()
    )
}

/// The rows or questions to evaluate, with their source.
fn task(args: &EvalArgs, session: &Session) -> Result<(Task, Source)> {
    let limit = args.limit.unwrap_or(usize::MAX);
    let embedded = || PathBuf::from("embedded");
    let source = |what: &str, place: PathBuf, fingerprint: String| Source {
        what: what.into(),
        place: place.display().to_string(),
        version: None,
        fingerprint,
    };
    if let Some(path) = &args.eval_task {
        let mut questions = questions(path)?;
        let fingerprint = Question::fingerprint(&questions);
        questions.truncate(limit);
        let place = match is_arc_easy(path) {
            true => embedded(),
            false => path.clone(),
        };
        let name = downstream_name(path);
        return Ok((
            Task::Questions(questions, name),
            source("questions", place, fingerprint),
        ));
    }
    let (rows, data) = examples(args, session)?;
    let place = args.data.data.clone().unwrap_or_else(embedded);
    let config = GenerationConfig::default()
        .max_new_tokens(args.max_new)
        .max_input_tokens(args.data.max_input);
    let mut taken = BTreeMap::<Name, usize>::new();
    let within = |row: &Example| {
        let taken = taken.entry(row.task.clone()).or_default();
        *taken += 1;
        *taken <= limit
    };
    let rows = rows.into_iter().filter(within).collect();
    Ok((
        Task::Rows(rows, config),
        source("data", place, data.fingerprint()),
    ))
}

/// The questions at `path`; one who meant something else is told what.
fn questions(path: &Path) -> Result<Vec<Question>> {
    if path.exists() || is_arc_easy(path) {
        return model::questions(path);
    }
    let name = path.display().to_string();
    // A build that embeds no tasks has none to be mistaken for questions.
    let tasks = lyceum::assets::tasks().map(|data| data.tasks());
    let tasks = tasks.unwrap_or_default();
    if tasks.iter().any(|task| task.as_str() == name) {
        bail!(
            "`{name}` is a task of the data and no file of questions; did you mean --tasks {name}?"
        );
    }
    let error = lyceum::Error::not_found("questions", &name, ["arc-easy"]);
    Err(error).context("--eval-task takes arc-easy, or a JSONL file of query, choices, gold")
}

fn examples(args: &EvalArgs, session: &Session) -> Result<(Vec<Example>, Dataset)> {
    if args.metric != "rouge-l" {
        bail!("metric `{}` is not known; there is rouge-l", args.metric);
    }
    let data = model::data(args.data.data.as_deref(), session)?;
    let split: Split = args.split.parse()?;
    let known = data.tasks();
    let stray = args.tasks.iter().find(|task| !known.contains(task));
    if let Some(task) = stray.filter(|task| is_arc_easy(Path::new(task.as_str()))) {
        bail!("`{task}` is no task of the data; did you mean --eval-task arc-easy?");
    }
    let rows = match args.tasks.as_slice() {
        [] => data.split(split)?,
        tasks => data.select(tasks, split)?,
    };
    Ok((rows, data))
}

impl Task {
    fn evaluate(&self, model: &Model, subject: &RunKey) -> Result<Found> {
        let positions = model.base().decoder.config().max_position_embeddings;
        let begun = Instant::now();
        let ended = |what: &str, watch: Counted| {
            let name = format!("{what} {}", subject.name);
            Stage::ended(name, begun, watch.1, false)
        };
        match self {
            Task::Rows(rows, config) => {
                let mut watch = Counted(Bar::new("rouge-l", "rouge-l"), 0);
                let predictions = eval::rouge_l(model, rows, config, &mut watch)?;
                Ok(Found {
                    rows: predictions.figures(subject),
                    scores: vec![Scores::new(
                        subject,
                        "mean",
                        "rouge-l",
                        predictions.scores(None).into_iter(),
                    )],
                    chance: BTreeMap::new(),
                    stage: ended("rouge-l", watch),
                    cut: predictions.cut(config, positions),
                    predictions: json_lines(predictions.rows())?,
                })
            }
            Task::Questions(questions, name) => {
                let mut watch = Counted(Bar::new(name, "acc"), 0);
                let answers = eval::multiple_choice(model, questions, 16, &mut watch)?;
                let tokenizer = &model.base().tokenizer;
                Ok(Found {
                    rows: answers.figures(subject, name),
                    scores: { eval::ACCURACIES.iter() }
                        .map(|(metric, score)| {
                            Scores::new(subject, name, metric, answers.rows().iter().map(score))
                        })
                        .collect(),
                    chance: BTreeMap::from([(name.clone(), answers.chance())]),
                    stage: ended(name, watch),
                    cut: eval::questions_cut(tokenizer, name, questions, positions)?,
                    predictions: json_lines(answers.rows())?,
                })
            }
        }
    }
}

fn json_lines<T: Serialize>(items: &[T]) -> Result<String> {
    let mut text = String::new();
    for item in items {
        text += &serde_json::to_string(item)?;
        text.push('\n');
    }
    Ok(text)
}

/// Writes the report and every example's own result.
fn write(
    args: &EvalArgs,
    (chosen, opened): (&Chosen<'_>, &Opened),
    (found, source): (&Found, Source),
    out: &Path,
) -> Result<()> {
    let mut provenance = Provenance::new(opened.model.base(), 0, asked(args, chosen, opened)?);
    provenance.mixing = chosen.subject().mixing;
    provenance.cuts = vec![found.cut.clone()];
    if let Some(library) = &opened.library {
        let (place, fingerprint) = (chosen.subject().library, library.fingerprint()?);
        provenance
            .libraries
            .insert(place.clone(), fingerprint.clone());
        provenance.sources.push(Source {
            what: "library".into(),
            place,
            version: Some(library.version()),
            fingerprint,
        });
    }
    provenance.sources.push(source);
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    provenance.date = Some(library::date(time.as_secs()));
    provenance.command = Some(command());
    let mut report = Report::new(format!("{TITLE}{}", found.stage.name), provenance);
    report.notes = opened.model.notes().to_vec();
    report.notes.extend(found.cut.sentences());
    report.rows.clone_from(&found.rows);
    report.scores.clone_from(&found.scores);
    report.chance.clone_from(&found.chance);
    report.stages = vec![found.stage.clone()];
    lyceum::file::write(&out.join("predictions.jsonl"), found.predictions.as_bytes())?;
    Ok(report.write(out)?)
}

/// The evaluation's settings for the report, with the router's whole specification and its experts.
fn asked(args: &EvalArgs, chosen: &Chosen<'_>, opened: &Opened) -> Result<Value> {
    let subject = chosen.subject();
    let mut spec = chosen.spec.to_value();
    spec["mixing"] = json!(subject.mixing);
    spec["library"] = json!(subject.library);
    if let Some(library) = &opened.library {
        spec["experts"] = json!(library.names()?);
    }
    if let Some(dir) = &args.model.model {
        spec["model"] = json!(dir.display().to_string());
    }
    match &args.eval_task {
        Some(task) => spec["eval_task"] = json!(downstream_name(task)),
        None => {
            spec["metric"] = json!(args.metric);
            spec["split"] = json!(args.split);
            spec["tasks"] = json!(args.tasks);
            spec["max_input"] = json!(args.data.max_input);
            spec["max_new"] = json!(args.max_new);
        }
    }
    spec["limit"] = json!(args.limit);
    spec["add_bos"] = json!(!opened.model.base().tokenizer.start().is_empty());
    Ok(spec)
}

/// The command that is running, as it could be typed again.
fn command() -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_=./:,+@%".contains(c);
    let quoted = |word: String| match !word.is_empty() && word.chars().all(plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let words = std::env::args_os().skip(1);
    let words = words.map(|word| quoted(word.to_string_lossy().into_owned()));
    let words: Vec<String> = std::iter::once("lyceum".into()).chain(words).collect();
    words.join(" ")
}
