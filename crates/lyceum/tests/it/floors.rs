//! Modules stand on numbered floors, and imports only go down (docs/design.md).

use std::collections::{BTreeMap, BTreeSet};
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

/// Modules of one floor may use each other, but not in a circle.
#[test]
fn no_modules_import_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in files {
        let below = path.strip_prefix(&root).unwrap();
        let first = below.components().next().unwrap().as_os_str();
        let module = first.to_str().unwrap().trim_end_matches(".rs");
        let text = std::fs::read_to_string(&path).unwrap();
        // What tests use is no part of the library.
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for line in code.lines().filter(|l| !l.trim_start().starts_with("//")) {
            let others = imports(line).filter(|other| *other != module && floor(other).is_some());
            let used = used.entry(module.to_owned()).or_default();
            used.extend(others.map(ToOwned::to_owned));
        }
    }
    used.retain(|module, _| module != "lib" && module != "prelude");
    // Modules that use nothing of the others are taken away until there are none but circles.
    while let Some(free) = { used.iter() }
        .find(|(_, others)| others.iter().all(|other| !used.contains_key(other)))
        .map(|(module, _)| module.clone())
    {
        used.remove(&free);
    }
    assert!(used.is_empty(), "modules import each other: {used:?}");
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

/// The paths in `text`, groups written out: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(text: &str, prefix: &str, found: &mut Vec<String>) {
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        let (path, after) = rest.split_at(end.unwrap_or(rest.len()));
        let path = format!("{prefix}{path}");
        rest = after;
        if !path.ends_with("::") || !rest.starts_with('{') {
            found.push(path);
            continue;
        }
        let mut open = 0;
        let close = rest.find(|c| {
            open += i32::from(c == '{') - i32::from(c == '}');
            open == 0
        });
        let close = close.unwrap_or(rest.len() - 1);
        paths(&rest[1..close], &path, found);
        rest = &rest[close..];
    }
}

/// The paths in a file, from the root of the crate, without its comments and tests. `module` is the
/// file's own.
fn absolute(file: &Path, module: &[String]) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    let lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    let mut found = Vec::new();
    paths(&lines.collect::<Vec<_>>().join("\n"), "", &mut found);
    let absolute = |path: &String| {
        let mut from = match path.split("::").next() {
            Some("super" | "self") => module.to_vec(),
            Some("crate") => Vec::new(),
            _ => return None,
        };
        for part in path.split("::") {
            match part {
                "crate" | "self" | "" => {}
                "super" => drop(from.pop()),
                name => from.push(name.into()),
            }
        }
        Some(from)
    };
    found.iter().filter_map(absolute).collect()
}

/// The modules that the modules of the folder `dir` import of each other; `here` is the folder's
/// own path. A name that the folder's module re-exports counts as the module it is from.
fn graph(dir: &Path, here: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let own = files.entry(name(&path)).or_default();
        match path.is_dir() {
            true => sources(&path, own),
            false => own.push(path),
        }
    }
    files.retain(|module, _| !["mod", "tests"].contains(&module.as_str()));
    let mut exports = Vec::new();
    let text = std::fs::read_to_string(dir.join("mod.rs")).unwrap();
    paths(&text, "", &mut exports);
    let owner = |of: &String| {
        let exported = |path: &&String| path.rsplit("::").next() == Some(of);
        let from = exports.iter().filter(|path| path.contains("::"));
        let from = from.clone().find(exported)?.split("::").next()?;
        Some(from.to_owned())
    };
    let mut graph = BTreeMap::new();
    for (module, own) in &files {
        let mut imports = BTreeSet::new();
        for file in own {
            let below = file.strip_prefix(dir).unwrap().with_extension("");
            let below = below.components().map(|c| c.as_os_str().to_str().unwrap());
            let below = below.filter(|part| *part != "mod").map(str::to_owned);
            let at: Vec<String> = here.iter().cloned().chain(below).collect();
            for path in absolute(file, &at) {
                let Some(first) = path.strip_prefix(here).and_then(<[String]>::first) else {
                    continue;
                };
                let other = match files.contains_key(first) {
                    true => first.clone(),
                    false => owner(first).unwrap_or_default(),
                };
                if other != *module && files.contains_key(&other) {
                    imports.insert(other);
                }
            }
        }
        graph.insert(module.clone(), imports);
    }
    graph
}

/// Modules that import each other in a circle: those that remain when modules whose imports are
/// all gone are taken away again and again.
fn circle(mut graph: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    loop {
        let here: BTreeSet<String> = graph.keys().cloned().collect();
        let before = graph.len();
        graph.retain(|_, imports| !imports.is_disjoint(&here));
        if graph.len() == before {
            return graph.into_keys().collect();
        }
    }
}

#[test]
fn modules_of_the_backbone_import_in_no_circle() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in ["", "/candle", "/checkpoint", "/config", "/cpu", "/gguf"] {
        let path = format!("backbone{path}");
        let here: Vec<String> = path.split('/').map(str::to_owned).collect();
        let graph = graph(&src.join(&path), &here);
        assert!(graph.len() > 3, "{path}: {graph:?}");
        assert_eq!(circle(graph.clone()), [""; 0], "{path}: {graph:#?}");
    }
    let two = |a: &str, b: &str| (a.to_owned(), BTreeSet::from([b.to_owned()]));
    let odd = BTreeMap::from([two("a", "b"), two("b", "c"), two("c", "b"), two("d", "e")]);
    assert_eq!(circle(odd), ["a", "b", "c"]);
}
