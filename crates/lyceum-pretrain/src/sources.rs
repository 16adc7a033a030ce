//! The documents a recipe names: plain text, task rows, prompts, and questions about the text.

use std::collections::BTreeSet;
use std::path::Path;

use super::overlap::Reserved;
use super::{Pretrain, questions};
use lyceum::data::{Dataset, Split, join};
use lyceum::error::{Error, Result};
use lyceum::rng::Rng;

/// Lines of plain text are joined into documents of at least this many bytes.
const DOCUMENT: usize = 1200;

/// A document before it is tokenised.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Document {
    pub(super) text: String,
    /// End-of-text follows. A prompt without its answer must not teach that nothing follows.
    pub(super) ends: bool,
}

/// All documents of a recipe.
pub(super) struct Documents {
    /// To train on, once each pass.
    pub(super) text: Vec<Document>,
    /// To train on, as often as the recipe says.
    pub(super) rows: Vec<Document>,
    /// Never trained on: the last part of every source, so that what stands close together (a
    /// novel, the questions about one passage) is held out together.
    pub(super) held: Vec<Document>,
    /// Number of documents left out because they share words with what is to be avoided.
    pub(super) avoided: usize,
}

impl Documents {
    /// Reads the sources of `how`, their paths relative to `root`.
    pub(super) fn read(how: &Pretrain, root: &Path) -> Result<Self> {
        let mut all = Documents {
            text: Vec::new(),
            rows: Vec::new(),
            held: Vec::new(),
            avoided: 0,
        };
        let avoid: Vec<_> = how.avoid.iter().map(|path| root.join(path)).collect();
        let reserved = Reserved::read(avoid.iter().map(|path| path.as_path()))?;
        let mut avoided = 0;
        let mut clean = |mut documents: Vec<Document>| {
            let before = documents.len();
            documents.retain(|document| !reserved.touches(&document.text));
            avoided += before - documents.len();
            documents
        };
        for path in &how.text {
            let (kept, held) = part(clean(plain(how, &root.join(path))?), how.hold_out);
            for (i, document) in kept.iter().enumerate() {
                let mut rng = Rng::named(how.seed, &format!("questions {}", all.text.len() + i));
                let asked = questions::about(&document.text, how.questions, &mut rng);
                all.rows.extend(asked.into_iter().map(Document::whole));
            }
            all.text.extend(kept);
            all.held.extend(held);
        }
        // Questions are made afresh for every document: they are not repeated.
        all.text.append(&mut all.rows);
        for (paths, answered) in [(&how.tasks, true), (&how.prompts, false)] {
            for path in paths {
                let mut own = rows(&root.join(path), answered)?;
                if answered {
                    own = clean(own);
                    own.truncate(how.task_rows.unwrap_or(own.len()));
                }
                let (kept, held) = part(own, how.hold_out);
                all.rows.extend(kept);
                all.held.extend(held);
            }
        }
        all.avoided = avoided;
        // The same row may stand in two files.
        let held: BTreeSet<&Document> = all.held.iter().collect();
        let mut seen = BTreeSet::new();
        all.rows
            .retain(|row| !held.contains(row) && seen.insert(row.clone()));
        Ok(all)
    }
}

impl Document {
    fn whole(text: String) -> Self {
        Document { text, ends: true }
    }
}

/// All but the last of `every` parts, and that part.
fn part(mut all: Vec<Document>, every: usize) -> (Vec<Document>, Vec<Document>) {
    let held = all.split_off(all.len() - all.len() / every);
    (all, held)
}

/// Documents of a plain text file, in its order.
fn plain(how: &Pretrain, path: &Path) -> Result<Vec<Document>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let text = String::from_utf8_lossy(&bytes[..how.text_bytes.min(bytes.len())]);
    let mut all = Vec::new();
    let mut document = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        document.push_str(&words.join(" "));
        if document.len() >= DOCUMENT {
            all.push(Document::whole(std::mem::take(&mut document)));
        } else {
            document.push('\n');
        }
    }
    Ok(all)
}

/// The training rows of a task, in their order: prompt and answer, or the prompt alone. They are
/// joined as for training an expert, end-of-text left to the tokens.
fn rows(path: &Path, answered: bool) -> Result<Vec<Document>> {
    let one = |example: lyceum::data::Example| {
        let target = if answered { &example.target } else { "" };
        let (source, label) = join(&example.source, target, "", true);
        Document {
            text: if answered { source + &label } else { source },
            ends: answered,
        }
    };
    let all = Dataset::open(path)?.examples.into_iter();
    Ok(all.filter(|e| e.split == Split::Train).map(one).collect())
}
