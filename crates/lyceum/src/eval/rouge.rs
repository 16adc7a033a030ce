//! ROUGE-L with Porter stemming, as MTTL takes it from torchmetrics.

use std::sync::LazyLock;

use rougers::{RougeScorer, RougeType};

static SCORER: LazyLock<Option<RougeScorer>> =
    LazyLock::new(|| RougeScorer::new(["rougeL"], true).ok());

/// The F-measure of the longest common subsequence, 0 to 100, best over the references; rounded
/// to f32 as the reference does.
///
/// ```
/// use lyceum::eval::rouge::rouge_l;
///
/// assert!(rouge_l("the cat sat", &["the cat sat".into()]) > 99.9);
/// assert!(rouge_l("a dog", &["the cat sat".into()]) < 0.1);
/// ```
pub fn rouge_l(prediction: &str, references: &[String]) -> f64 {
    let one = |reference: &String| {
        let scores = SCORER.as_ref()?.score(reference, prediction);
        Some(scores.get(RougeType::L)?.fmeasure)
    };
    let best = references.iter().filter_map(one).fold(0.0, f64::max);
    f64::from((best as f32) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_equal_the_reference() {
        let text = include_str!("../../tests/golden/rouge_pairs.json");
        let pairs: serde_json::Value = serde_json::from_str(text).unwrap();
        let pairs = pairs.as_array().unwrap();
        assert!(pairs.len() >= 8);
        for pair in pairs {
            let field = |name: &str| pair[name].as_str().unwrap().to_owned();
            let got = rouge_l(&field("prediction"), &[field("reference")]);
            let want = pair["rougeL"].as_f64().unwrap();
            assert!((got - want).abs() < 1e-4, "{pair}: {got}");
        }
    }
}
