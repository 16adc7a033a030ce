//! A whole recipe: what it leaves, that it repeats bit by bit, and that a killed one continues.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::command::{Sandbox, read_json};

/// A report without what may differ between equal runs: times, memory, threads, what was reused.
fn comparable(mut report: Value) -> Value {
    report["provenance"]["threads"] = Value::Null;
    for stage in report["stages"].as_array_mut().unwrap() {
        for field in ["seconds", "tokens", "peak_memory_mib", "resumed"] {
            stage[field] = Value::Null;
        }
    }
    report
}

/// Resources that a page would load from elsewhere.
fn outside(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let own = |address: &str| address.starts_with('#') || address.starts_with("data:");
    let loading = ["script", "link", "iframe", "object", "embed", "base"];
    // Text is escaped: between `<` and `>` there are only tags.
    for tag in page.split('<').skip(1).filter_map(|t| t.split('>').next()) {
        let name = tag.split([' ', '/', '\n']).next().unwrap_or_default();
        if loading.contains(&name) {
            found.push(tag.to_owned());
        }
        for attribute in ["src=", "href=", "srcset=", "data=", "action=", "poster="] {
            let mut values = tag.split(attribute).skip(1);
            if values.any(|value| !own(value.trim_start_matches(['"', '\'']))) {
                found.push(tag.to_owned());
            }
        }
        // A namespace is a name, which nothing loads.
        let rest = tag.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        if rest.contains("://") {
            found.push(tag.to_owned());
        }
    }
    for call in page.split("url(").skip(1) {
        if !own(call.trim_start_matches(['"', '\''])) {
            found.push(format!("url({}", call.chars().take(40).collect::<String>()));
        }
    }
    if page.contains("@import") {
        found.push("@import".into());
    }
    found
}

#[test]
fn a_page_that_loads_something_is_found_out() {
    for page in [
        "<img src=\"http://example.org/a.png\">",
        "<img src=a.png>",
        "<link rel=\"stylesheet\" href=\"style.css\">",
        "<script>1</script>",
        "<a href=\"https://example.org\">x</a>",
        "<style>p { background: url(https://example.org/a.png) }</style>",
        "<style>@import 'a.css';</style>",
        "<svg xmlns=\"http://www.w3.org/2000/svg\"><image href='http://example.org/a'/></svg>",
        "<rect style=\"fill: red\" id=\"ftp://example.org\"/>",
    ] {
        assert!(!outside(page).is_empty(), "{page}");
    }
    let page = "<svg xmlns=\"http://www.w3.org/2000/svg\"><rect fill=\"url(#a)\"/></svg>\
                <a href=\"#top\">s3://a/b</a>";
    assert_eq!(outside(page), Vec::<String>::new());
}

#[test]
#[cfg_attr(not(feature = "report"), ignore = "needs the feature `report`")]
fn a_recipe_leaves_a_whole_report() {
    let place = Sandbox::new();
    place.ok("run recipe.toml --out out");
    let report = read_json(&place.path("out/report.json"));
    let rows = report["rows"].as_array().unwrap();
    for (method, library) in [
        ("base", ""),
        ("oracle", "private"),
        ("oracle", "mbc"),
        ("uniform", "mbc"),
        ("arrow", "private"),
        ("phatgoose", "mbc"),
    ] {
        let row = rows.iter().find(|r| {
            r["method"] == method
                && r["library"] == library
                && r["task"] == "mean"
                && r["metric"] == "rouge-l"
        });
        let row = row.unwrap_or_else(|| panic!("no row for {method} {library}"));
        assert_eq!(row["n"], 6);
        assert!(row["stderr"].is_number());
    }
    assert!(
        rows.iter()
            .any(|r| r["task"] == "questions" && r["metric"] == "acc_norm")
    );
    let provenance = &report["provenance"];
    for field in [
        "seed",
        "device",
        "precision",
        "base_fingerprint",
        "libraries",
        "versions",
    ] {
        assert!(!provenance[field].is_null(), "{field}");
    }
    assert_eq!(
        report["similarity"][0]["cosines"].as_array().unwrap().len(),
        3
    );
    let clusters = read_json(&place.path("out/mbc_clusters.json"));
    assert_eq!(clusters.as_object().unwrap().len(), 2);
    let page = std::fs::read_to_string(place.path("out/report.html")).unwrap();
    assert!(page.contains("<svg"));
    assert_eq!(outside(&page), Vec::<String>::new());
    for chart in ["rouge-l", "similarity-private", "training-loss"] {
        let file = |ending: &str| place.path(&format!("out/plots/{chart}.{ending}"));
        assert!(
            file("svg").exists() && file("png").exists(),
            "{chart}: {:?}",
            std::fs::read_dir(place.path("out/plots"))
                .unwrap()
                .collect::<Vec<_>>()
        );
    }
    assert!(place.path("out/report.md").exists());
    assert!(
        place
            .path("out/predictions/arrow-k2-private-outputs.jsonl")
            .exists()
    );
    let markdown = std::fs::read_to_string(place.path("out/report.md")).unwrap();
    for text in [&page, &markdown] {
        assert!(text.contains("Paired differences"), "{text}");
        assert!(
            text.contains("ROUGE-L against the base (6 examples)"),
            "{text}"
        );
        // Two questions of two options and one of three.
        assert!(
            text.contains("questions acc against chance (3 examples)"),
            "{text}"
        );
    }
    let chance = report["chance"]["questions"].as_f64().unwrap();
    assert!((chance - 4.0 / 9.0).abs() < 1e-12, "{chance}");
    // The report is drawn again from its JSON alone, differences of pairs included.
    place.ok("plot out/report.json --out again");
    for file in [
        "report.html",
        "report.md",
        "report.json",
        "plots/rouge-l.png",
    ] {
        let read = |dir: &str| std::fs::read(place.path(dir).join(file)).unwrap();
        assert!(read("out") == read("again"), "{file}");
    }
}

