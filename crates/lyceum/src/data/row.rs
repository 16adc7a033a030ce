//! A row as files hold it, whatever their format, and what becomes of it.

use std::path::Path;

use lyceum_formats::{Batch, TextColumn};

use super::{Example, Split};
use crate::error::{Context, Error, Result};
use crate::file::unread;
use crate::name::Name;

/// The fields, and whether each must be there.
pub(super) const FIELDS: [(&str, bool); 6] = [
    ("source", true),
    ("target", true),
    ("task_name", true),
    ("split", false),
    ("task_source", false),
    ("template_type", false),
];

/// The fields as columns of a table.
pub(super) const COLUMNS: [TextColumn<'static>; FIELDS.len()] = {
    let mut columns = [TextColumn {
        name: "",
        required: false,
        list: false,
    }; FIELDS.len()];
    let mut i = 0;
    while i < FIELDS.len() {
        (columns[i].name, columns[i].required) = FIELDS[i];
        columns[i].list = i == TARGET;
        i += 1;
    }
    columns
};

/// The place of `target` among the fields.
const TARGET: usize = 1;

/// The texts of a row, field by field: any number in `target`, one or none in the others.
type Texts = [Vec<String>; FIELDS.len()];

/// A row. What is absent or null is empty.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) source: String,
    pub(super) target: Vec<String>,
    pub(super) task_name: String,
    pub(super) task_source: String,
    pub(super) template_type: String,
    pub(super) split: String,
}

impl From<Texts> for Row {
    fn from(texts: Texts) -> Self {
        let [source, target, task_name, split, task_source, template_type] = texts;
        let one = |texts: Vec<String>| texts.into_iter().next().unwrap_or_default();
        Row {
            source: one(source),
            target,
            task_name: one(task_name),
            task_source: one(task_source),
            template_type: one(template_type),
            split: one(split),
        }
    }
}

impl Row {
    /// `split` is where the row belongs unless it says so itself.
    pub(super) fn example(self, split: Option<Split>) -> Result<Example> {
        if self.source.trim().is_empty() {
            return Err(Error::invalid("`source` is empty"));
        }
        let target = { self.target.first().cloned() }
            .ok_or_else(|| Error::invalid("`target` is empty: it holds no text"))?;
        if self.task_name.is_empty() {
            return Err(Error::invalid("`task_name` is empty"));
        }
        // As MTTL cleans task names.
        let task: String = { self.task_name.chars() }
            .map(|c| if ":/-. ".contains(c) { '_' } else { c })
            .collect();
        let split = match (self.split.as_str(), split) {
            ("", Some(split)) => split,
            ("", None) => {
                return Err(Error::invalid(
                    "no `split`, and neither the file's name nor its folder's says one (train, \
                     validation, test)",
                ));
            }
            (own, _) => own.parse()?,
        };
        Ok(Example {
            source: self.source,
            target,
            references: self.target,
            task: Name::new(&task).context(|| "`task_name`".into())?,
            task_source: self.task_source,
            template_type: self.template_type,
            split,
        })
    }
}

/// Adds the rows of the table at `path`; those that do not say belong to `split`.
pub(super) fn add(
    table: impl Iterator<Item = lyceum_formats::Result<Batch<{ FIELDS.len() }>>>,
    path: &Path,
    split: Option<Split>,
    examples: &mut Vec<Example>,
) -> Result<()> {
    let mut number = 0;
    for batch in table {
        for row in batch.map_err(|e| unread(path.display(), e))? {
            number += 1;
            let at = || format!("{} row {number}", path.display());
            examples.push(Row::from(row).example(split).context(at)?);
        }
    }
    Ok(())
}

/// The rows of some files, and what was noticed on the way.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) examples: Vec<Example>,
    /// Files without rows among those that may hold some.
    pub(super) without: Vec<String>,
    /// The number of texts with an unpaired surrogate that was replaced, and the place of the
    /// first.
    broken: usize,
    first: String,
}

impl Rows {
    /// A text of the field `field` at `at` had an unpaired surrogate.
    pub(super) fn broke(&mut self, at: &str, field: &str) {
        if self.broken == 0 {
            self.first = format!("{at}, `{field}`");
        }
        self.broken += 1;
    }

    /// A note about replaced surrogates, in one line; `None` without any.
    pub(super) fn note(&self) -> Option<String> {
        let (first, texts) = match self.broken {
            0 => return None,
            1 => (&self.first, "1 text has".to_owned()),
            n => (&self.first, format!("{n} texts have")),
        };
        Some(format!(
            "{texts} an unpaired surrogate, read as U+FFFD; the first: \
             {first}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_targets_may_be_lists() {
        assert_eq!(FIELDS[TARGET].0, "target");
        for (column, field) in COLUMNS.iter().zip(FIELDS) {
            assert_eq!((column.name, column.required), field);
            assert_eq!(column.list, column.name == "target");
        }
    }
}
