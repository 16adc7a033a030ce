//! A router added from outside the crate is named, built, compared and checked like the others.

use std::sync::Arc;

use lyceum::check;
use lyceum::library::Library;
use lyceum::route::{self, About, Prototypes, Role, Router, Score};
use serde_json::json;

use crate::recipes::{place, run, whole};

/// Arrow's prototypes, compared as PhatGOOSE compares its gates.
static COMPASS: About = About {
    name: "compass",
    what: "standardised inputs against Arrow's prototypes",
    paper: "-",
    role: Role::PerToken,
    artifact: Some("arrow"),
    settings: &["top_k"],
    temperature: None,
    build: Some(|inputs| {
        let score = Score::Standardised { temperature: None };
        let router = Prototypes::new(inputs.experts, inputs.artifacts, score, inputs.top_k)?;
        Ok(Arc::new(router))
    }),
};

#[test]
fn a_router_added_from_outside_is_one_of_them() {
    route::register(&COMPASS).unwrap();
    assert!(route::register(&COMPASS).is_err(), "its name is taken");
    let error = Router::named("compas").unwrap_err().to_string();
    assert!(error.contains("did you mean compass"), "{error}");
    let error = Router::named("compass").unwrap().temperature(2.0).check();
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("`compass` has no setting `temperature`"),
        "{error}"
    );
    assert!(route::with_setting("top_k", ", ").contains("compass"));

    let dir = place();
    let mut recipe = whole(dir.path());
    recipe["methods"] = json!([
        { "router": "base", "downstream": true },
        { "router": "compass", "top_k": 1, "downstream": true },
    ]);
    let out = dir.path().join("out");
    let (report, _) = run(&recipe, dir.path(), &out).unwrap();
    let label =
        |row: &lyceum::metrics::Metric| row.method == "compass" && row.name == "compass k=1";
    assert!(report.rows.iter().any(label), "{:?}", report.rows);
    // It decides by token, so the report shows where tokens went, and what the prototypes are.
    assert!(
        report
            .routing
            .iter()
            .any(|r| r.method.starts_with("compass"))
    );
    assert!(
        report
            .stages
            .iter()
            .any(|s| s.name == "derive arrow (private)")
    );
    let page = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert!(page.contains("compass k=1"), "{page}");

    // A saved specification is read again, and what it needs is checked.
    let spec = Router::named("compass").unwrap().top_k(1);
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(json, r#"{"router":"compass","top_k":1}"#);
    assert_eq!(serde_json::from_str::<Router>(&json).unwrap(), spec);
    let library = Library::open(out.join("libraries/private").to_str().unwrap()).unwrap();
    let found = check::check(&library, None).unwrap();
    assert!(
        found.problems.is_empty() && found.artifacts == 3,
        "{found:?}"
    );
}
