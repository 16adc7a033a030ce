//! Training gates: a run that is stopped or killed goes on where it was, to the same bits.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lyceum::backbone::{Base, Precision};
use lyceum::data::Dataset;
use lyceum::library::Library;
use lyceum::progress::{NoProgress, Progress, Step};
use lyceum::train::{TrainConfig, Trainer};
use lyceum::transform::{Phatgoose, phatgoose};
use lyceum::{Error, Name, Result};

use crate::tiny;

const STEPS: usize = 6;

struct Setting {
    dir: tempfile::TempDir,
    base: Arc<Base>,
    data: Dataset,
    how: Phatgoose,
}

impl Setting {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base");
        tiny::write_base(&path, 1);
        Setting {
            base: Arc::new(Base::open(&path, Precision::F32).unwrap()),
            data: Dataset::from_jsonl(tiny::rows(3).as_bytes(), "rows").unwrap(),
            how: Phatgoose::default()
                .steps(STEPS)
                .batch(2)
                .checkpoints(dir.path().join("training")),
            dir,
        }
    }

    /// A library of three experts without gates.
    fn library(&self, name: &str) -> Library {
        let library = Library::prepare(self.dir.path().join(name).to_str().unwrap()).unwrap();
        let trainer = Trainer::new(&self.base).config(TrainConfig::default().steps(2));
        { trainer.each_task(&self.data, &library, &mut NoProgress) }.unwrap();
        library
    }

    fn derive(&self, library: &Library, progress: &mut dyn Progress) -> Result<Vec<Name>> {
        phatgoose(&self.base, library, &self.data, &self.how, progress)
    }

    fn checkpoints(&self) -> Vec<PathBuf> {
        let list = |dir: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(dir).into_iter().flatten();
            entries.map(|entry| entry.unwrap().path()).collect()
        };
        let folders = list(&self.dir.path().join("training"));
        folders.iter().flat_map(|folder| list(folder)).collect()
    }
}

/// Every gate of a library, bit by bit.
fn gates(library: &Library) -> Vec<(Name, String, Vec<u32>)> {
    library.refresh().unwrap();
    let kind = Name::new("phatgoose").unwrap();
    let mut all = Vec::new();
    for name in library.names().unwrap() {
        let artifact = library.artifact_of(&kind, &name).unwrap();
        for (site, vector) in artifact.map(|a| a.vectors).unwrap_or_default() {
            let values = vector.to_vec1::<f32>().unwrap();
            let bits = values.into_iter().map(f32::to_bits).collect();
            all.push((name.clone(), site.to_string(), bits));
        }
    }
    all
}

/// Breaks after step `at`; notes steps and messages.
struct Stop {
    at: usize,
    steps: Vec<usize>,
    said: Vec<String>,
}

impl Stop {
    fn after(at: usize) -> Self {
        Stop {
            at,
            steps: Vec::new(),
            said: Vec::new(),
        }
    }
}

impl Progress for Stop {
    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        assert_eq!(step.total, STEPS);
        self.steps.push(step.done);
        match step.done >= self.at {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn message(&mut self, text: &str) {
        self.said.push(text.to_owned());
    }
}

fn stopped(result: Result<Vec<Name>>) -> String {
    match result {
        Err(Error::Stopped(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn stopped_gates_go_on_to_the_same_bits() {
    let setting = Setting::new();
    let whole = setting.library("whole");
    setting.derive(&whole, &mut NoProgress).unwrap();
    let want = gates(&whole);
    assert!(!want.is_empty());
    for at in 1..STEPS {
        let library = setting.library(&format!("cut-{at}"));
        let text = stopped(setting.derive(&library, &mut Stop::after(at)));
        for part in [
            &format!("after step {at} of {STEPS}"),
            "gates of 3 experts are kept",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(gates(&library), [], "{at}");
        assert_eq!(setting.checkpoints().len(), 1);
        let mut rest = Stop::after(usize::MAX);
        assert_eq!(setting.derive(&library, &mut rest).unwrap().len(), 3);
        assert_eq!(rest.steps, (at + 1..=STEPS).collect::<Vec<_>>());
        assert!(rest.said[0].contains(&format!("from step {at}")));
        assert_eq!(gates(&library), want, "stopped after {at}");
        assert_eq!(setting.checkpoints(), [""; 0].map(PathBuf::from));
    }
}

#[test]
fn a_stop_after_the_last_step_keeps_the_gates() {
    let setting = Setting::new();
    let library = setting.library("library");
    let text = stopped(setting.derive(&library, &mut Stop::after(STEPS)));
    assert!(text.contains("all gates are finished"), "{text}");
    assert!(
        setting
            .derive(&library, &mut NoProgress)
            .unwrap()
            .is_empty()
    );
    assert!(setting.checkpoints().is_empty());
}

#[test]
fn other_settings_or_experts_begin_at_the_first_step() {
    let mut setting = Setting::new();
    let library = setting.library("library");
    stopped(setting.derive(&library, &mut Stop::after(2)));
    setting.how.lr = 2e-3;
    let mut other = Stop::after(usize::MAX);
    setting.derive(&library, &mut other).unwrap();
    assert_eq!(other.steps, (1..=STEPS).collect::<Vec<_>>());
    assert!(other.said.is_empty(), "{:?}", other.said);
    // The first run's steps are still there; an expert trained again makes them useless.
    assert_eq!(setting.checkpoints().len(), 1);
    setting.how.lr = Phatgoose::default().lr;
    let trainer = Trainer::new(&setting.base)
        .config(TrainConfig::default().steps(3))
        .replace(true);
    { trainer.each_task(&setting.data, &library, &mut NoProgress) }.unwrap();
    let mut again = Stop::after(usize::MAX);
    setting.derive(&library, &mut again).unwrap();
    assert_eq!(again.steps[0], 1);
}
