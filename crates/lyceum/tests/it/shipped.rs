//! The base, tasks and questions of `lyceum-assets`, whatever the features of the build.

use lyceum::backbone::{Base, Precision};
use lyceum::data::{Dataset, Question};

pub(crate) fn base(precision: Precision) -> Base {
    use lyceum_assets::base::{CONFIG, TOKENIZER, WEIGHTS};
    Base::from_bytes("embedded", CONFIG, WEIGHTS, TOKENIZER, precision).unwrap()
}

pub(crate) fn tasks() -> Dataset {
    let rows = lyceum_assets::TASKS.map(|(_, rows)| rows);
    Dataset::from_jsonl(&rows.concat(), "embedded tasks").unwrap()
}

pub(crate) fn arc_easy() -> Vec<Question> {
    Question::from_jsonl(lyceum_assets::ARC_EASY, "embedded arc-easy").unwrap()
}
