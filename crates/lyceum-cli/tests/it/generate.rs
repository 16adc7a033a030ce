//! `lyceum generate`: room for prompts, where text goes, templates, and the token before a text.

use std::process::{Output, Stdio};

use serde_json::Value;

use crate::command::{Sandbox, read_json};

fn run(place: &Sandbox, words: &[&str]) -> Output {
    let base = ["generate", "--base", "base"];
    let mut command = place.command("");
    command.args(base).args(words).output().unwrap()
}

/// The continuation and what was said on stderr.
fn told(place: &Sandbox, words: &[&str]) -> (Value, String) {
    let output = run(place, &[words, &["--format", "json"]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{words:?}: {said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

#[test]
fn a_prompt_is_never_traded_for_new_tokens() {
    let place = Sandbox::new();
    let prompt = "Answer the question. Which of these is the largest?\nAnswer:";
    let (few, said) = told(&place, &["--prompt", prompt, "--max-new", "5"]);
    assert_eq!(said, "");
    let (many, said) = told(&place, &["--prompt", prompt, "--max-new", "600"]);
    assert!(
        said.contains("128 positions: at most") && said.contains("not 600"),
        "{said}"
    );
    let text = |told: &Value| told["text"].as_str().unwrap().to_owned();
    assert!(text(&many).starts_with(&text(&few)), "{few} {many}");
    let (last, _) = told(&place, &["--prompt", ":", "--max-new", "600"]);
    assert_ne!(text(&last), text(&many));
    // Longer than the positions: the end of it is continued, and that is said.
    let long = format!("{}{prompt}", "so it was ".repeat(60));
    let (cut, said) = told(&place, &["--prompt", &long, "--max-new", "8"]);
    assert!(
        said.contains("only its last 120 tokens are continued"),
        "{said}"
    );
    assert!(said.contains("left out") && cut["tokens"].as_u64().unwrap() <= 8);
    // A conversation is not cut.
    std::fs::write(
        place.path("base/chat_template.jinja"),
        "{{ messages[0].content }}",
    )
    .unwrap();
    let output = run(&place, &["--prompt", &long, "--chat"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("the conversation has") && said.contains("128 positions"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn text_streams_as_it_is_and_stops_where_nobody_reads() {
    let place = Sandbox::new();
    for prompt in ["Question", "caf\u{e9} \u{1f600}", "x"] {
        let (whole, _) = told(&place, &["--prompt", prompt]);
        let output = run(&place, &["--prompt", prompt]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.strip_suffix('\n'), whole["text"].as_str());
    }
    let mut command = place.command("generate --base base --prompt Question --max-new 100");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let place = Sandbox::new();
    for more in ["", " --format json"] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let line = format!("generate --base base --prompt Question{more}");
        let output = place.command(&line).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(
            said.starts_with("error: ") && said.contains("space"),
            "{said}"
        );
    }
}

#[test]
fn templates_are_chosen_by_name_or_file() {
    let place = Sandbox::new();
    let config = serde_json::json!({ "chat_template": [
        { "name": "rag", "template": "R {{ messages[0].content }}" },
        { "name": "tool_use", "template": "T {{ messages[0].content }}" } ] });
    std::fs::write(place.path("base/tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::write(place.path("own.jinja"), "R {{ messages[0].content }}").unwrap();
    let plain = told(&place, &["--prompt", "R hill"]).0["text"].clone();
    for which in ["rag", "own.jinja"] {
        let (chatted, _) = told(
            &place,
            &["--prompt", "hill", "--chat", "--chat-template", which],
        );
        assert_eq!(chatted["text"], plain, "{which}");
    }
    let refused = |words: &[&str]| {
        let output = run(&place, &[&["--prompt", "hill", "--chat"], words].concat());
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    for words in [&[][..], &["--chat-template", "ragg"]] {
        let why = refused(words);
        assert!(why.contains("`rag`, `tool_use`"), "{why}");
    }
    // Files of their own stand above the list.
    std::fs::create_dir(place.path("base/additional_chat_templates")).unwrap();
    let more = place.path("base/additional_chat_templates/mine.jinja");
    std::fs::write(more, "R {{ messages[0].content }}").unwrap();
    let (chatted, _) = told(
        &place,
        &["--prompt", "hill", "--chat", "--chat-template", "mine"],
    );
    assert_eq!(chatted["text"], plain);
    assert!(refused(&["--chat-template", "rag"]).contains("`mine`"));
}

#[test]
fn the_token_before_a_text_is_chosen_and_reported() {
    let place = Sandbox::new();
    let config = serde_json::json!({ "add_bos_token": true, "bos_token": "<|endoftext|>" });
    std::fs::write(place.path("base/tokenizer_config.json"), config.to_string()).unwrap();
    let (asked, said) = told(&place, &["--prompt", "hill"]);
    let present = read_json(&place.path("base/tokenizer.json"))["post_processor"] != Value::Null;
    assert_eq!(said.contains("warning: "), present, "{said}");
    let (with, said) = told(&place, &["--prompt", "hill", "--add-bos", "true"]);
    assert_eq!(said, "");
    let (without, said) = told(&place, &["--prompt", "hill", "--add-bos", "false"]);
    assert_eq!(said, "");
    assert_ne!(with["text"], without["text"]);
    assert_eq!(
        asked["text"],
        if present { &without } else { &with }["text"]
    );
    let eval = "eval --base base --task questions.jsonl --out";
    for (add, out) in [(" --add-bos true", "with"), (" --add-bos false", "without")] {
        place.ok(&format!("{eval} {out}{add}"));
        let report = read_json(&place.path(out).join("report.json"));
        assert_eq!(report["provenance"]["spec"]["add_bos"], out == "with");
    }
    let read = |name: &str| std::fs::read(place.path(name).join("predictions.jsonl")).unwrap();
    assert_ne!(read("with"), read("without"));
}
