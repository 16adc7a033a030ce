//! Running the `lyceum` command in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::tiny;

/// A folder with a tiny base (`base`), three tasks (`rows.jsonl`) and a recipe (`recipe.toml`).
pub(crate) struct Sandbox {
    dir: tempfile::TempDir,
}

const RECIPE: &str = r#"
title = "A small run"
seed = 7
base = "base"
data = "rows.jsonl"
downstream = "questions.jsonl"

[lora]
rank = 2
alpha = 1.0
targets = ["q_proj", "k_proj", "v_proj"]

[train]
batch = 4
epochs = 2

[mbc]
k = 2

[phatgoose]
steps = 3

[eval]
max_new = 4
batch = 4

[[methods]]
router = "base"
downstream = true

[[methods]]
router = "oracle"

[[methods]]
router = "uniform"
mixing = "factors"

[[methods]]
router = "arrow"
top_k = 2
downstream = true

[[methods]]
router = "phatgoose"
top_k = 2
"#;

const QUESTIONS: &str = r#"{"query":"Question: what is wet?\nAnswer:","choices":["water","stone"],"gold":0}
{"query":"Question: what is hot?\nAnswer:","choices":["ice","fire","snow"],"gold":1}
{"query":"Question: what is high?\nAnswer:","choices":["a hill","the sea"],"gold":0}
"#;

impl Sandbox {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        tiny::write_base(&dir.path().join("base"), 1);
        std::fs::write(dir.path().join("rows.jsonl"), tiny::rows(3)).unwrap();
        std::fs::write(dir.path().join("questions.jsonl"), QUESTIONS).unwrap();
        std::fs::write(dir.path().join("recipe.toml"), RECIPE).unwrap();
        Sandbox { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command with `line`'s words as arguments, ready to start.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
        command
            .args(line.split_whitespace())
            .current_dir(self.dir.path())
            .env("HOME", self.path("home"))
            .env_remove("XDG_CACHE_HOME");
        for name in ["CACHE", "BASE", "LIBRARY", "DATA", "THREADS", "LOG"] {
            command.env_remove(format!("LYCEUM_{name}"));
        }
        command
    }

    pub(crate) fn output(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// The standard output of a command that must succeed.
    pub(crate) fn ok(&self, line: &str) -> String {
        let output = self.output(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lyceum {line}\n{stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one line the command complains with; it must end with an exit code of a failure.
    pub(crate) fn complaint(&self, line: &str) -> String {
        let output = self.output(line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code().unwrap();
        assert!((2..=5).contains(&code), "lyceum {line}\n{stderr}");
        let last = stderr.split("error: ").last().unwrap().to_owned();
        assert!(!last.contains("panicked"), "{stderr}");
        last
    }

    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} --format json"))).unwrap()
    }
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
