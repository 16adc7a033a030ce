//! Training into a library: each expert is committed as it is finished, a run that is stopped goes
//! on where it was and ends as it would have, and nothing is replaced without being asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lyceum::backbone::{Base, Precision};
use lyceum::data::Dataset;
use lyceum::library::Library;
use lyceum::lora::LoraConfig;
use lyceum::store::Put;
use lyceum::train::{How, Plan, Silent, Trained, Training, Watch};
use lyceum::{Error, Name, Result};
use serde_json::json;

use crate::tiny;

/// A base, and tasks of very different lengths: 3, 9 and 21 rows, so 2, 6 and 14 steps.
struct Setting {
    dir: tempfile::TempDir,
    base: Arc<Base>,
    data: Dataset,
    lora: LoraConfig,
    how: How,
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
            lora: LoraConfig {
                rank: 2,
                ..LoraConfig::default()
            },
            how: How {
                batch: 3,
                epochs: 2,
                ..How::default()
            },
            dir,
        }
    }

    fn library(&self, name: &str) -> Library {
        Library::prepare(self.dir.path().join(name).to_str().unwrap()).unwrap()
    }

    fn kept(&self) -> PathBuf {
        self.dir.path().join("training")
    }

    fn training(&self) -> Training<'_> {
        Training {
            base: &self.base,
            data: &self.data,
            lora: &self.lora,
            how: &self.how,
        }
    }

    fn plan(&self, library: &Library) -> Result<Plan<'_>> {
        self.training()
            .plan(library, &groups(&["short", "middle", "long"]))
    }

    fn run(&self, library: &Library, watch: &mut dyn Watch) -> Result<Trained> {
        self.plan(library)?.run(Some(&self.kept()), watch)
    }
}

fn groups(tasks: &[&str]) -> Vec<(Name, Vec<Name>)> {
    let name = |task: &&str| Name::new(task).unwrap();
    let group = |task: &&str| (name(task), vec![name(task)]);
    tasks.iter().map(group).collect()
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
    now: bool,
    said: Vec<String>,
    steps: Vec<usize>,
    library: Option<&'a Library>,
    seen: Vec<Vec<String>>,
}

impl<'a> Stop<'a> {
    fn after(at: usize) -> Self {
        Stop {
            at,
            now: at == 0,
            said: Vec::new(),
            steps: Vec::new(),
            library: None,
            seen: Vec::new(),
        }
    }
}

