use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Chat, Message};

#[derive(Deserialize)]
struct Golden {
    tokens: BTreeMap<String, String>,
    renderings: Vec<Rendering>,
}

#[derive(Deserialize)]
struct Rendering {
    name: String,
    template: String,
    messages: Vec<Message>,
    text: String,
}

#[test]
fn templates_write_what_transformers_writes() {
    let golden = include_str!("../../../tests/golden/chat/renderings.json");
    let golden: Golden = serde_json::from_str(golden).unwrap();
    let chat = Chat::new(BTreeMap::new(), golden.tokens);
    let mut wrong = Vec::new();
    for Rendering {
        name,
        template,
        messages,
        text,
    } in golden.renderings
    {
        match chat.render(&template, &messages) {
            Ok(got) if got == text => {}
            Ok(got) => wrong.push(format!("{name}:\n {got:?}\n {text:?}")),
            Err(e) => wrong.push(format!("{name}: {}\n {text:?}", e.chain())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_python_refuses_is_refused() {
    let chat = Chat::default();
    for (template, why) in [
        ("{{ nothing | tojson }}", "undefined"),
        ("{{ [1] | tojson(indnt=2) }}", "indnt"),
        ("{{ [1] | tojson(separators='x') }}", "separators"),
        ("{{ {1: 2, 'a': 3} | tojson(sort_keys=true) }}", "sort"),
        (
            "{{ [1] | tojson(true, ensure_ascii=true) }}",
            "ensure_ascii",
        ),
        ("{% generation %}x", ""),
        ("{% generation x %}y{% endgeneration %}", ""),
        ("{{ bos_token + 'x' }}", ""),
        (
            "{% set ns = namespace(x=[]) %}{% for i in range(500) %}{% set ns.x = [ns.x] %}\
             {% endfor %}{{ ns.x | tojson }}",
            "nested",
        ),
        (
            "{% for i in range(1000) %}{{ range(1000) | list | tojson(indent=1000) }}{% endfor %}",
            "too much",
        ),
    ] {
        let said = chat.render(template, &[]).map_err(|e| e.chain());
        let said = said.unwrap_err();
        assert!(said.contains(why), "{template}: {said}");
    }
}

#[test]
fn templates_go_by_name() {
    let named = |all: &[(&str, &str)]| {
        let all = all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        Chat::new(all.collect(), BTreeMap::new())
    };
    let chat = named(&[("rag", "R"), ("tool_use", "T")]);
    let why = chat.prompt(&[]).unwrap_err().to_string();
    assert!(
        why.contains("`default`") && why.contains("`rag`, `tool_use`"),
        "{why}"
    );
    assert_eq!(chat.template("rag").unwrap(), "R");
    let chat = named(&[("rag", "R"), ("default", "D")]);
    assert_eq!(chat.prompt(&[]).unwrap(), "D");
    let why = Chat::default().prompt(&[]).unwrap_err().to_string();
    assert!(why.contains("no chat template"), "{why}");
}
