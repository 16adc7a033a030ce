//! Which columns a file has, of which types.
//!
//! <https://github.com/apache/arrow/blob/main/format/Schema.fbs>

use super::flat::Table;
use crate::error::{Error, Result};
use crate::table::TextColumn;

/// Deepest nesting of columns that is read.
const DEPTH: usize = 32;
/// A column takes so many bytes of its message at least.
const FIELD: usize = 16;

/// A column, or what it is made of.
#[derive(Debug)]
pub(super) struct Field {
    name: String,
    pub(super) kind: Kind,
    /// The dictionary its values are in, and how the places in it are kept.
    pub(super) dictionary: Option<Dictionary>,
    pub(super) children: Vec<Field>,
}

/// A type, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Texts, between offsets of eight bytes or four.
    Text { wide: bool },
    /// Texts of which only the short ones lie in their column.
    View,
    /// Lists, between offsets of eight bytes or four.
    List { wide: bool },
    /// Nothing but nulls.
    Null,
    /// A column that is skipped: its type's name, its number of buffers, and `true` if it has
    /// variadic buffers as well.
    Other {
        name: &'static str,
        buffers: usize,
        variadic: bool,
    },
}

/// A dictionary's use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dictionary {
    pub(super) id: i64,
    /// Bytes of an index.
    pub(super) width: usize,
    pub(super) signed: bool,
}

/// The number of nodes, buffers and variadic counts that a column occupies in a batch.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Span {
    pub(super) nodes: usize,
    pub(super) buffers: usize,
    pub(super) variadic: usize,
}

impl Span {
    pub(super) fn and(self, other: Span) -> Span {
        Span {
            nodes: self.nodes + other.nodes,
            buffers: self.buffers + other.buffers,
            variadic: self.variadic + other.variadic,
        }
    }
}

impl Field {
    /// The nodes and buffers of the column itself, without its children.
    pub(super) fn own(&self) -> Span {
        let (buffers, variadic) = match (self.dictionary, self.kind) {
            (Some(_), _) => (2, false),
            (None, Kind::Text { .. }) => (3, false),
            (None, Kind::View) => (2, true),
            (None, Kind::List { .. }) => (2, false),
            (None, Kind::Null) => (0, false),
            (
                None,
                Kind::Other {
                    buffers, variadic, ..
                },
            ) => (buffers, variadic),
        };
        Span {
            nodes: 1,
            buffers,
            variadic: variadic.into(),
        }
    }

    fn span(&self) -> Span {
        match self.dictionary {
            Some(_) => self.own(),
            None => { self.children.iter() }.fold(self.own(), |sum, child| sum.and(child.span())),
        }
    }

    /// Its values, as the batches of its dictionary hold them.
    pub(super) fn values(&self) -> Field {
        Field {
            name: self.name.clone(),
            kind: self.kind,
            dictionary: None,
            children: Vec::new(),
        }
    }

    fn is_text(&self) -> bool {
        matches!(self.kind, Kind::Text { .. } | Kind::View)
    }

    /// Returns `true` for a column of texts, or of lists of texts.
    fn is_read(&self) -> bool {
        match (&self.dictionary, self.kind, &self.children[..]) {
            (None, Kind::List { .. }, [item]) => item.is_text(),
            _ => self.is_text(),
        }
    }
}

/// The columns of a file.
#[derive(Debug)]
pub(super) struct Schema {
    fields: Vec<Field>,
    /// The columns that are wanted, in their order: which field it is, and where it begins.
    pub(super) used: Vec<Option<(usize, Span)>>,
}

impl Schema {
    pub(super) fn read(header: &Table<'_>, wanted: &[TextColumn<'_>]) -> Result<Self> {
        if header.i16(0)?.unwrap_or_default() != 0 {
            return Err(Error::unsupported(
                "its numbers are big-endian, which is not read",
            ));
        }
        let mut left = header.size() / FIELD;
        let fields = fields(header, 1, DEPTH, &mut left)?;
        let mut used = vec![None; wanted.len()];
        let mut start = Span::default();
        for (i, field) in fields.iter().enumerate() {
            let place = wanted.iter().position(|column| column.name == field.name);
            let place = place.and_then(|place| used.get_mut(place).zip(wanted.get(place)));
            if let Some((used, column)) = place {
                if used.replace((i, start)).is_some() {
                    return Err(format!("it has two columns `{}`", field.name).into());
                }
                check(field, column)?;
            }
            start = start.and(field.span());
        }
        for (column, used) in wanted.iter().zip(&mut used) {
            // A column of nothing but nulls is as good as none.
            let null =
                |(i, _): &(usize, Span)| fields.get(*i).is_some_and(|f| f.kind == Kind::Null);
            *used = used.filter(|used| !null(used));
            if column.required && used.is_none() {
                return Err(format!("no column `{}`", column.name).into());
            }
        }
        Ok(Schema { fields, used })
    }

    pub(super) fn field(&self, i: usize) -> Option<&Field> {
        self.fields.get(i)
    }

    /// A field whose values are in the dictionary `id`, if they are used.
    pub(super) fn dictionary(&self, id: i64) -> Option<&Field> {
        let used = self
            .used
            .iter()
            .flatten()
            .filter_map(|(i, _)| self.fields.get(*i));
        let mut all = used.flat_map(|field| [field].into_iter().chain(&field.children));
        all.find(|field| {
            field
                .dictionary
                .is_some_and(|dictionary| dictionary.id == id)
        })
    }
}

