//! Generated text as MTTL reads it off a model.

/// Hugging Face's `clean_up_tokenization_spaces`.
pub fn clean(text: &str) -> String {
    let pairs = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    pairs
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The answer in a decoded `sequence` (prompt and answer): what stands between the first and the
/// second occurrence of `source`; `tail`, the new tokens alone, where the source was cut or
/// cleaned into something else.
pub fn generated(sequence: &str, source: &str, tail: &str) -> String {
    match sequence.split(source).nth(1) {
        Some(text) if !source.is_empty() => text.to_owned(),
        _ => tail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_before_marks_go() {
        assert_eq!(
            clean("it 's n't , no ."),
            "it's n't, no.".replace("s n't", "sn't")
        );
        assert_eq!(generated("Q? A", "Q?", "x"), " A");
        assert_eq!(generated("cut? A", "Q?", "x"), "x");
    }
}
