//! Training into a library: each expert is committed as it is finished, a run that is stopped goes
//! on where it was and ends as it would have, and nothing is replaced without being asked.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lyceum::backbone::{Base, Precision};
use lyceum::data::Dataset;
use lyceum::library::Library;
use lyceum::lora::LoraConfig;
use lyceum::progress::{NoProgress, Progress, Step};
use lyceum::store::Put;
use lyceum::train::{TaskGroup, TrainConfig, Trained, Trainer};
use lyceum::{Error, Name, Result};
use serde_json::json;

use crate::tiny;

/// A base, and tasks of very different lengths: 3, 9 and 21 rows, so 2, 6 and 14 steps.
struct Setting {
    dir: tempfile::TempDir,
    base: Arc<Base>,
    data: Dataset,
    lora: LoraConfig,
    config: TrainConfig,
}

const STEPS: usize = 14;

fn rows() -> String {
    let mut text = String::new();
    for (task, rows) in [("short", 3), ("middle", 9), ("long", 21)] {
        for i in 0..rows {
            let row = json!({
                "source": format!("{task}: what comes after {i}?"), "target": format!("{}", i + 1),
                "task_name": task, "split": "train",
            });
            text += &format!("{row}\n");
        }
    }
    text
}

impl Setting {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base");
        tiny::write_base(&path, 1);
        Setting {
            base: Arc::new(Base::open(&path, Precision::F32).unwrap()),
            data: Dataset::from_jsonl(rows().as_bytes(), "rows").unwrap(),
            lora: LoraConfig::default().rank(2),
            config: TrainConfig::default().batch(3).epochs(2),
            dir,
        }
    }

    fn library(&self, name: &str) -> Library {
        Library::prepare(self.dir.path().join(name).to_str().unwrap()).unwrap()
    }

    fn kept(&self) -> PathBuf {
        self.dir.path().join("training")
    }

    fn trainer(&self) -> Trainer {
        Trainer::new(&self.base)
            .lora(self.lora.clone())
            .config(self.config.clone())
    }

    fn run(&self, library: &Library, progress: &mut dyn Progress) -> Result<Trained> {
        self.run_with(&self.trainer().checkpoints(self.kept()), library, progress)
    }

    fn run_with(
        &self,
        trainer: &Trainer,
        library: &Library,
        progress: &mut dyn Progress,
    ) -> Result<Trained> {
        trainer.groups(&all(), &self.data, library, progress)
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn groups(tasks: &[&str]) -> Vec<TaskGroup> {
    let group = |task: &&str| TaskGroup::of_task(name(task));
    tasks.iter().map(group).collect()
}

fn all() -> Vec<TaskGroup> {
    groups(&["short", "middle", "long"])
}

fn held(library: &Library) -> Vec<String> {
    let names = Library::open(&library.uri()).and_then(|library| library.names());
    let names = names.unwrap_or_default().into_iter();
    names.map(String::from).collect()
}

/// Every card of a library: names, weights' hashes, losses.
fn cards(library: &Library) -> Vec<lyceum::expert::Card> {
    library.refresh().unwrap();
    library.cards().unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for folder in std::fs::read_dir(dir).into_iter().flatten() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            all.push(file.unwrap().path());
        }
    }
    all
}

/// Asks for a stop after step `at`, notes what was said, and looks at the library at every step.
struct Stop<'a> {
    at: usize,
    said: Vec<String>,
    steps: Vec<usize>,
    library: Option<&'a Library>,
    seen: Vec<Vec<String>>,
}

impl<'a> Stop<'a> {
    fn after(at: usize) -> Self {
        Stop {
            at,
            said: Vec::new(),
            steps: Vec::new(),
            library: None,
            seen: Vec::new(),
        }
    }
}

impl Progress for Stop<'_> {
    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        assert_eq!(step.total, STEPS);
        self.steps.push(step.done);
        if let Some(library) = self.library {
            self.seen.push(held(library));
        }
        match step.done >= self.at {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn message(&mut self, text: &str) {
        self.said.push(text.to_owned());
    }
}

