//! The embedded default: a small base, ten small tasks and ARC-Easy. Sources and licences are in
//! `assets/README.md`.

use crate::backbone::{Base, Place};
use crate::data::{Dataset, Question};
use crate::error::Result;

macro_rules! asset {
    ($path:literal) => {
        include_bytes!(concat!("../../../assets/", $path))
    };
}

const TASKS: &[&[u8]] = &[
    asset!("tasks/boolq.jsonl"),
    asset!("tasks/cos_e_v1_11_description_question_option_id.jsonl"),
    asset!("tasks/niv1_subtask018_mctaco_temporal_reasoning_presence.jsonl"),
    asset!("tasks/niv1_subtask033_winogrande_answer_generation.jsonl"),
    asset!("tasks/niv1_subtask039_qasc_find_overlapping_words.jsonl"),
    asset!("tasks/niv1_subtask041_qasc_answer_generation.jsonl"),
    asset!("tasks/quoref_Given_Context_Answer_Question.jsonl"),
    asset!("tasks/squad_adversarial_qa_answer_the_following_q.jsonl"),
    asset!("tasks/wiki_hop_original_explain_relation.jsonl"),
    asset!("tasks/wiqa_what_is_the_final_step_of_the_following_process.jsonl"),
];

/// The small base shipped with Lyceum.
///
/// # Errors
/// Only if the build embedded damaged files.
pub fn base(place: impl Into<Place>) -> Result<Base> {
    Base::from_bytes(
        "embedded",
        asset!("base/config.json"),
        asset!("base/model.safetensors"),
        asset!("base/tokenizer.json"),
        place,
    )
}

/// The ten tasks shipped with Lyceum.
///
/// # Errors
/// Only if the build embedded damaged files.
pub fn tasks() -> Result<Dataset> {
    Dataset::from_jsonl(&TASKS.concat(), "embedded tasks")
}

/// ARC-Easy, test split, 2376 questions, prompts as lm-eval and MTTL write them:
/// `Question: ...`, a line end, `Answer:`.
///
/// # Errors
/// Only if the build embedded damaged files.
pub fn arc_easy() -> Result<Vec<Question>> {
    Question::from_jsonl(asset!("eval/arc_easy_test.jsonl"), "embedded arc-easy")
}

#[cfg(test)]
mod tests {
    #[test]
    fn arc_easy_is_whole_and_prompts_as_lm_eval_does() {
        let questions = super::arc_easy().unwrap();
        assert_eq!(questions.len(), 2376);
        let prompted = |q: &crate::data::Question| {
            q.query.starts_with("Question: ") && q.query.ends_with("\nAnswer:")
        };
        assert!(questions.iter().all(prompted));
    }

    #[test]
    fn ten_tasks_have_all_splits() {
        use crate::data::Split::{Test, Train, Validation};
        let data = super::tasks().unwrap();
        assert_eq!(data.tasks().len(), 10);
        for (split, rows) in [(Train, 1000), (Validation, 120), (Test, 200)] {
            assert_eq!(data.select(None, split).unwrap().len(), rows);
        }
    }
}
