//! Questions about plain text, made by rule: a passage of it, an instruction, and an answer that
//! can be read off the passage. They teach a base what a prompt is and that answers are found in
//! it, in forms that occur in no task it is later tested on by rows of that task.
//!
//! The gap follows the Children's Book Test (arXiv:1511.02301).

use lyceum::rng::Rng;

/// Most bytes of a passage.
const PASSAGE: usize = 500;

/// Makes one question of a passage, if it has what is needed.
type Kind = fn(&[&str], &str, &mut Rng) -> Option<(String, String)>;

const KINDS: [Kind; 6] = [gap, option, present, follows, next, told];

/// Up to `count` questions about passages of `document`, prompt and answer joined.
pub(super) fn about(document: &str, count: usize, rng: &mut Rng) -> Vec<String> {
    let all = sentences(document);
    let one = |_| {
        let from = rng.below(all.len().max(1));
        let mut size = 0;
        let fits = |s: &&&str| {
            size += s.len() + 1;
            size <= PASSAGE
        };
        let most = 2 + rng.below(6);
        let passage: Vec<&str> = all[from.min(all.len())..]
            .iter()
            .take(most)
            .take_while(fits)
            .copied()
            .collect();
        let after = all.get(from + passage.len())?;
        if passage.len() < 2 {
            return None;
        }
        let (prompt, answer) = KINDS[rng.below(KINDS.len())](&passage, after, rng)?;
        Some(format!("{prompt} {answer}"))
    };
    (0..count).filter_map(one).collect()
}

/// The sentences of a text.
fn sentences(text: &str) -> Vec<&str> {
    let mut all = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let ends = |(at, c): (usize, char)| {
            let next = rest[at + c.len_utf8()..].chars().next();
            let done = matches!(c, '.' | '?' | '!' | '"') && next.is_some_and(char::is_whitespace);
            (c == '\n' || done).then_some(at + c.len_utf8())
        };
        let end = rest.char_indices().find_map(ends).unwrap_or(rest.len());
        let (sentence, after) = rest.split_at(end);
        if sentence.trim().len() > 1 {
            all.push(sentence.trim());
        }
        rest = after.trim_start();
    }
    all
}

/// The words of a text, without the signs around them.
fn words(text: &str) -> Vec<&str> {
    let bare = |word| str::trim_matches(word, |c: char| !c.is_alphanumeric());
    let words = text.split_whitespace().map(bare);
    words.filter(|word| !word.is_empty()).collect()
}

fn pick<'a, T: ?Sized>(items: &[&'a T], rng: &mut Rng) -> Option<&'a T> {
    match items.len() {
        0 => None,
        n => Some(items[rng.below(n)]),
    }
}

/// Returns `true` if a word is informative enough for a question.
fn telling(word: &str) -> bool {
    word.len() > 4 || (word.len() > 2 && word.starts_with(char::is_uppercase))
}

/// A sentence with a word of the passage left out: (passage without it, sentence, word).
fn hole<'a>(passage: &[&'a str], after: &str, rng: &mut Rng) -> Option<(String, &'a str)> {
    let text = passage.join(" ");
    let asked = words(after);
    let known: Vec<&str> = passage.iter().flat_map(|s| words(s)).collect();
    let shared: Vec<&str> = known
        .into_iter()
        .filter(|word| telling(word) && asked.contains(word))
        .collect();
    let word = pick(&shared, rng)?;
    let holed = after.replacen(word, "_", 1);
    Some((format!("Text: {text}\nSentence: {holed}"), word))
}

fn gap(passage: &[&str], after: &str, rng: &mut Rng) -> Option<(String, String)> {
    let (text, word) = hole(passage, after, rng)?;
    let ask = pick(
        &[
            "Read the text. Which word of it is missing in the sentence?",
            "Fill in the word that was left out (_). It stands in the text.",
            "One word of the last sentence is missing. Give this word.",
        ],
        rng,
    )?;
    Some(match rng.below(2) {
        0 => (format!("{ask}\n\n{text}"), format!("{word}.")),
        _ => (format!("{text}\n\n{ask}\nAnswer:"), word.to_owned()),
    })
}

fn option(passage: &[&str], after: &str, rng: &mut Rng) -> Option<(String, String)> {
    let (text, word) = hole(passage, after, rng)?;
    let others: Vec<&str> = passage.iter().flat_map(|s| words(s)).collect();
    let mut options = vec![word];
    for _ in 0..20 {
        let other = pick(&others, rng)?;
        if telling(other) && !options.contains(&other) && options.len() < 4 {
            options.push(other);
        }
    }
    if options.len() < 2 {
        return None;
    }
    rng.shuffle(&mut options);
    let at = options.iter().position(|o| *o == word)?;
    let letters = ["A", "B", "C", "D"];
    let list: String = options
        .iter()
        .zip(letters)
        .map(|(option, letter)| format!("\n{letter}. {option}"))
        .collect();
    let ask = format!("Choose the word that fills the gap.\n\n{text}\nOptions:{list}");
    Some(match rng.below(2) {
        0 => (
            format!("{ask}\nAnswer with the letter:"),
            letters[at].into(),
        ),
        _ => (format!("{ask}\nAnswer with the word:"), word.into()),
    })
}

