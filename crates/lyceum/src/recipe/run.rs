//! Running a recipe from end to end.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::check::LIBRARIES;
use super::kept::{Inputs, kept};
use super::observer::{Counted, StageObserver};
use super::{Method, Recipe, downstream_name};
use crate::backbone::Base;
use crate::data::{Dataset, Example, Question, Split};
use crate::error::{Error, Result};
use crate::eval::{ACCURACIES, Answers, Predictions, rouge_l};
use crate::eval::{Answer, Prediction, RoutingProbe};
use crate::eval::{losses_cut, mean_losses, multiple_choice, questions_cut};
use crate::library::{Library, Members};
use crate::metrics::{Curve, Cut, RunKey, Similarity};
use crate::mix::Mixing;
use crate::model::Model;
use crate::name::Name;
use crate::progress::Progress;
use crate::report::{Provenance, Report, Source, Stage};
use crate::route::Role;
use crate::store::Session;
use crate::train::{TaskGroup, Trainer};
use crate::transform::{self, Derive, TRANSFORMS, cluster, cluster_tasks, write_clusters};

/// The library of one expert per task; downstream, methods are compared over it alone, as the
/// tutorial does.
const PRIVATE: &str = "private";

struct Run<'a> {
    recipe: &'a Recipe,
    base: Arc<Base>,
    data: Dataset,
    test: Arc<[Example]>,
    questions: Arc<[Question]>,
    inputs: Inputs,
    out: &'a Path,
    observer: &'a mut dyn StageObserver,
    session: Session,
    report: Report,
}

/// The base and the data that a recipe runs over.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunInputs {
    /// The base.
    pub base: Arc<Base>,
    /// The examples that experts are trained and evaluated on.
    pub data: Dataset,
    /// The downstream questions; none by default.
    pub questions: Vec<Question>,
    /// Cache, credentials and network for its libraries and checkpoints; by default that of the
    /// environment.
    pub session: Session,
}

impl RunInputs {
    /// Inputs without downstream questions.
    pub fn new(base: Arc<Base>, data: Dataset) -> Self {
        RunInputs {
            base,
            data,
            questions: Vec::new(),
            session: Session::from_env(),
        }
    }

    /// Sets the downstream questions.
    #[must_use]
    pub fn questions(mut self, questions: Vec<Question>) -> Self {
        self.questions = questions;
        self
    }

    /// Sets the session of libraries and checkpoints.
    #[must_use]
    pub fn session(mut self, session: Session) -> Self {
        self.session = session;
        self
    }
}

/// Runs `recipe` over `inputs` into the folder `out`. Writes the report there and returns it. The
/// recipe is checked against base and data before the first step.
///
/// # Errors
/// Whatever a stage runs into; what was done before stays and is reused by the next run.
pub fn run(
    recipe: &Recipe,
    inputs: RunInputs,
    out: &Path,
    observer: &mut dyn StageObserver,
) -> Result<Report> {
    let RunInputs {
        base,
        data,
        questions,
        session,
    } = inputs;
    recipe.check()?;
    recipe.check_over(&base, &data)?;
    if recipe.downstream.is_some() && questions.is_empty() {
        return Err(Error::invalid("the downstream set has no questions"));
    }
    crate::file::probe(out)?;
    let tasks = recipe.tasks_of(&data);
    let test = data.select(&tasks, Split::Test)?;
    let mut run = Run {
        report: Report::new(recipe.title.clone(), provenance(recipe, &base)?),
        inputs: Inputs::new(recipe, &base, &test, &questions)?,
        recipe,
        base,
        data,
        test: test.into(),
        questions: questions.into(),
        out,
        observer,
        session,
    };
    run.sources()?;
    let private = run.library("private")?;
    let mbc = run.library("mbc")?;
    let each: Vec<TaskGroup> = tasks.iter().cloned().map(TaskGroup::of_task).collect();
    run.experts("private", &private, &each)?;
    let private = private.members(&Members::Named(tasks.clone()))?;
    let clusters = run.cluster(&private)?;
    run.experts("mbc", &mbc, &clusters)?;
    // Whatever an earlier run with other clusters left there is none of this one's.
    let mbc = mbc.members(&Members::Named(names_of(&clusters)))?;
    let libraries = [&private, &mbc];
    for (label, library) in LIBRARIES.into_iter().zip(libraries) {
        run.derive(label, library)?;
    }
    for (label, library) in LIBRARIES.into_iter().zip(libraries) {
        let fingerprint = library.fingerprint()?;
        { &mut run.report.provenance.libraries }.insert(label.into(), fingerprint);
        for method in &recipe.methods {
            // The base needs no library: once is enough.
            if !method.spec()?.is_base() || label == PRIVATE {
                run.method(method, label, library)?;
            }
        }
    }
    run.report.write(out)?;
    Ok(run.report)
}