impl Watch for Stop<'_> {
    fn step(&mut self, step: usize, steps: usize, _: f64, _: usize) {
        assert_eq!(steps, STEPS);
        self.steps.push(step);
        self.now |= step == self.at;
        if let Some(library) = self.library {
            self.seen.push(held(library));
        }
    }

    fn stopped(&self) -> bool {
        self.now
    }

    fn say(&mut self, text: &str) {
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
    let trained = setting.run(&library, &mut Silent).unwrap();
    assert!(trained.experts.is_empty() && trained.already.len() == 3);
    assert_eq!(library.version(), 3);
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bits() {
    let setting = Setting::new();
    let whole = setting.library("whole");
    setting.run(&whole, &mut Silent).unwrap();
    let whole = cards(&whole);
    for at in [0, 1, 2, 5, 6, 7, 13] {
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
            assert_eq!(second.said.len(), usize::from(at > 0), "{:?}", second.said);
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
    let how = setting.how.clone();
    setting.how.lr = 3e-3;
    assert_eq!(first(&setting, &setting.library("rate")), 1);
    setting.how = how;
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
    let plan = setting.plan(&library).unwrap();
    let text = stopped(plan.run(Some(&file), &mut watch));
    assert!(text.contains("are not kept"), "{text}");
    assert!(watch.said[0].contains("no checkpoint"), "{:?}", watch.said);
    assert_eq!(held(&library), ["short"]);
}

#[test]
fn nothing_is_replaced_without_being_asked() {
    let mut setting = Setting::new();
    let library = setting.library("library");
    setting.run(&library, &mut Silent).unwrap();
    let before = cards(&library);
    setting.how.epochs = 1;
    let text = setting.run(&library, &mut Silent).unwrap_err().to_string();
    for part in ["`short`", "epochs 2 (now 1)", "2 more", "version 3 keeps"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(cards(&library), before);
    let mut plan = setting.plan(&library).unwrap();
    assert_eq!(plan.differing.len(), 3);
    plan.replace = true;
    let mut watch = Stop::after(usize::MAX);
    // One epoch: a step, 3 and 7.
    struct Any<'a>(&'a mut Stop<'static>);
    impl Watch for Any<'_> {
        fn step(&mut self, _: usize, _: usize, _: f64, _: usize) {}
        fn say(&mut self, text: &str) {
            self.0.say(text);
        }
    }
    let trained = plan.run(None, &mut Any(&mut watch)).unwrap();
    assert_eq!(trained.before, 3);
    assert!(trained.experts.iter().all(|e| e.replaced.is_some()));
    assert!(
        watch.said[0].contains("version 3 keeps"),
        "{:?}",
        watch.said
    );
    assert_eq!(library.at(3).unwrap().cards().unwrap(), before);
    // Data, base, tasks, a merge, an import: each is named.
    let differs = |setting: &Setting, groups: &[(Name, Vec<Name>)]| {
        let plan = setting.training().plan(&library, groups).unwrap();
        let differing = plan.differing.iter().map(|d| d.said());
        differing.collect::<Vec<_>>().join("; ")
    };
    let short = groups(&["short"]);
    assert_eq!(differs(&setting, &short), "");
    let wider = vec![(
        short[0].0.clone(),
        vec![short[0].0.clone(), Name::new("long").unwrap()],
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
        let mut expert = library.expert(&short[0].0).unwrap();
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
        let mut plan = setting.training().plan(&library, &groups(tasks))?;
        (plan.mixed_bases, plan.replace) = (mixed, replace);
        plan.run(None, &mut Silent)
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
    let refuse = |groups: &[(Name, Vec<Name>)], says: &str| {
        let error = setting.training().plan(&library, groups).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    };
    refuse(
        &groups(&["short", "long", "short"]),
        "`short` is asked for twice",
    );
    let name = Name::new("short").unwrap();
    refuse(
        &[(name.clone(), vec![name.clone(), name.clone()])],
        "one of its tasks twice",
    );
    refuse(&[(name, Vec::new())], "no task");
    refuse(&[], "no expert to train");
    refuse(&groups(&["nothing"]), "`nothing` not found");
    // None of this made a library.
    assert!(!setting.dir.path().join("library").exists());
}

#[test]
fn a_loss_that_rises_is_named() {
    let mut setting = Setting::new();
    // It has something to lose.
    setting.base = Arc::new(lyceum::assets::base(Precision::F32).unwrap());
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
    setting.how.lr = 1000.0;
    assert!(rises(&setting, "diverged") > 0);
}

#[test]
fn two_runs_into_one_library_both_arrive() {
    let setting = Setting::new();
    let alone = setting.library("alone");
    setting.run(&alone, &mut Silent).unwrap();
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
                    let plan = setting.training().plan(&library, &groups(tasks)).unwrap();
                    plan.run(Some(&setting.kept()), &mut Silent).unwrap();
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
    other.how.lr = 1e-4;
    other.run(&elsewhere, &mut Silent).unwrap();
    let theirs = elsewhere.expert(&Name::new("middle").unwrap()).unwrap();
    /// Adds `theirs` while the others train.
    struct Meddle<'a>(&'a str, &'a lyceum::expert::Expert);
    impl Watch for Meddle<'_> {
        fn step(&mut self, step: usize, _: usize, _: f64, _: usize) {
            if step == 4 {
                let library = Library::open(self.0).unwrap();
                library.add(self.1, Put::New).unwrap();
            }
        }
    }
    let uri = library.uri();
    let error = setting.run(&library, &mut Meddle(&uri, &theirs));
    let text = error.unwrap_err().chain();
    assert!(
        text.contains("`middle`") && text.contains("1 expert"),
        "{text}"
    );
    assert_eq!(held(&library), ["long", "middle", "short"]);
    let middle = |library: &Library| {
        library.refresh().unwrap();
        let card = library.card(&Name::new("middle").unwrap()).unwrap();
        card.weights
    };
    assert_eq!(middle(&library), theirs.fingerprint());
    // Its own one is not lost: asked to, it takes the place without a step more.
    assert_eq!(files(&setting.kept()).len(), 1);
    let mut plan = setting.plan(&library).unwrap();
    assert_eq!(plan.missing().len(), 1);
    plan.replace = true;
    let mut watch = Stop::after(usize::MAX);
    plan.run(Some(&setting.kept()), &mut watch).unwrap();
    assert!(watch.steps.is_empty());
    let alone = setting.library("alone");
    setting.run(&alone, &mut Silent).unwrap();
    assert_eq!(middle(&library), middle(&alone));
}
