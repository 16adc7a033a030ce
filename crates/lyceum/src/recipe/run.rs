//! Running a recipe from end to end.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{Method, Recipe};
use crate::backbone::Base;
use crate::data::{Dataset, Example, Question, Split};
use crate::error::{Error, Result};
use crate::eval::{Answer, Prediction, RoutingProbe};
use crate::eval::{answer_rows, choose, mean_losses, prediction_rows, rouge_l};
use crate::figure::{Curve, Similarity, Subject};
use crate::library::{Library, Members};
use crate::mix::Mixing;
use crate::model::Model;
use crate::name::Name;
use crate::report::{Provenance, Report, Stage};
use crate::train::{Training, Watch, checkpoints_of_user};
use crate::transform::{arrow, cluster, cluster_tasks, phatgoose, write_clusters};

/// Shows a run's stages as they go.
pub trait Progress {
    /// A stage begins; the watch sees its steps. `unit` is what it shows: "loss", "rouge-l", ...
    fn stage(&mut self, name: &str, unit: &'static str) -> Box<dyn Watch + '_>;
    /// Something worth a line: what was reused, what was found.
    fn say(&mut self, text: &str);
}

/// The library of one expert per task; downstream, methods are compared over it alone, as the
/// tutorial does.
const PRIVATE: &str = "private";

struct Counted<'a> {
    inner: Box<dyn Watch + 'a>,
    tokens: u64,
}

impl Watch for Counted<'_> {
    fn step(&mut self, step: usize, steps: usize, loss: f64, tokens: usize) {
        self.tokens += tokens as u64;
        self.inner.step(step, steps, loss, tokens);
    }

    fn stopped(&self) -> bool {
        self.inner.stopped()
    }

    fn say(&mut self, text: &str) {
        self.inner.say(text);
    }
}

struct Run<'a> {
    recipe: &'a Recipe,
    base: Arc<Base>,
    data: Dataset,
    out: &'a Path,
    progress: &'a mut dyn Progress,
    report: Report,
}