impl Run<'_> {
    /// The library called `label`, made if there is none.
    fn library(&self, label: &str) -> Result<Library> {
        let uri = match &self.recipe.library {
            Some(uri) => format!("{}/{label}", uri.trim_end_matches('/')),
            None => self.out.join("libraries").join(label).display().to_string(),
        };
        Library::prepare_with(&uri, &self.session)
    }

    /// Writes down what is read and what there is no room for.
    fn sources(&mut self) -> Result<()> {
        let positions = self.base.decoder.config().max_position_embeddings;
        let source = |what: &str, place: &Path, fingerprint: String| Source {
            what: what.into(),
            place: place.display().to_string(),
            version: None,
            fingerprint,
        };
        let mut sources = vec![source("data", &self.recipe.data, self.data.fingerprint())];
        let longest = positions.min(self.recipe.train.max_input);
        let mut cuts = vec![losses_cut(&self.base.tokenizer, &self.test, longest)?];
        if let Some(path) = &self.recipe.downstream {
            let name = downstream_name(path);
            let fingerprint = Question::fingerprint(&self.questions);
            sources.push(source("questions", path, fingerprint));
            let tokenizer = &self.base.tokenizer;
            cuts.push(questions_cut(tokenizer, &name, &self.questions, positions)?);
        }
        self.report.provenance.sources = sources;
        cuts.into_iter().for_each(|cut| self.cut(cut));
        Ok(())
    }

    /// Notes what there was no room for, once.
    fn cut(&mut self, cut: Cut) {
        if self
            .report
            .provenance
            .cuts
            .iter()
            .any(|c| c.what == cut.what)
        {
            return;
        }
        for sentence in cut.sentences() {
            self.note(sentence);
        }
        self.report.provenance.cuts.push(cut);
    }

    /// Says something that the report is to say too.
    fn note(&mut self, text: String) {
        self.observer.message(&text);
        self.report.notes.push(text);
    }

    /// Runs `work` as a stage, its time, tokens and memory noted. `work` says whether it found
    /// its result already there.
    fn timed<T>(
        &mut self,
        name: String,
        unit: &'static str,
        work: impl FnOnce(&mut dyn Progress) -> Result<(T, bool)>,
    ) -> Result<T> {
        let begun = Instant::now();
        let mut progress = Counted {
            inner: self.observer.stage(&name, unit),
            tokens: 0,
        };
        let (value, resumed) = work(&mut progress)?;
        let tokens = progress.tokens;
        drop(progress);
        if resumed {
            self.observer
                .message(&format!("{name}: already there, reused"));
        }
        let stage = Stage::ended(name, begun, tokens, resumed);
        self.report.stages.push(stage);
        Ok(value)
    }

    fn experts(&mut self, label: &str, library: &Library, groups: &[TaskGroup]) -> Result<()> {
        let data = self.data.clone();
        // Its libraries are the recipe's own; what is replaced is said.
        let mut trainer = Trainer::new(&self.base)
            .lora(self.recipe.lora.clone())
            .config(self.recipe.train.clone())
            .replace(true)
            .mixed_bases(true);
        if let Some(dir) = self.session.checkpoints() {
            trainer = trainer.checkpoints(dir);
        }
        self.timed(format!("train {label} experts"), "loss", |progress| {
            let trained = trainer.groups(groups, &data, library, progress)?;
            Ok(((), trained.experts.is_empty()))
        })?;
        for TaskGroup { name, .. } in groups {
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

    fn cluster(&mut self, library: &Library) -> Result<Vec<TaskGroup>> {
        let how = self.recipe.mbc.clone();
        let found = self.timed("cluster (MBC)".into(), "", |_| {
            Ok((cluster(library, &how)?, false))
        })?;
        let clusters = found.clusters;
        write_clusters(&self.out.join("mbc_clusters.json"), library, &clusters)?;
        let strings = |names: &[Name]| names.iter().map(ToString::to_string).collect();
        self.report.similarity.push(Similarity {
            library: "private".into(),
            names: strings(&found.experts),
            cosines: found.cosines,
            clusters: clusters
                .iter()
                .map(|(k, v)| (k.to_string(), strings(v)))
                .collect(),
        });
        cluster_tasks(library, &clusters)
    }

    fn derive(&mut self, label: &str, library: &Library) -> Result<()> {
        let needed: Vec<_> = { self.recipe.methods.iter() }
            .map(|method| Ok(method.spec()?.about().artifact))
            .collect::<Result<_>>()?;
        let (base, data) = (self.base.clone(), self.data.clone());
        let mut config = self.recipe.phatgoose.clone();
        config.checkpoints = self.session.checkpoints();
        let training = transform::Training {
            base: &base,
            data: &data,
            config: &config,
        };
        for about in TRANSFORMS
            .iter()
            .filter(|about| needed.contains(&Some(about.kind)))
        {
            let stage = format!("derive {} ({label})", about.kind);
            match about.derive {
                Derive::Weights(derive) => {
                    self.timed(stage, "", |_| Ok(((), derive(library)?.is_empty())))?;
                }
                Derive::Training(derive) => self.timed(stage, "loss", |progress| {
                    Ok(((), derive(library, &training, progress)?.is_empty()))
                })?,
            }
        }
        Ok(())
    }

    fn method(&mut self, method: &Method, label: &str, library: &Library) -> Result<()> {
        let asked = method.spec()?;
        let subject = method.subject(match asked.is_base() {
            true => "",
            false => label,
        })?;
        let mut spec = asked;
        let n = library.names()?.len();
        spec.limit(n);
        if spec != asked {
            self.note(format!(
                "{}: all {n} experts, since the library holds no more.",
                subject.label()
            ));
        }
        let mixing = match spec.about().mixes() {
            true => method.mixing,
            false => Mixing::Outputs,
        };
        let model = Model::routed(self.base.clone(), library, &spec, mixing)?;
        let identity = json!([spec, mixing, spec.inputs(library)?]);
        self.predictions(&model, &subject, &identity)?;
        self.losses(&model, &subject, library)?;
        if method.downstream && label == PRIVATE {
            self.answers(&model, &subject, &identity)?;
        }
        Ok(())
    }

    /// The model's texts for the test rows, kept under a key made from `identity`, its full
    /// description.
    fn predictions(&mut self, model: &Model, subject: &RunKey, identity: &Value) -> Result<()> {
        let tag = subject.tag();
        let key = self.inputs.predictions(identity)?;
        let path = self.out.join("predictions").join(format!("{tag}.jsonl"));
        let (config, test) = (self.recipe.eval, self.test.clone());
        let predictions: Vec<Prediction> =
            self.timed(format!("rouge-l {tag}"), "rouge-l", |progress| {
                kept(&path, &key, || {
                    Ok(rouge_l(model, &test, &config, progress)?.into_rows())
                })
            })?;
        let predictions = Predictions::from(predictions);
        let positions = self.base.decoder.config().max_position_embeddings;
        self.cut(predictions.cut(&config, positions));
        self.report.rows.extend(predictions.figures(subject));
        let scores = predictions.scores(None).into_iter();
        self.report.scores(subject, "mean", "rouge-l", scores);
        Ok(())
    }

    /// The model's scores on the questions, kept likewise.
    fn answers(&mut self, model: &Model, subject: &RunKey, identity: &Value) -> Result<()> {
        let Some(task) = self.recipe.downstream.as_deref().map(downstream_name) else {
            return Ok(());
        };
        let tag = subject.tag();
        let key = self.inputs.answers(identity)?;
        let file = format!("{tag}-downstream.jsonl");
        let path = self.out.join("predictions").join(file);
        let questions = self.questions.clone();
        let answers: Vec<Answer> = self.timed(format!("downstream {tag}"), "acc", |progress| {
            kept(&path, &key, || {
                Ok(multiple_choice(model, &questions, 16, progress)?.into_rows())
            })
        })?;
        let answers = Answers::from(answers);
        self.report.rows.extend(answers.figures(subject, &task));
        for (metric, score) in ACCURACIES {
            let scores = answers.rows().iter().map(score);
            self.report.scores(subject, &task, metric, scores);
        }
        self.report.chance.insert(task, answers.chance());
        Ok(())
    }

    /// The loss on the test rows and, from the same pass, where the tokens went.
    fn losses(&mut self, model: &Model, subject: &RunKey, library: &Library) -> Result<()> {
        // In the order of the gates.
        let names = model.mixture().map_or(&[][..], |m| m.bank.names());
        let experts: Vec<TaskGroup> = { names.iter() }
            .map(|name| Ok(TaskGroup::new(name.clone(), library.card(name)?.tasks)))
            .collect::<Result<_>>()?;
        let probe = RoutingProbe::new(&experts);
        let longest = self.base.decoder.config().max_position_embeddings;
        let longest = longest.min(self.recipe.train.max_input);
        let test = self.test.clone();
        let means = self.timed(format!("loss {}", subject.tag()), "loss", |progress| {
            let means = mean_losses(model, &test, longest, Some(&probe), progress)?;
            Ok((means, false))
        })?;
        self.report
            .rows
            .push(subject.metric("mean", "loss", &means));
        // Only what decides by token has something to show.
        if crate::route::about(&subject.method)?.role == Role::PerToken {
            let name = format!("{} {}", subject.name, subject.mixing);
            let routing = probe.routing(name.trim_end(), &subject.library);
            self.report.routing.push(routing);
        }
        Ok(())
    }
}

fn names_of(groups: &[TaskGroup]) -> Vec<Name> {
    groups.iter().map(|group| group.name.clone()).collect()
}

fn provenance(recipe: &Recipe, base: &Base) -> Result<Provenance> {
    let mixings: std::collections::BTreeSet<&str> = { recipe.methods.iter() }
        .map(Method::mixing_label)
        .collect::<Result<_>>()?;
    let mixings: Vec<&str> = mixings.into_iter().filter(|m| !m.is_empty()).collect();
    let spec = serde_json::to_value(recipe).map_err(|e| Error::format("the recipe", e))?;
    let mut provenance = Provenance::new(base, recipe.seed, spec);
    provenance.mixing = mixings.join(", ");
    Ok(provenance)
}