fn check(field: &Field, wanted: &TextColumn<'_>) -> Result<()> {
    let plain = field.kind == Kind::Null || (field.is_read() && (wanted.list || field.is_text()));
    if plain {
        return Ok(());
    }
    let kind = match field.kind {
        Kind::List { .. } => "lists",
        Kind::Other { name, .. } => name,
        _ => "dictionaries of another form",
    };
    let (name, types) = (wanted.name, wanted.types());
    Err(format!("column `{name}` holds {kind}; expected {types}").into())
}

/// The fields in the vector `i` of `table`; at most `left` of them in all.
fn fields(table: &Table<'_>, i: usize, depth: usize, left: &mut usize) -> Result<Vec<Field>> {
    let Some(listed) = table.vector(i, 4)? else {
        return Ok(Vec::new());
    };
    let mut fields = Vec::new();
    for i in 0..listed.len {
        *left = left
            .checked_sub(1)
            .ok_or("its schema lists columns more often than they are there")?;
        let depth = depth
            .checked_sub(1)
            .ok_or("its columns are nested too deep")?;
        fields.push(field(&listed.table(i)?, depth, left)?);
    }
    Ok(fields)
}

fn field(table: &Table<'_>, depth: usize, left: &mut usize) -> Result<Field> {
    let dictionary = table.table(4)?.map(|encoding| {
        let index = encoding.table(1)?;
        let bits = index.map(|index| index.i32(0)).transpose()?.flatten();
        let signed = index.map(|index| index.u8(1)).transpose()?.flatten();
        let (bits, signed) = match index {
            // What it is where it is not said.
            None => (32, true),
            Some(_) => (bits.unwrap_or_default(), signed == Some(1)),
        };
        Ok::<_, Error>(Dictionary {
            id: encoding.i64(0)?.unwrap_or_default(),
            width: match bits {
                8 | 16 | 32 | 64 => bits as usize / 8,
                _ => return Err(format!("it has a dictionary with indices of {bits} bits").into()),
            },
            signed,
        })
    });
    Ok(Field {
        name: table.text(0)?.unwrap_or_default().to_owned(),
        kind: kind(table)?,
        dictionary: dictionary.transpose()?,
        children: fields(table, 5, depth, left)?,
    })
}

fn kind(table: &Table<'_>) -> Result<Kind> {
    let other = |name, buffers| Kind::Other {
        name,
        buffers,
        variadic: false,
    };
    Ok(match table.u8(2)?.unwrap_or_default() {
        1 => Kind::Null,
        2 => other("integers", 2),
        3 => other("floats", 2),
        4 | 19 => other("bytes", 3),
        5 => Kind::Text { wide: false },
        6 => other("truth values", 2),
        7 => other("decimals", 2),
        8..=10 => other("times", 2),
        11 | 18 => other("durations", 2),
        12 => Kind::List { wide: false },
        13 => other("structs", 1),
        14 => {
            let dense = table
                .table(3)?
                .map(|union| union.i16(0))
                .transpose()?
                .flatten();
            other("unions", if dense == Some(1) { 2 } else { 1 })
        }
        15 => other("bytes", 2),
        16 => other("lists of one length", 1),
        17 => other("maps", 2),
        20 => Kind::Text { wide: true },
        21 => Kind::List { wide: true },
        22 => other("runs", 0),
        23 => Kind::Other {
            name: "bytes",
            buffers: 2,
            variadic: true,
        },
        24 => Kind::View,
        25 | 26 => other("views of lists", 3),
        kind => return Err(format!("it has a column of the unknown type {kind}").into()),
    })
}
