//! `lyceum base show`, and generating and conversing on a trained model of another family.

use std::path::Path;

use crate::command::Sandbox;

#[expect(dead_code, reason = "the example's own main")]
#[path = "../../../lyceum/examples/llama2c.rs"]
mod llama2c;

/// A place with the trained Llama of 260 K parameters as `stories`.
fn place() -> Sandbox {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lyceum/tests/golden/stories260K");
    let read = |name: &str| std::fs::read(from.join(name)).unwrap();
    let place = Sandbox::new();
    let (model, tokens) = (read("stories260K.bin"), read("tok512.bin"));
    llama2c::convert(&model, &tokens, &place.path("stories")).unwrap();
    place
}

#[test]
#[cfg_attr(not(feature = "assets"), ignore = "needs the feature `assets`")]
fn a_base_shows_what_it_is() {
    let place = place();
    let shown = place.json("base show stories");
    assert_eq!(shown["family"], "llama");
    // Embedding 512 x 64; per block 64 x (64 + 32 + 32 + 64), 3 x 64 x 172 and two norms.
    assert_eq!(
        shown["parameters"],
        512 * 64 + 5 * (64 * 192 + 3 * 64 * 172 + 128) + 64
    );
    assert_eq!(shown["stops"], serde_json::json!([1, 2]));
    let sites = shown["sites"].as_array().unwrap();
    assert_eq!(sites.len(), 5 * 7);
    let k =
        serde_json::json!({ "site": "model.layers.0.self_attn.k_proj", "d_out": 32, "d_in": 64 });
    assert_eq!(sites[1], k);
    let text = place.ok("base show stories");
    assert!(text.contains("8 of 8, 4 of keys and values"), "{text}");
    assert!(
        text.contains("model.layers.{0..4}.mlp.down_proj [64, 172] x5\n"),
        "{text}"
    );
    assert!(!text.contains("model.layers.4."), "{text}");
    let text = place.ok("base show stories --all");
    assert!(
        text.contains("model.layers.4.mlp.down_proj [64, 172]\n") && !text.contains('{'),
        "{text}"
    );
    assert!(place.ok("base show").contains("gpt_neo"));
    let why = place.complaint("base show nowhere");
    assert!(why.contains("nowhere"), "{why}");
}

#[test]
fn what_a_bases_owner_may_not_expect_is_said_once() {
    let place = place();
    let path = place.path("stories/config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replacen('{', "{\"sliding_window\": 77,", 1)).unwrap();
    for line in [
        "base show stories",
        "generate --base stories --prompt Once --max-new 1",
    ] {
        let output = place.output(line);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert_eq!(said.matches("warning: ").count(), 1, "{said}");
        assert!(said.contains("`sliding_window` (77)"), "{said}");
    }
    let shown = place.json("base show stories");
    let note = shown["notes"][0].as_str().unwrap();
    assert!(note.contains("`sliding_window` (77)"), "{note}");
}

#[test]
fn a_prompt_is_continued_and_a_conversation_needs_a_template() {
    let place = place();
    let told = place.json("generate --base stories --prompt Once --max-new 40");
    let text = told["text"].as_str().unwrap();
    assert!(
        text.starts_with("upon a time, there was a little girl named Lily."),
        "{text}"
    );
    let why = place.complaint("generate --base stories --prompt Hi --chat");
    assert!(why.contains("no chat template"), "{why}");
    let template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
    std::fs::write(place.path("stories/chat_template.jinja"), template).unwrap();
    let line = "generate --base stories --prompt ce --chat --system On --max-new 40";
    let chatted = place.json(line);
    assert_eq!(
        chatted["text"], told["text"],
        "the template wrote the same prompt"
    );
}

#[test]
fn experts_train_and_route_over_another_family() {
    let place = place();
    let library = "--library experts --base stories";
    place.ok(&format!(
        "train --data rows.jsonl --each-task {library} --epochs 1 --rank 2"
    ));
    place.ok("derive experts arrow");
    let shown = place.json(&format!(
        "generate {library} --router arrow --prompt Once --max-new 4"
    ));
    assert_eq!(shown["tokens"], 4);
}
