//! A recipe run again into a folder that holds another one's results gives what it gives in an
//! empty folder, whatever differs between the two.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lyceum::backbone::Base;
use lyceum::data::{Dataset, Question};
use lyceum::progress::{NoProgress, Progress};
use lyceum::recipe::{self, Recipe, RunInputs, StageObserver};
use lyceum::report::Report;
use serde_json::{Value, json};

use crate::tiny;

#[derive(Default)]
struct Said(Vec<String>);

impl StageObserver for Said {
    fn stage(&mut self, _: &str, _: &'static str) -> Box<dyn Progress + '_> {
        Box::new(NoProgress)
    }

    fn message(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
}

const QUESTIONS: [&str; 2] = [
    r#"{"query":"Question: what is wet?\nAnswer:","choices":["water","stone"],"gold":0}
{"query":"Question: what is hot?\nAnswer:","choices":["ice","fire","snow"],"gold":1}
"#,
    r#"{"query":"Question: what is high?\nAnswer:","choices":["a hill","the sea"],"gold":0}
{"query":"Question: what is deep?\nAnswer:","choices":["a hill","the sea"],"gold":1}
"#,
];

/// A folder with two bases, two sets of rows and two of questions.
pub(crate) fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    tiny::write_base(&dir.path().join("base"), 1);
    tiny::write_base(&dir.path().join("other"), 2);
    write("rows.jsonl", &tiny::rows(3));
    write("others.jsonl", &tiny::rows(3).replace("Numbers", "Digits"));
    write("questions.jsonl", QUESTIONS[0]);
    write("asked.jsonl", QUESTIONS[1]);
    dir
}

/// The recipe everything is changed in, with every field that can be left out.
pub(crate) fn whole(dir: &Path) -> Value {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    json!({
        "title": "A small run", "seed": 7, "base": path("base"), "data": path("rows.jsonl"),
        "tasks": ["task_0", "task_1", "task_2"], "precision": "f32",
        "lora": { "rank": 2, "alpha": 8.0, "rslora": false, "targets": ["q_proj", "v_proj"],
            "rank_pattern": { "q_proj": 3 }, "alpha_pattern": { "q_proj": 4.0 } },
        "train": { "lr": 0.05, "batch": 4, "epochs": 1, "steps": 3, "warmup": 0.0,
            "weight_decay": 0.0, "clip": 1.0, "max_input": 64, "seed": 1, "recompute": false },
        "mbc": { "k": 2, "sparsity": 0.2, "seed": 1 },
        "phatgoose": { "steps": 3, "lr": 0.01, "warmup": 0.0, "batch": 4, "max_input": 64,
            "seed": 1 },
        "eval": { "max_new": 3, "max_input": 64, "batch": 4 },
        "methods": [
            { "router": "base", "mixing": "outputs", "downstream": true },
            { "name": "mine", "router": "arrow", "top_k": 2, "temperature": 0.5,
                "mixing": "outputs", "downstream": false },
            { "router": "phatgoose", "top_k": 2, "mixing": "outputs", "downstream": true },
        ],
        "downstream": path("questions.jsonl"), "downstream_limit": 2,
    })
}

fn read(recipe: &Value, dir: &Path) -> lyceum::Result<Recipe> {
    let file = tempfile::Builder::new()
        .suffix(".toml")
        .tempfile_in(dir)
        .unwrap();
    std::fs::write(file.path(), toml::to_string(recipe).unwrap()).unwrap();
    Recipe::read(file.path())
}

pub(crate) fn run(recipe: &Value, dir: &Path, out: &Path) -> lyceum::Result<(Report, Vec<String>)> {
    let recipe = read(recipe, dir)?;
    let base = Arc::new(Base::open(&recipe.base, recipe.precision)?);
    let data = Dataset::open(&recipe.data)?;
    let mut questions = match &recipe.downstream {
        Some(path) => Question::open(path)?,
        None => Vec::new(),
    };
    questions.truncate(recipe.downstream_limit.unwrap_or(usize::MAX));
    let mut said = Said::default();
    let inputs = RunInputs::new(base, data).questions(questions);
    let report = recipe::run(&recipe, inputs, out, &mut said)?;
    Ok((report, said.0))
}

/// Everything that was measured, and every example's own result.
fn results(report: &Report, out: &Path) -> BTreeMap<String, String> {
    let figures = (&report.rows, &report.routing, &report.similarity);
    let figures = serde_json::to_string(&figures).unwrap();
    let mut all = BTreeMap::from([("figures".to_owned(), figures)]);
    for row in &report.rows {
        let tag = row.label().replace(" (", "-").replace(", ", "-");
        let tag = tag.replace(')', "").replace(' ', "-").replace('=', "");
        for name in [format!("{tag}.jsonl"), format!("{tag}-downstream.jsonl")] {
            let Ok(text) = std::fs::read_to_string(out.join("predictions").join(&name)) else {
                continue;
            };
            // The first line is the key.
            let rows = text.split_once('\n').unwrap().1.to_owned();
            all.insert(name, rows);
        }
    }
    assert!(all.len() > 2, "{:?}", all.keys());
    all
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// The paths of all values of a recipe: `lora.rank`, `methods.1.top_k`. Lists and maps of free keys
/// are one value each.
fn paths(value: &Value, at: &str, found: &mut Vec<String>) {
    let below = |key: &str| match at {
        "" => key.to_owned(),
        at => format!("{at}.{key}"),
    };
    match value {
        Value::Object(fields) if !at.ends_with("_pattern") => {
            for (key, value) in fields {
                paths(value, &below(key), found);
            }
        }
        Value::Array(all) if at == "methods" => {
            for (i, value) in all.iter().enumerate() {
                paths(value, &below(&i.to_string()), found);
            }
        }
        _ => found.push(at.to_owned()),
    }
}

fn put(recipe: &Value, path: &str, value: Value) -> Value {
    let mut recipe = recipe.clone();
    let pointer = format!("/{}", path.replace('.', "/"));
    match recipe.pointer_mut(&pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            recipe.pointer_mut(parent).unwrap()[key] = value;
        }
    }
    recipe
}

enum Effect {
    /// Other figures or other texts.
    New,
    /// None, and why.
    None(&'static str),
}
use Effect::New;

/// Another value for every field of [`whole`], and what it does.
fn changes(dir: &Path) -> Vec<(&'static str, Value, Effect)> {
    let path = |name: &str| json!(dir.join(name).to_str().unwrap());
    let seeded = || Effect::None("the recipe's seed replaces it");
    vec![
        (
            "title",
            json!("Another"),
            Effect::None("it is the report's heading"),
        ),
        ("seed", json!(8), New),
        ("base", path("other"), New),
        ("data", path("others.jsonl"), New),
        (
            "library",
            path("elsewhere"),
            Effect::None("it is where the experts are kept"),
        ),
        ("tasks", json!(["task_0", "task_1"]), New),
        ("precision", json!("int8"), New),
        ("lora.rank", json!(4), New),
        ("lora.alpha", json!(2.0), New),
        ("lora.rslora", json!(true), New),
        ("lora.targets", json!(["q_proj", "k_proj"]), New),
        ("lora.rank_pattern", json!({ "v_proj": 1 }), New),
        ("lora.alpha_pattern", json!({ "v_proj": 1.0 }), New),
        ("train.lr", json!(0.01), New),
        ("train.batch", json!(2), New),
        (
            "train.epochs",
            json!(2),
            Effect::None("the number of steps is given"),
        ),
        ("train.steps", json!(2), New),
        ("train.warmup", json!(1.0), New),
        ("train.weight_decay", json!(0.5), New),
        ("train.clip", json!(1e-6), New),
        ("train.max_input", json!(16), New),
        ("train.seed", json!(2), seeded()),
        (
            "train.recompute",
            json!(true),
            Effect::None("it computes the same bits"),
        ),
        ("mbc.k", json!(1), New),
        ("mbc.sparsity", json!(0.5), New),
        ("mbc.seed", json!(2), seeded()),
        ("phatgoose.steps", json!(2), New),
        ("phatgoose.lr", json!(1.0), New),
        ("phatgoose.warmup", json!(1.0), New),
        ("phatgoose.batch", json!(2), New),
        ("phatgoose.max_input", json!(16), New),
        ("phatgoose.seed", json!(2), seeded()),
        ("eval.max_new", json!(2), New),
        ("eval.max_input", json!(16), New),
        (
            "eval.batch",
            json!(1),
            Effect::None("texts do not depend on each other"),
        ),
        ("methods.0.router", json!("uniform"), New),
        (
            "methods.0.mixing",
            json!("factors"),
            Effect::None("the base mixes nothing"),
        ),
        ("methods.0.downstream", json!(false), New),
        ("methods.1.name", json!("another"), New),
        ("methods.1.router", json!("phatgoose"), New),
        ("methods.1.top_k", json!(1), New),
        ("methods.1.temperature", json!(4.0), New),
        ("methods.1.mixing", json!("factors"), New),
        ("methods.1.downstream", json!(true), New),
        ("methods.2.router", json!("arrow"), New),
        ("methods.2.top_k", json!(1), New),
        ("methods.2.mixing", json!("factors"), New),
        ("methods.2.downstream", json!(false), New),
        ("downstream", path("asked.jsonl"), New),
        ("downstream_limit", json!(1), New),
    ]
}

#[test]
fn every_field_that_differs_gives_what_an_empty_folder_gives() {
    let dir = place();
    let (recipe, first) = (whole(dir.path()), dir.path().join("first"));
    let (report, _) = run(&recipe, dir.path(), &first).unwrap();
    let before = results(&report, &first);

    // Every field there is has a line in the table.
    let mut said = serde_json::to_value(read(&recipe, dir.path()).unwrap()).unwrap();
    said["library"] = json!("");
    said["train"]["recompute"] = json!(false);
    let mut fields = Vec::new();
    paths(&said, "", &mut fields);
    let changes = changes(dir.path());
    let changed: Vec<&str> = changes.iter().map(|change| change.0).collect();
    // Of these two no method can have one.
    let without = [
        "methods.0.top_k",
        "methods.0.temperature",
        "methods.2.temperature",
    ];
    for field in &fields {
        let known = changed.contains(&field.as_str()) || without.contains(&field.as_str());
        assert!(known, "{field} is not tried");
    }

    // A run mostly waits for its files to be safe: several go on beside each other.
    let (changes, recipe, first, before) = (&changes, &recipe, &first, &before);
    std::thread::scope(|scope| {
        for some in 0..THREADS {
            let dir = dir.path();
            scope.spawn(move || {
                for (i, (path, value, effect)) in changes.iter().enumerate() {
                    if i % THREADS == some {
                        let other = put(recipe, path, value.clone());
                        let [used, fresh] = ["used", "fresh"].map(|n| dir.join(format!("{i}-{n}")));
                        copy(first, &used);
                        let want = result(path, &other, dir, &fresh);
                        same(path, &result(path, &other, dir, &used), &want);
                        effect.check(path, before, &want);
                        for out in [used, fresh] {
                            std::fs::remove_dir_all(out).unwrap();
                        }
                    }
                }
            });
        }
    });
}

const THREADS: usize = 4;

/// The results of a run of `recipe`, which differs in `path`, in the folder `out`.
fn result(path: &str, recipe: &Value, dir: &Path, out: &Path) -> BTreeMap<String, String> {
    let recipe = match path {
        "library" => put(recipe, path, json!(out.join("elsewhere").to_str().unwrap())),
        _ => recipe.clone(),
    };
    let run = run(&recipe, dir, out);
    let (report, _) = run.unwrap_or_else(|error| panic!("{path}: {}", error.chain()));
    results(&report, out)
}

fn same(path: &str, got: &BTreeMap<String, String>, want: &BTreeMap<String, String>) {
    for (name, want) in want {
        let got = got.get(name);
        assert_eq!(got, Some(want), "{path}: {name} is not that of this recipe");
    }
}

impl Effect {
    fn check(
        &self,
        path: &str,
        before: &BTreeMap<String, String>,
        after: &BTreeMap<String, String>,
    ) {
        match self {
            New => assert_ne!(after, before, "{path} changes nothing"),
            Effect::None(why) => {
                assert_eq!(after, before, "{path} changes results, although {why}");
            }
        }
    }
}

#[test]
fn files_that_change_in_place_are_read_again() {
    let dir = place();
    let recipe = whole(dir.path());
    let path = |name: &str| dir.path().join(name);
    let out = path("out");
    let answers = |report: &Report| -> Vec<String> {
        let rows = { report.rows.iter() }.filter(|row| row.task == "questions");
        rows.map(|row| format!("{row:?}")).collect()
    };
    let (first, _) = run(&recipe, dir.path(), &out).unwrap();
    let before = results(&first, &out);
    std::fs::write(path("questions.jsonl"), QUESTIONS[1]).unwrap();
    let (second, _) = run(&recipe, dir.path(), &out).unwrap();
    assert!(!answers(&first).is_empty());
    let (before_file, after) = (&before["base-downstream.jsonl"], results(&second, &out));
    assert_ne!(before_file, &after["base-downstream.jsonl"]);
    // What does not depend on the questions was kept.
    assert_eq!(before["base.jsonl"], after["base.jsonl"]);
    let reused = |report: &Report, stage: &str| {
        report
            .stages
            .iter()
            .find(|s| s.name == stage)
            .unwrap()
            .resumed
    };
    assert!(reused(&second, "rouge-l base") && !reused(&second, "downstream base"));
    let (third, _) = run(&recipe, dir.path(), &out).unwrap();
    assert!(reused(&third, "downstream base"));

    // The tokenizer is no part of the base's fingerprint.
    let tokenizer = std::fs::read_to_string(path("base/tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&tokenizer).unwrap();
    tokenizer["model"]["merges"]
        .as_array_mut()
        .unwrap()
        .truncate(1000);
    std::fs::write(path("base/tokenizer.json"), tokenizer.to_string()).unwrap();
    let (fourth, _) = run(&recipe, dir.path(), &out).unwrap();
    assert!(!reused(&fourth, "rouge-l base") && !reused(&fourth, "downstream base"));
}

#[test]
fn experts_that_are_not_of_the_recipe_change_none_of_its_results() {
    let dir = place();
    let recipe = whole(dir.path());
    let fewer = put(&recipe, "tasks", json!(["task_0", "task_1"]));
    let fresh = dir.path().join("fresh");
    let (want, _) = run(&fewer, dir.path(), &fresh).unwrap();
    let want = results(&want, &fresh);
    // The run's own library, and one that was named and may be somebody else's.
    let shared = dir.path().join("shared");
    let named = |recipe: &Value| put(recipe, "library", json!(shared.to_str().unwrap()));
    for (first, second, out) in [
        (recipe.clone(), fewer.clone(), "out"),
        (named(&recipe), named(&fewer), "named"),
    ] {
        let out = dir.path().join(out);
        run(&first, dir.path(), &out).unwrap();
        let (report, _) = run(&second, dir.path(), &out).unwrap();
        assert_eq!(results(&report, &out), want);
    }
    let private = lyceum::library::Library::open(shared.join("private").to_str().unwrap());
    let names = private.unwrap().names().unwrap();
    assert!(
        names.iter().any(|name| name.as_str() == "task_2"),
        "{names:?}"
    );
}

#[test]
fn methods_are_what_their_routers_settings_are() {
    let dir = place();
    let method = |k: usize, t: f64| json!({ "router": "arrow", "top_k": k, "temperature": t });
    let recipe = put(
        &whole(dir.path()),
        "methods",
        json!([
            { "router": "base", "downstream": true },
            method(1, 1.0), method(2, 1.0), method(3, 0.1),
            { "name": "even", "router": "uniform" },
        ]),
    );
    let out = dir.path().join("out");
    let (report, said) = run(&recipe, dir.path(), &out).unwrap();
    let means = { report.rows.iter() }.filter(|r| r.task == "mean" && r.metric == "rouge-l");
    let labels: Vec<String> = means.map(lyceum::metrics::Metric::label).collect();
    assert_eq!(
        labels,
        [
            "base",
            "arrow k=1 (private, outputs)",
            "arrow k=2 (private, outputs)",
            "arrow k=3 t=0.1 (private, outputs)",
            "even (private, outputs)",
            "arrow k=1 (mbc, outputs)",
            "arrow k=2 (mbc, outputs)",
            "arrow k=3 t=0.1 (mbc, outputs)",
            "even (mbc, outputs)",
        ]
    );
    let row = report
        .rows
        .iter()
        .find(|row| row.label() == labels[3])
        .unwrap();
    let spec = json!({ "router": "arrow", "top_k": 3, "temperature": 0.1 });
    assert_eq!((row.method.as_str(), &row.spec), ("arrow", &spec));
    for file in ["arrow-k1", "arrow-k2", "arrow-k3-t0.1", "even"] {
        let file = format!("predictions/{file}-private-outputs.jsonl");
        assert!(out.join(&file).exists(), "{file}");
    }
    // Of two clusters' experts no three can be chosen.
    assert!(
        said.iter()
            .any(|s| s.contains("arrow k=3 t=0.1 (mbc, outputs)")),
        "{said:?}"
    );
    let (again, _) = run(&recipe, dir.path(), &out).unwrap();
    let evaluated = |s: &&lyceum::report::Stage| s.name.starts_with("rouge-l");
    assert!(
        again
            .stages
            .iter()
            .filter(evaluated)
            .all(|stage| stage.resumed)
    );
    assert_eq!(again.rows, report.rows);
}

#[test]
fn recipes_that_cannot_end_well_do_not_begin() {
    let dir = place();
    let recipe = whole(dir.path());
    let arrow = |k: usize| json!({ "router": "arrow", "top_k": k, "temperature": 1.0 });
    let methods = |all: Value| put(&recipe, "methods", all);
    let twice = json!([{ "router": "base", "downstream": true }, arrow(2),
        { "name": "same", "router": "arrow", "top_k": 2 }]);
    let oracle = json!([{ "router": "base" }, { "router": "oracle", "downstream": true }]);
    let knob = json!([{ "router": "uniform", "top_k": 2, "downstream": true }]);
    let named = |a: &str, b: &str| {
        json!([{ "router": "base", "downstream": true }, { "name": a, "router": "uniform" },
            { "name": b, "router": "arrow" }])
    };
    let mut without = recipe.clone();
    without.as_object_mut().unwrap().remove("downstream");
    without.as_object_mut().unwrap().remove("downstream_limit");
    for (other, parts) in [
        (methods(twice), vec!["same", "arrow k=2"]),
        (methods(oracle), vec!["oracle", "downstream"]),
        (methods(knob), vec!["uniform", "top_k"]),
        (methods(named("even", "EVEN")), vec!["EVEN", "name"]),
        (methods(json!([arrow(2)])), vec!["downstream = true"]),
        (
            methods(json!([{ "router": "base", "downstream": true }, arrow(12)])),
            vec!["12", "3"],
        ),
        (without, vec!["base", "downstream"]),
        (
            put(&recipe, "tasks", json!(["task_0", "task_9"])),
            vec!["task_9", "did you mean"],
        ),
        (
            put(&recipe, "tasks", json!(["task_0", "task_0"])),
            vec!["task_0", "twice"],
        ),
        (put(&recipe, "mbc.k", json!(4)), vec!["mbc.k", "4", "3"]),
        (put(&recipe, "mbc.sparsity", json!(1.5)), vec!["sparsity"]),
        (
            put(&recipe, "lora.targets", json!(["q_proj", "query"])),
            vec!["query", "q_proj"],
        ),
        (
            put(&recipe, "lora.alpha_pattern", json!({ "k_proj": 1.0 })),
            vec!["k_proj"],
        ),
        (put(&recipe, "eval.max_input", json!(0)), vec!["max_input"]),
        (put(&recipe, "eval.max_new", json!(0)), vec!["max_new"]),
        (put(&recipe, "phatgoose.steps", json!(0)), vec!["phatgoose"]),
        (
            put(&recipe, "downstream_limit", json!(0)),
            vec!["downstream_limit"],
        ),
    ] {
        let out = dir.path().join("out");
        let error = run(&other, dir.path(), &out).unwrap_err().chain();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!out.join("libraries").exists(), "{error}");
    }
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = run(&recipe, dir.path(), &dir.path().join("file")).unwrap_err();
    assert!(error.chain().contains("file"), "{}", error.chain());
}

#[test]
fn what_there_is_no_room_for_is_counted() {
    let dir = place();
    let mut recipe = put(
        &whole(dir.path()),
        "eval",
        json!({ "max_new": 100, "max_input": 16 }),
    );
    recipe["train"]["max_input"] = json!(24);
    let (report, said) = run(&recipe, dir.path(), &dir.path().join("out")).unwrap();
    let cut = |what: &str| {
        report
            .provenance
            .cuts
            .iter()
            .find(|c| c.what == what)
            .unwrap()
    };
    let texts = cut("rouge-l");
    // The base has 128 positions, of which new tokens take half; every prompt is longer than 16.
    assert_eq!((texts.rows, texts.cut, texts.max_input), (6, 6, 16));
    assert_eq!((texts.max_new, texts.max_new_asked), (64, 100));
    let losses = cut("loss");
    assert!(losses.cut > 0 && losses.max_input == 24);
    assert_eq!(cut("questions").cut, 0);
    for part in ["6 of 6 inputs", "64 new tokens", "the 100 asked for"] {
        let found = |text: &String| text.contains(part);
        assert!(
            said.iter().any(found) && report.notes.iter().any(found),
            "{part}: {said:?}"
        );
    }
}