fn stopped(result: Result<Trained>) -> String {
    match result {
        Err(Error::Stopped(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_expert_is_committed_as_soon_as_it_is_finished() {
    let setting = Setting::new();
    let library = setting.library("library");
    let mut watch = Stop {
        library: Some(&library),
        ..Stop::after(usize::MAX)
    };
    let trained = setting.run(&library, &mut watch).unwrap();
    // What is there when a step ends: those finished before it.
    assert!(watch.seen[..2].iter().all(Vec::is_empty));
    assert!(watch.seen[2..6].iter().all(|held| *held == ["short"]));
    assert!(watch.seen[6..].iter().all(|held| held.len() == 2));
    let steps: Vec<usize> = trained.experts.iter().map(|e| e.losses.len()).collect();
    assert_eq!(steps, [2, 6, 14]);
    assert_eq!(
        (library.version(), trained.version, trained.before),
        (3, 3, 0)
    );
    assert!(files(&setting.kept()).is_empty());
    // Again: all are there.
    let trained = setting.run(&library, &mut NoProgress).unwrap();
    assert!(trained.experts.is_empty() && trained.already.len() == 3);
    assert_eq!(library.version(), 3);
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bits() {
    let setting = Setting::new();
    let whole = setting.library("whole");
    setting.run(&whole, &mut NoProgress).unwrap();
    let whole = cards(&whole);
    for at in [1, 2, 5, 6, 7, 13] {
        let library = setting.library(&format!("cut-{at}"));
        let text = stopped(setting.run(&library, &mut Stop::after(at)));
        assert!(
            text.contains(&format!("after step {at} of {STEPS}")),
            "{text}"
        );
        assert!(text.contains("training"), "{text}");
        let finished = [(2, "short"), (6, "middle")].map(|(steps, name)| (at >= steps, name));
        for (finished, name) in finished {
            assert_eq!(text.contains(name), finished, "{text}");
            assert_eq!(held(&library).contains(&name.to_owned()), finished);
        }
        assert_eq!(files(&setting.kept()).len(), 1, "{at}");
        // Stopped once more, three steps on.
        let mut second = Stop::after(at + 3);
        if at + 3 < STEPS {
            stopped(setting.run(&library, &mut second));
            assert_eq!(second.steps, (at + 1..=at + 3).collect::<Vec<_>>());
            assert_eq!(second.said.len(), 1, "{:?}", second.said);
        }
        let mut last = Stop::after(usize::MAX);
        setting.run(&library, &mut last).unwrap();
        assert!(
            last.said[0].contains("going on from step"),
            "{:?}",
            last.said
        );
        assert_eq!(cards(&library), whole, "stopped after {at}");
        assert!(files(&setting.kept()).is_empty());
    }
}

#[test]
fn a_stop_at_the_very_end_loses_nothing() {
    let setting = Setting::new();
    let library = setting.library("library");
    let text = stopped(setting.run(&library, &mut Stop::after(STEPS)));
    assert!(text.contains("every expert is finished"), "{text}");
    assert_eq!(held(&library).len(), 3);
    assert!(files(&setting.kept()).is_empty());
}

#[test]
fn the_checkpoint_is_of_this_training_alone() {
    let mut setting = Setting::new();
    let library = setting.library("library");
    stopped(setting.run(&library, &mut Stop::after(1)));
    // Other settings, other data, another library: from the first step.
    let first = |setting: &Setting, library: &Library| {
        let mut watch = Stop::after(usize::MAX);
        setting.run(library, &mut watch).unwrap();
        let from = watch.said.iter().find(|text| text.contains("going on"));
        assert_eq!(from, None);
        watch.steps[0]
    };
    assert_eq!(first(&setting, &setting.library("other")), 1);
    let config = setting.config.clone();
    setting.config.lr = 3e-3;
    assert_eq!(first(&setting, &setting.library("rate")), 1);
    setting.config = config;
    assert_eq!(files(&setting.kept()).len(), 1);
    // A damaged one is named and not used.
    let file = files(&setting.kept()).remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut watch = Stop::after(usize::MAX);
    setting.run(&library, &mut watch).unwrap();
    assert_eq!(watch.steps[0], 1);
    assert!(watch.said[0].contains("damaged"), "{:?}", watch.said);
    assert_eq!(cards(&library), cards(&setting.library("other")));
}

#[test]
fn without_a_place_for_checkpoints_training_goes_on_and_says_so() {
    let setting = Setting::new();
    let file = setting.dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let library = setting.library("library");
    let mut watch = Stop::after(3);
    let trainer = setting.trainer().checkpoints(file);
    let text = stopped(setting.run_with(&trainer, &library, &mut watch));
    assert!(text.contains("are not kept"), "{text}");
    assert!(watch.said[0].contains("no checkpoint"), "{:?}", watch.said);
    assert_eq!(held(&library), ["short"]);
}

#[test]
fn nothing_is_replaced_without_being_asked() {
    let mut setting = Setting::new();
    let library = setting.library("library");
    setting.run(&library, &mut NoProgress).unwrap();
    let before = cards(&library);
    setting.config.epochs = 1;
    let text = setting
        .run(&library, &mut NoProgress)
        .unwrap_err()
        .to_string();
    for part in ["`short`", "epochs 2 (now 1)", "2 more", "version 3 keeps"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(cards(&library), before);
    let trainer = setting.trainer().replace(true);
    let plan = trainer.plan(&all(), &setting.data, &library).unwrap();
    assert_eq!(plan.differing.len(), 3);
    // One epoch: a step, 3 and 7.
    struct Said(Vec<String>);
    impl Progress for Said {
        fn step(&mut self, _: &Step) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }
        fn message(&mut self, text: &str) {
            self.0.push(text.to_owned());
        }
    }
    let mut said = Said(Vec::new());
    let trained = plan.run(&mut said).unwrap();
    assert_eq!(trained.before, 3);
    assert!(trained.experts.iter().all(|e| e.replaced.is_some()));
    assert!(said.0[0].contains("version 3 keeps"), "{:?}", said.0);
    assert_eq!(library.at(3).unwrap().cards().unwrap(), before);
    // Data, base, tasks, a merge, an import: each is named.
    let differs = |setting: &Setting, groups: &[TaskGroup]| {
        let trainer = setting.trainer();
        let plan = trainer.plan(groups, &setting.data, &library).unwrap();
        let differing = plan.differing.iter().map(|d| d.said());
        differing.collect::<Vec<_>>().join("; ")
    };
    let short = groups(&["short"]);
    assert_eq!(differs(&setting, &short), "");
    let wider = [TaskGroup::new(
        name("short"),
        vec![name("short"), name("long")],
    )];
    assert_eq!(differs(&setting, &wider), "tasks short (now short, long)");
    setting.lora.alpha = 2.0;
    assert_eq!(differs(&setting, &short), "alpha 1.0 (now 2.0)");
    setting.lora.alpha = 1.0;
    let text = format!("{}{}", rows(), rows().lines().next().unwrap());
    setting.data = Dataset::from_jsonl(text.as_bytes(), "rows").unwrap();
    assert!(differs(&setting, &short).starts_with("data "));
    setting.data = Dataset::from_jsonl(rows().as_bytes(), "rows").unwrap();
    for (origin, says) in [
        (json!({ "merge": { "merge": "cat" } }), "a merge"),
        (json!({ "import": "peft" }), "is not known"),
    ] {
        let mut expert = library.expert(&short[0].name).unwrap();
        expert.card.origin = origin;
        library.add(&expert, Put::Replace).unwrap();
        assert!(differs(&setting, &short).contains(says));
    }
    let other = setting.dir.path().join("other");
    tiny::write_base(&other, 2);
    setting.base = Arc::new(Base::open(&other, Precision::F32).unwrap());
    let said = differs(&setting, &short);
    assert!(
        said.contains("base `base`") && said.contains("now `other`"),
        "{said}"
    );
}

#[test]
fn experts_of_two_bases_are_not_mixed_without_being_asked() {
    let mut setting = Setting::new();
    let library = setting.library("library");
    let train = |setting: &Setting, tasks: &[&str], mixed: bool, replace: bool| {
        let trainer = setting.trainer().mixed_bases(mixed).replace(replace);
        trainer.groups(&groups(tasks), &setting.data, &library, &mut NoProgress)
    };
    train(&setting, &["short", "middle"], false, false).unwrap();
    let other = setting.dir.path().join("other");
    tiny::write_base(&other, 2);
    setting.base = Arc::new(Base::open(&other, Precision::F32).unwrap());
    let text = train(&setting, &["long"], false, false)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("another base") && text.contains("`other`"),
        "{text}"
    );
    assert_eq!(held(&library).len(), 2);
    // Replacing some would mix as well; replacing all does not.
    let text = train(&setting, &["short"], false, true)
        .unwrap_err()
        .to_string();
    assert!(text.contains("`middle`"), "{text}");
    train(&setting, &["short", "middle"], false, true).unwrap();
    train(&setting, &["long"], false, false).unwrap();
    assert_eq!(
        lyceum::check::check(&library, None).unwrap().problems,
        [""; 0]
    );
    train(&Setting::new(), &["long"], true, true).unwrap();
    // They are of one architecture: odd, but of use where the base accepts both.
    let found = lyceum::check::check(&library, None).unwrap();
    let (problems, warnings) = (found.problems, found.warnings.join("\n"));
    assert_eq!(problems, [""; 0]);
    assert!(
        warnings.contains("different weights of one architecture"),
        "{warnings}"
    );
}

#[test]
fn what_is_asked_for_twice_is_refused() {
    let setting = Setting::new();
    let library = setting.library("library");
    let refuse = |groups: &[TaskGroup], says: &str| {
        let trainer = setting.trainer();
        let error = trainer.plan(groups, &setting.data, &library).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    };
    refuse(
        &groups(&["short", "long", "short"]),
        "`short` is asked for twice",
    );
    let short = name("short");
    refuse(
        &[TaskGroup::new(short.clone(), vec![short.clone(); 2])],
        "one of its tasks twice",
    );
    refuse(&[TaskGroup::new(short, Vec::new())], "no task");
    refuse(&[], "no expert to train");
    refuse(&groups(&["nothing"]), "`nothing` not found");
    // None of this made a library.
    assert!(!setting.dir.path().join("library").exists());
}

#[test]
fn a_loss_that_rises_is_named() {
    let mut setting = Setting::new();
    // It has something to lose.
    setting.base = Arc::new(crate::shipped::base(Precision::F32));
    let rises = |setting: &Setting, name: &str| {
        let mut watch = Stop::after(usize::MAX);
        let trained = setting.run(&setting.library(name), &mut watch).unwrap();
        let rose = trained
            .experts
            .iter()
            .filter(|e| e.rose().is_some())
            .count();
        let said = watch
            .said
            .iter()
            .filter(|text| text.contains("ended above"));
        assert_eq!(said.count(), rose);
        rose
    };
    assert_eq!(rises(&setting, "fine"), 0);
    setting.config.lr = 1000.0;
    assert!(rises(&setting, "diverged") > 0);
}

#[test]
fn two_runs_into_one_library_both_arrive() {
    let setting = Setting::new();
    let alone = setting.library("alone");
    setting.run(&alone, &mut NoProgress).unwrap();
    // The same training twice at once, and two of different experts.
    for (name, tasks) in [
        ("same", [&["short", "middle", "long"][..]; 2]),
        ("apart", [&["short", "long"][..], &["middle"][..]]),
    ] {
        let path = setting.dir.path().join(name).display().to_string();
        std::thread::scope(|scope| {
            let runs = tasks.map(|tasks| {
                let (setting, path) = (&setting, &path);
                scope.spawn(move || {
                    let library = Library::prepare(path).unwrap();
                    let trainer = setting.trainer().checkpoints(setting.kept());
                    let groups = groups(tasks);
                    { trainer.groups(&groups, &setting.data, &library, &mut NoProgress) }.unwrap();
                })
            });
            runs.into_iter().for_each(|run| run.join().unwrap());
        });
        let library = Library::open(&path).unwrap();
        assert_eq!(library.check().unwrap().problems, []);
        let both = cards(&library);
        for (card, alone) in both.iter().zip(cards(&alone)) {
            let steps = |card: &lyceum::expert::Card| card.losses.len();
            assert_eq!((&card.name, steps(card)), (&alone.name, steps(&alone)));
            if name == "same" {
                assert_eq!(card.weights, alone.weights);
            }
        }
        assert_eq!(both.len(), 3);
        assert!(files(&setting.kept()).is_empty());
    }
}

#[test]
fn an_expert_another_writer_made_meanwhile_is_told_and_the_others_are_kept() {
    let setting = Setting::new();
    let library = setting.library("library");
    let elsewhere = setting.library("elsewhere");
    let mut other = Setting::new();
    other.config.lr = 1e-4;
    other.run(&elsewhere, &mut NoProgress).unwrap();
    let theirs = elsewhere.expert(&name("middle")).unwrap();
    let uri = library.uri();
    // Adds `theirs` while the others train.
    let mut meddle = |step: &Step| {
        if step.done == 4 {
            let library = Library::open(&uri).unwrap();
            library.add(&theirs, Put::New).unwrap();
        }
        ControlFlow::Continue(())
    };
    let error = setting.run(&library, &mut meddle);
    let text = error.unwrap_err().chain();
    assert!(
        text.contains("`middle`") && text.contains("1 expert"),
        "{text}"
    );
    assert_eq!(held(&library), ["long", "middle", "short"]);
    let middle = |library: &Library| {
        library.refresh().unwrap();
        let card = library.card(&name("middle")).unwrap();
        card.weights
    };
    assert_eq!(middle(&library), theirs.fingerprint());
    // Its own one is not lost: asked to, it takes the place without a step more.
    assert_eq!(files(&setting.kept()).len(), 1);
    let trainer = setting.trainer().checkpoints(setting.kept()).replace(true);
    let plan = trainer.plan(&all(), &setting.data, &library).unwrap();
    assert_eq!(plan.missing().len(), 1);
    let mut watch = Stop::after(usize::MAX);
    plan.run(&mut watch).unwrap();
    assert!(watch.steps.is_empty());
    let alone = setting.library("alone");
    setting.run(&alone, &mut NoProgress).unwrap();
    assert_eq!(middle(&library), middle(&alone));
}

#[test]
fn a_break_keeps_every_finished_expert_and_says_so() {
    let setting = Setting::new();
    let library = setting.library("library");
    let mut seventh = |step: &Step| match step.done {
        7.. => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    // No checkpoint: what is finished does not depend on one.
    let text = stopped(setting.run_with(&setting.trainer(), &library, &mut seventh));
    for part in [
        "after step 7 of 14",
        "2 experts finished",
        "short, middle",
        "steps of 1 expert are not kept",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(held(&library), ["middle", "short"]);
    let whole = setting.library("whole");
    setting.run(&whole, &mut NoProgress).unwrap();
    let finished = |card: &lyceum::expert::Card| card.name.as_str() != "long";
    let whole: Vec<_> = cards(&whole).into_iter().filter(finished).collect();
    assert_eq!(cards(&library), whole);
}

#[test]
fn tasks_clusters_and_one_expert_are_groups() {
    let setting = Setting::new();
    let (trainer, data) = (setting.trainer(), &setting.data);
    let [each, some, joint, one] = ["each", "some", "joint", "one"].map(|n| setting.library(n));
    let trained = trainer.each_task(data, &each, &mut NoProgress).unwrap();
    assert_eq!(trained.names().cloned().collect::<Vec<_>>(), data.tasks());
    // In the order they are asked for.
    let asked = [name("middle"), name("short")];
    let trained = trainer.tasks(&asked, data, &some, &mut NoProgress).unwrap();
    assert_eq!(trained.names().cloned().collect::<Vec<_>>(), asked);
    assert_eq!(held(&some), ["middle", "short"]);

    let cluster = vec![name("long"), name("short")];
    let clusters = BTreeMap::from([
        (name("cluster_0"), cluster.clone()),
        (name("cluster_1"), vec![name("middle")]),
    ]);
    let trained = trainer
        .clusters(&clusters, data, &joint, &mut NoProgress)
        .unwrap();
    assert_eq!(held(&joint), ["cluster_0", "cluster_1"]);
    // 24 rows in batches of 3, twice.
    assert_eq!(trained.experts[0].losses.len(), 16);
    assert_eq!(joint.card(&name("cluster_0")).unwrap().tasks, cluster);

    let group = TaskGroup::new(name("cluster_0"), cluster);
    let trained = trainer.expert(&group, data, &one, &mut NoProgress).unwrap();
    assert_eq!(held(&one), ["cluster_0"]);
    let losses = &trained.experts[0].losses;
    assert_eq!(losses.len(), 16);
    let again = trainer.expert(&group, data, &one, &mut NoProgress);
    assert_eq!(again.unwrap().already, [group.name]);
}
