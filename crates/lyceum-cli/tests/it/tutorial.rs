//! The tutorial, its libraries kept anywhere.

use std::path::Path;
use std::process::Command;

use crate::command::read_json;
use crate::servers::hub::{Hub, TOKEN};
use crate::servers::s3::{S3, SECRET};
use crate::servers::{self, Vars};

/// `LYCEUM_BIN` may name a release build.
#[test]
#[ignore = "three whole runs of the tutorial"]
fn the_tutorial_reports_the_same_wherever_its_libraries_are() {
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let recipe = std::fs::read_to_string(root.join("recipes/tutorial.toml")).unwrap();
    let program = std::env::var("LYCEUM_BIN").unwrap_or(env!("CARGO_BIN_EXE_lyceum").into());
    let rows = |out: &str, vars: &Vars, library: Option<&str>| {
        let library = library.map_or(String::new(), |uri| format!("library = \"{uri}\"\n"));
        let path = dir.path().join(format!("{out}.toml"));
        std::fs::write(&path, recipe.replacen("seed", &format!("{library}seed"), 1)).unwrap();
        let out = dir.path().join(out);
        let output = Command::new(&program)
            .args([Path::new("run"), &path, Path::new("--out"), &out])
            .env("LYCEUM_CACHE", dir.path().join("cache"))
            .envs(vars.iter().map(|(name, value)| (*name, value)))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(!said.contains(TOKEN) && !said.contains(SECRET), "{said}");
        let report = std::fs::read_to_string(out.join("report.json")).unwrap();
        assert!(!report.contains(TOKEN) && !report.contains(SECRET));
        read_json(&out.join("report.json"))["rows"].clone()
    };
    let local = rows("local", &Vec::new(), None);
    assert!(local.as_array().unwrap().len() > 20);
    let (bucket, hub) = (S3::start(), Hub::start());
    let vars = servers::s3_vars(&bucket.server.url, SECRET);
    assert_eq!(rows("s3", &vars, Some("s3://lib/tutorial")), local);
    let vars = servers::hub_vars(&hub.server.url, TOKEN);
    assert_eq!(rows("hf", &vars, Some("hf://tester/tutorial")), local);
}