fn present(passage: &[&str], after: &str, rng: &mut Rng) -> Option<(String, String)> {
    let text = passage.join(" ");
    let inside = rng.below(2) == 0;
    let known = words(&text);
    let from = if inside { known.clone() } else { words(after) };
    let fit: Vec<&str> = from
        .into_iter()
        .filter(|word| telling(word) && known.contains(word) == inside)
        .collect();
    let word = pick(&fit, rng)?;
    let answer = if inside { "Yes" } else { "No" };
    Some(match rng.below(2) {
        0 => (
            format!("Does the word \"{word}\" stand in this text? Say yes or no.\n\nText: {text}"),
            format!("{answer}."),
        ),
        _ => (
            format!("{text}\n\nQuestion: Is \"{word}\" one of the words above?\nAnswer:"),
            answer.to_lowercase(),
        ),
    })
}

fn follows(passage: &[&str], _: &str, rng: &mut Rng) -> Option<(String, String)> {
    let text = passage.join(" ");
    let known = words(&text);
    if known.len() < 3 {
        return None;
    }
    let at = rng.below(known.len() - 2);
    let pair = &known[at..at + 2];
    if known.windows(2).filter(|w| *w == pair).count() > 1 {
        return None;
    }
    let (pair, word) = (pair.join(" "), known[at + 2]);
    Some(match rng.below(2) {
        0 => (
            format!("Text: {text}\nQuestion: Which word comes after \"{pair}\"?"),
            word.into(),
        ),
        _ => (
            format!("Find the word that follows \"{pair}\" in the text.\n\nText: {text}"),
            format!("{word}."),
        ),
    })
}

fn next(passage: &[&str], after: &str, rng: &mut Rng) -> Option<(String, String)> {
    let text = passage.join(" ");
    let ask = pick(
        &[
            "Write the sentence that comes next.",
            "What could the next sentence of this story be?",
        ],
        rng,
    )?;
    Some((format!("{ask}\n\nStory: {text}"), after.to_owned()))
}

fn told(passage: &[&str], after: &str, rng: &mut Rng) -> Option<(String, String)> {
    let true_ = rng.below(2) == 0;
    let sentence = if true_ { pick(passage, rng)? } else { after };
    let text = passage.join(" ");
    let answer = if true_ { "True" } else { "False" };
    Some((
        format!("passage: {text}\nIt is told here: {sentence}\nOptions: False, True\nAnswer:"),
        answer.to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORY: &str = "Then Martha saw the garden gate. It was open. \"Who was here?\" she asked. \
        Nobody answered Martha, and the garden was still.\nA bird sang. Martha went on slowly.";

    #[test]
    fn sentences_keep_every_word() {
        let all = sentences(STORY);
        assert_eq!(all.len(), 7, "{all:?}");
        assert_eq!(all[1], "It was open.");
        let count = |s: &str| s.split_whitespace().count();
        assert_eq!(all.iter().map(|s| count(s)).sum::<usize>(), count(STORY));
    }

    #[test]
    fn answers_are_what_the_prompt_asks_for() {
        let passage = &sentences(STORY)[..4];
        let after = "Then Martha saw the garden again.";
        let text = passage.join(" ");
        for seed in 0..50 {
            let rng = &mut Rng::new(seed);
            let (prompt, word) = gap(passage, after, rng).unwrap();
            let word = word.trim_end_matches('.');
            assert!(prompt.contains(&after.replacen(word, "_", 1)) && text.contains(word));
            let (prompt, answer) = option(passage, after, rng).unwrap();
            assert!(
                prompt.contains(&format!(". {answer}"))
                    || prompt.contains(&format!("\n{answer}. "))
            );
            if let Some((prompt, answer)) = present(passage, "Later Peter came.", rng) {
                let absent = prompt.contains("\"Later\"") || prompt.contains("\"Peter\"");
                assert_eq!(answer.to_lowercase().starts_with("no"), absent, "{prompt}");
            }
            if let Some((prompt, word)) = follows(passage, "", rng) {
                assert!(text.contains(word.trim_end_matches('.')), "{prompt}");
            }
            let (prompt, answer) = told(passage, after, rng).unwrap();
            assert_eq!(answer == "False", prompt.contains(after));
        }
    }

    #[test]
    fn short_or_strange_documents_give_no_question() {
        let odd = [
            "",
            "\n",
            "One.",
            "a b",
            "So. No. Go. Do.",
            "\u{1f600}\u{1f600}. \u{301}\"! x y",
        ];
        for text in odd {
            let _ = about(text, 200, &mut Rng::new(1));
        }
        assert!(about("One sentence only.", 20, &mut Rng::new(1)).is_empty());
        assert!(!about(STORY, 20, &mut Rng::new(1)).is_empty());
    }
}