#[test]
#[cfg_attr(not(feature = "report"), ignore = "needs the feature `report`")]
fn equal_seeds_give_equal_reports_whatever_the_threads() {
    let place = Sandbox::new();
    place.ok("run recipe.toml --out one --threads 1");
    place.ok("run recipe.toml --out two --threads 2");
    let report = |name: &str| comparable(read_json(&place.path(name)));
    assert_eq!(report("one/report.json"), report("two/report.json"));
    place.ok("run recipe.toml --out other --seed 8");
    assert_ne!(report("one/report.json"), report("other/report.json"));

    // A base that is elsewhere is the same base.
    std::fs::rename(place.path("base"), place.path("moved")).unwrap();
    place.ok("run recipe.toml --out elsewhere --base moved");
    let (one, elsewhere) = (report("one/report.json"), report("elsewhere/report.json"));
    assert_eq!(elsewhere["provenance"]["spec"]["base"], "moved");
    assert_eq!(one["rows"], elsewhere["rows"]);

    place.ok("plot one/report.json other/report.json --out mean");
    let row = |name: &str| read_json(&place.path(name))["rows"][0].clone();
    let value = |name: &str, field: &str| row(name)[field].as_f64().unwrap();
    let (one, other) = (
        value("one/report.json", "mean"),
        value("other/report.json", "mean"),
    );
    assert!((value("mean/report.json", "mean") - (one + other) / 2.0).abs() < 1e-9);
    let error = (one - other).abs() / 2.0;
    assert!((value("mean/report.json", "stderr") - error).abs() < 1e-9);
    assert_eq!(row("mean/report.json")["n"], 2);
    // Methods are compared seed by seed: two runs have one degree of freedom.
    let text = std::fs::read_to_string(place.path("mean/report.md")).unwrap();
    assert!(
        text.contains("ROUGE-L against the base (2 seeds)"),
        "{text}"
    );
    let complaint = place.complaint("plot one/report.json two/report.json --out mean");
    assert!(complaint.contains("another seed"), "{complaint}");
    let complaint = place.complaint("plot one/report.json other/report.json");
    assert!(complaint.contains("--out"), "{complaint}");
}

/// Starts `line` and kills it as soon as `ripe`; whether it was cut before its report was there.
fn cut(place: &Sandbox, line: &str, out: &Path, ripe: impl Fn() -> bool) -> bool {
    let mut child = place
        .command(line)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !ripe() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    !status.success() && !out.join("report.json").exists()
}

#[test]
fn a_killed_run_continues_to_the_same_report() {
    let place = Sandbox::new();
    place.ok("run recipe.toml --out whole");
    // A machine may be so busy that a run ends before it is killed: then in another folder.
    let name = (0..5).map(|i| format!("cut{i}")).find(|name| {
        let (line, out) = (format!("run recipe.toml --out {name}"), place.path(name));
        let predicted = |count: usize| {
            let files = std::fs::read_dir(out.join("predictions"));
            files.is_ok_and(|files| files.count() >= count)
        };
        cut(&place, &line, &out, || {
            out.join("libraries/private").exists()
        }) && cut(&place, &line, &out, || {
            out.join("mbc_clusters.json").exists()
        }) && cut(&place, &line, &out, || predicted(1))
            && cut(&place, &line, &out, || predicted(4))
    });
    let name = name.expect("no run was cut at each of its moments");
    let output = place.output(&format!("run recipe.toml --out {name}"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    // What the killed runs had done was not done again.
    for stage in ["train private experts", "rouge-l base"] {
        let line = format!("{stage}: already there, reused");
        assert!(stderr.contains(&line), "{stderr}");
    }
    let report = |name: &str| comparable(read_json(&place.path(&format!("{name}/report.json"))));
    assert_eq!(report("whole"), report(&name));
    // A finished run has nothing left to do, and says so.
    let output = place.output(&format!("run recipe.toml --out {name}"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("train private experts: already there, reused"),
        "{stderr}"
    );
    assert!(
        stderr.contains("rouge-l base: already there, reused"),
        "{stderr}"
    );
}
