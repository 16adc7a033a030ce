//! The embedded default: a small base, ten small tasks and ARC-Easy (feature `assets`). Sources and
//! licences are in the README of `lyceum-assets`.

use crate::backbone::{Base, LoadOptions};
use crate::data::{Dataset, Question};
use crate::error::Result;

/// The small base shipped with Lyceum.
///
/// ```
/// use lyceum::backbone::Precision;
///
/// let base = lyceum::assets::base(Precision::F32)?;
/// println!("{}: {} positions", base.name, base.decoder.config().max_position_embeddings);
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// In a build without the feature `assets`.
pub fn base(place: impl Into<LoadOptions>) -> Result<Base> {
    Base::from_bytes(
        "embedded",
        lyceum_assets::base::CONFIG,
        lyceum_assets::base::WEIGHTS,
        lyceum_assets::base::TOKENIZER,
        place,
    )
}

/// The ten tasks shipped with Lyceum.
///
/// ```
/// assert_eq!(lyceum::assets::tasks()?.tasks().len(), 10);
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// In a build without the feature `assets`.
pub fn tasks() -> Result<Dataset> {
    let tasks = lyceum_assets::TASKS.map(|(_, rows)| rows);
    Dataset::from_jsonl(&tasks.concat(), "embedded tasks")
}

/// ARC-Easy, test split, 2376 questions, prompts as lm-eval and MTTL write them:
/// `Question: ...`, a line end, `Answer:`.
///
/// ```
/// let questions = lyceum::assets::arc_easy()?;
/// assert!(questions.iter().all(|question| question.choices.len() > 1));
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// In a build without the feature `assets`.
pub fn arc_easy() -> Result<Vec<Question>> {
    Question::from_jsonl(lyceum_assets::ARC_EASY, "embedded arc-easy")
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
            assert_eq!(data.split(split).unwrap().len(), rows);
        }
    }
}
