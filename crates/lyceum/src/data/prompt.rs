//! Joins a prompt and its answer to one text (MTTL's `add_space_and_eos`).

/// The prompt and the label to be tokenised: exactly one space between them where the tokenizer
/// merges spaces into words, and end-of-text after the label.
pub fn join(source: &str, target: &str, eos: &str, merges_space: bool) -> (String, String) {
    let (mut source, mut label) = (source.to_owned(), target.to_owned());
    if merges_space && source.ends_with(' ') {
        source.pop();
        label.insert(0, ' ');
    }
    let open = |text: &str| text.starts_with([' ', '\n']);
    if !source.ends_with([' ', '\n']) && !label.is_empty() && !open(&label) {
        label.insert(0, ' ');
    }
    label.push_str(eos);
    (source, label)
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn one_space_stands_between_prompt_and_label() {
        let joined = |s, t| join(s, t, "<e>", true);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(joined("Is it?", "yes"), pair("Is it?", " yes<e>"));
        assert_eq!(joined("Is it? ", "yes"), pair("Is it?", " yes<e>"));
        assert_eq!(joined("Is it?\n", "yes"), pair("Is it?\n", "yes<e>"));
        assert_eq!(joined("Is it?", ""), pair("Is it?", "<e>"));
        assert_eq!(join("Is it? ", "yes", "", false), pair("Is it? ", "yes"));
    }
}
