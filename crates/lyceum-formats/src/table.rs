//! Tables of texts: the columns that are asked for, and the rows that are read.

/// A column to read: texts, or lists of texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextColumn<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// Fail when the file does not have it.
    pub required: bool,
    /// A row may hold a list of texts instead of one.
    pub list: bool,
}

impl TextColumn<'_> {
    /// The types it may have, for messages.
    pub(crate) fn types(&self) -> &'static str {
        match self.list {
            true => "texts or lists of texts",
            false => "texts",
        }
    }
}

/// Rows of `N` columns in the order they were asked for. A cell that is null or whose column is
/// absent holds no text; a list holds any number.
pub type Batch<const N: usize> = Vec<[Vec<String>; N]>;