/// Runs `recipe` into the folder `out`, over `base` and `data`; `questions` are the downstream
/// ones. Writes the report there and returns it.
///
/// # Errors
/// Whatever a stage runs into; what was done before stays and is reused by the next run.
pub fn run(
    recipe: &Recipe,
    (base, data, questions): (Arc<Base>, Dataset, Vec<Question>),
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Report> {
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    let report = Report::new(recipe.title.clone(), provenance(recipe, &base));
    let mut run = Run {
        recipe,
        base,
        data,
        out,
        progress,
        report,
    };
    let tasks = if recipe.tasks.is_empty() {
        run.data.tasks()
    } else {
        recipe.tasks.clone()
    };
    let test = run.data.select(Some(&tasks), Split::Test)?;
    let private = run.library("private")?;
    let each: Vec<(Name, Vec<Name>)> = tasks.iter().map(|t| (t.clone(), vec![t.clone()])).collect();
    run.experts("private", &private, &each)?;
    let private = private.members(&Members::Named(tasks.clone()))?;
    let clusters = run.cluster(&private)?;
    let mbc = run.library("mbc")?;
    run.experts("mbc", &mbc, &clusters)?;
    // Whatever an earlier run with other clusters left there is none of this one's.
    let mbc = mbc.members(&Members::Named(names_of(&clusters)))?;
    for (label, library) in [("private", &private), ("mbc", &mbc)] {
        run.derive(label, library)?;
    }
    for (label, library) in [("private", &private), ("mbc", &mbc)] {
        let fingerprint = library.fingerprint()?;
        run.report
            .provenance
            .libraries
            .insert(label.into(), fingerprint);
        for method in &recipe.methods {
            // The base needs no library: once is enough.
            if method.router != "base" || label == "private" {
                run.method(method, label, library, &test, &questions)?;
            }
        }
    }
    run.report.write(out)?;
    Ok(run.report)
}

impl Run<'_> {
    fn library(&self, label: &str) -> Result<Library> {
        match &self.recipe.library {
            Some(uri) => Library::prepare(&format!("{}/{label}", uri.trim_end_matches('/'))),
            None => Library::prepare(&self.out.join("libraries").join(label).display().to_string()),
        }
    }

    /// Runs `work` as a stage, its time, tokens and memory noted. `work` says whether it found
    /// its result already there.
    fn timed<T>(
        &mut self,
        name: String,
        unit: &'static str,
        work: impl FnOnce(&mut dyn Watch) -> Result<(T, bool)>,
    ) -> Result<T> {
        let begun = Instant::now();
        let mut watch = Counted {
            inner: self.progress.stage(&name, unit),
            tokens: 0,
        };
        let (value, resumed) = work(&mut watch)?;
        let tokens = watch.tokens;
        drop(watch);
        if resumed {
            self.progress.say(&format!("{name}: already there, reused"));
        }
        let stage = Stage::ended(name, begun, tokens, resumed);
        self.report.stages.push(stage);
        Ok(value)
    }

    fn experts(
        &mut self,
        label: &str,
        library: &Library,
        groups: &[(Name, Vec<Name>)],
    ) -> Result<()> {
        let (base, data, recipe) = (self.base.clone(), self.data.clone(), self.recipe);
        let training = Training {
            base: &base,
            data: &data,
            lora: &recipe.lora,
            how: &recipe.train,
        };
        self.timed(format!("train {label} experts"), "loss", |watch| {
            let mut plan = training.plan(library, groups)?;
            // Its libraries are the recipe's own; what is replaced is said.
            (plan.replace, plan.mixed_bases) = (true, true);
            let trained = plan.run(checkpoints_of_user().as_deref(), watch)?;
            Ok(((), trained.experts.is_empty()))
        })?;
        for (name, _) in groups {
            let losses = library.card(name)?.losses;
            let steps = (1..=losses.len() as u64).collect();
            self.report.curves.push(Curve {
                name: format!("{label}/{name}"),
                steps,
                losses,
            });
        }
        Ok(())
    }

    fn cluster(&mut self, library: &Library) -> Result<Vec<(Name, Vec<Name>)>> {
        let how = self.recipe.mbc.clone();
        let (clusters, names, cosines) = self.timed("cluster (MBC)".into(), "", |_| {
            Ok((cluster(library, &how)?, false))
        })?;
        write_clusters(&self.out.join("mbc_clusters.json"), library, &clusters)?;
        let strings = |names: &[Name]| names.iter().map(ToString::to_string).collect();
        self.report.similarity.push(Similarity {
            library: "private".into(),
            names: strings(&names),
            cosines,
            clusters: clusters
                .iter()
                .map(|(k, v)| (k.to_string(), strings(v)))
                .collect(),
        });
        cluster_tasks(library, &clusters)
    }

    fn derive(&mut self, label: &str, library: &Library) -> Result<()> {
        let needs = |kind: &str| self.recipe.methods.iter().any(|m| m.router == kind);
        let (needs_arrow, needs_gates) = (needs("arrow"), needs("phatgoose"));
        if needs_arrow {
            self.timed(format!("derive arrow ({label})"), "", |_| {
                Ok(((), arrow(library)?.is_empty()))
            })?;
        }
        if needs_gates {
            let (base, data, recipe) = (self.base.clone(), self.data.clone(), self.recipe);
            self.timed(format!("derive phatgoose ({label})"), "loss", |watch| {
                let derived = phatgoose(&base, library, &data, &recipe.phatgoose, watch)?;
                Ok(((), derived.is_empty()))
            })?;
        }
        Ok(())
    }

    fn method(
        &mut self,
        method: &Method,
        label: &str,
        library: &Library,
        test: &[Example],
        questions: &[Question],
    ) -> Result<()> {
        let mut spec = method.spec()?;
        spec.limit(library.names()?.len());
        let mut mixing = method.mixing;
        if method.mixing_label().is_empty() {
            mixing = Mixing::Outputs;
        }
        let model = Model::routed(self.base.clone(), library, &spec, mixing)?;
        let subject = Subject {
            method: method.router.clone(),
            library: if method.router == "base" { "" } else { label }.into(),
            mixing: method.mixing_label().into(),
        };
        let tag = subject.tag();
        let key = self.key(&(&spec, mixing, &self.recipe.eval, library.fingerprint()?))?;
        let limits = self.recipe.eval.clone();
        let file = |name: String| self.out.join("predictions").join(name);
        let path = file(format!("{tag}.jsonl"));
        let predictions: Vec<Prediction> =
            self.timed(format!("rouge-l {tag}"), "rouge-l", |watch| {
                kept(&path, &key, || rouge_l(&model, test, &limits, watch))
            })?;
        self.report
            .rows
            .extend(prediction_rows(&subject, &predictions));
        self.losses(&model, &subject, library, test)?;
        if method.downstream && label == PRIVATE && !questions.is_empty() {
            let path = file(format!("{tag}-downstream.jsonl"));
            let answers: Vec<Answer> = self.timed(format!("downstream {tag}"), "acc", |watch| {
                kept(&path, &key, || choose(&model, questions, 16, watch))
            })?;
            let task = self.recipe.downstream.as_ref().and_then(|p| p.file_stem());
            let task = task.map_or("downstream".into(), |s| s.to_string_lossy().into_owned());
            self.report
                .rows
                .extend(answer_rows(&subject, &task, &answers));
        }
        Ok(())
    }

    /// The loss on the test rows and, from the same pass, where the tokens went.
    fn losses(
        &mut self,
        model: &Model,
        subject: &Subject,
        library: &Library,
        test: &[Example],
    ) -> Result<()> {
        let experts: Vec<(Name, Vec<Name>)> = library
            .cards()?
            .into_iter()
            .map(|c| (c.name, c.tasks))
            .collect();
        let probe = RoutingProbe::new(&experts);
        let longest = self.base.decoder.config().max_position_embeddings;
        let longest = longest.min(self.recipe.train.max_input);
        let means = mean_losses(model, test, longest, Some(&probe))?;
        self.report.rows.push(subject.row("mean", "loss", &means));
        if matches!(subject.method.as_str(), "arrow" | "phatgoose") {
            let name = format!("{} {}", subject.method, subject.mixing);
            let routing = probe.routing(name.trim_end(), &subject.library);
            self.report.routing.push(routing);
        }
        Ok(())
    }

    /// What an evaluation's result depends on, hashed.
    fn key(&self, what: &impl Serialize) -> Result<String> {
        let all = (
            what,
            &self.base.fingerprint,
            self.data.fingerprint(),
            self.recipe.precision,
        );
        let all = (all, &self.recipe.tasks, &self.recipe.downstream_limit);
        let text = serde_json::to_string(&all).map_err(|e| Error::format("recipe", e))?;
        Ok(Sha256::digest(text)
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

fn names_of(groups: &[(Name, Vec<Name>)]) -> Vec<Name> {
    groups.iter().map(|(name, _)| name.clone()).collect()
}

/// The lines of `path` if its first one carries `key`, else what `work` makes, written there.
fn kept<T: Serialize + DeserializeOwned>(
    path: &Path,
    key: &str,
    work: impl FnOnce() -> Result<Vec<T>>,
) -> Result<(Vec<T>, bool)> {
    let head = serde_json::json!({ "key": key }).to_string();
    if let Ok(text) = std::fs::read_to_string(path)
        && let Some(rest) = text.strip_prefix(&head)
        && let Ok(values) = rest.lines().skip(1).map(serde_json::from_str).collect()
    {
        return Ok((values, true));
    }
    let values = work()?;
    let mut text = head + "\n";
    for value in &values {
        text += &serde_json::to_string(value).map_err(|e| Error::format(path.display(), e))?;
        text.push('\n');
    }
    crate::file::write(path, text.as_bytes())?;
    Ok((values, false))
}

fn provenance(recipe: &Recipe, base: &Base) -> Provenance {
    let mixings: std::collections::BTreeSet<&str> = recipe
        .methods
        .iter()
        .map(Method::mixing_label)
        .filter(|m| !m.is_empty())
        .collect();
    let spec = serde_json::to_value(recipe).unwrap_or_default();
    let mut provenance = Provenance::new(base, recipe.seed, spec);
    provenance.mixing = mixings.into_iter().collect::<Vec<_>>().join(", ");
    provenance
}
