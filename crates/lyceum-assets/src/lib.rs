#![doc = include_str!("../README.md")]

/// The base model, as the files of its folder.
pub mod base {
    /// `config.json`.
    pub const CONFIG: &[u8] = include_bytes!("../base/config.json");
    /// `model.safetensors`.
    pub const WEIGHTS: &[u8] = include_bytes!("../base/model.safetensors");
    /// `tokenizer.json`.
    pub const TOKENIZER: &[u8] = include_bytes!("../base/tokenizer.json");
}

macro_rules! task {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../tasks/", $name, ".jsonl")))
    };
}

/// The ten tasks by name: JSON lines with the fields of the FLAN-flat sets.
pub const TASKS: [(&str, &[u8]); 10] = [
    task!("boolq"),
    task!("cos_e_v1_11_description_question_option_id"),
    task!("niv1_subtask018_mctaco_temporal_reasoning_presence"),
    task!("niv1_subtask033_winogrande_answer_generation"),
    task!("niv1_subtask039_qasc_find_overlapping_words"),
    task!("niv1_subtask041_qasc_answer_generation"),
    task!("quoref_Given_Context_Answer_Question"),
    task!("squad_adversarial_qa_answer_the_following_q"),
    task!("wiki_hop_original_explain_relation"),
    task!("wiqa_what_is_the_final_step_of_the_following_process"),
];

/// ARC-Easy, test split: JSON lines of `query`, `choices` and `gold`.
pub const ARC_EASY: &[u8] = include_bytes!("../eval/arc_easy_test.jsonl");
