//! Modules stand on numbered floors, and imports only go down (docs/design.md).

use std::path::{Path, PathBuf};

/// Top-level modules by floor, lowest first. A folder counts as one module.
const FLOORS: &[&[&str]] = &[
    &[
        "device", "digest", "error", "feature", "metrics", "file", "name", "progress", "rng",
    ],
    &[
        "artifact", "expert", "library", "lora", "mttl", "peft", "store", "torch",
    ],
    &["data"],
    &["mix", "ops"],
    &["assets", "backbone", "generate", "model", "route"],
    &["train"],
    &["check", "eval", "merge", "report", "transform"],
    &["recipe"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The modules a line imports from this crate by `crate::`.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn imports_only_go_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for path in files {
        let below = path.strip_prefix(&root).unwrap();
        let first = below.components().next().unwrap().as_os_str();
        let module = first.to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "prelude"].contains(&module) {
            continue;
        }
        let here = floor(module).unwrap_or_else(|| panic!("module `{module}` has no floor"));
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
            for other in imports(line) {
                let upward = floor(other).is_some_and(|there| there > here);
                // Modules of the floor of what is done do not use each other.
                let aside = here == 6 && floor(other) == Some(6) && other != module;
                if upward || aside {
                    wrong.push(format!("{}: {}", below.display(), line.trim()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that go up:\n{}",
        wrong.join("\n")
    );
}

/// Doors word the library's hints (`lyceum::Hint`), so its own messages name no flag and no command
/// of Lyceum's.
#[test]
fn messages_name_no_flag() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let flag = |line: &str| {
        let mut after = line
            .split([' ', '`', '(', '"'])
            .filter_map(|word| word.strip_prefix("--"));
        after.any(|flag| flag.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let mut wrong = Vec::new();
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        // Styles have names that begin as flags do.
        if name == "html.rs" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // Other tools' commands are named with their own flags.
        let foreign = [
            "aws configure",
            "llama-gguf-split",
            "models--",
            "datasets--",
        ];
        let lines = text.lines().filter(|line| {
            let comment = line.trim_start().starts_with("//");
            !comment && !foreign.iter().any(|other| line.contains(other))
        });
        wrong.extend(
            lines
                .filter(|line| flag(line) || line.contains("`lyceum "))
                .map(|line| format!("{name}: {}", line.trim())),
        );
    }
    assert!(
        wrong.is_empty(),
        "messages that name flags:\n{}",
        wrong.join("\n")
    );
}
