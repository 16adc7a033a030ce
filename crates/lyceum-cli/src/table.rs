//! Tables for people: columns as wide as their cells, narrowed to the terminal by eliding long names
//! in the middle. Into a pipe or a file every cell is written whole.

use console::{Term, measure_text_width, style};

/// Narrowest width of an elided column.
const NARROWEST: usize = 8;
/// Spaces between columns.
const GAP: usize = 2;

/// One column: its title and how its cells are laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    right: bool,
    elides: bool,
}

impl Column {
    /// Text on the left, elided where the terminal is narrow.
    pub(crate) const fn text(title: &'static str) -> Self {
        Column {
            title,
            right: false,
            elides: true,
        }
    }

    /// Numbers and other short cells on the right, never cut.
    pub(crate) const fn number(title: &'static str) -> Self {
        Column {
            title,
            right: true,
            elides: false,
        }
    }

    /// Short words on the left, never cut.
    pub(crate) const fn word(title: &'static str) -> Self {
        Column {
            title,
            right: false,
            elides: false,
        }
    }
}

/// Rows of cells under titles.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(columns: [Column; N], rows: impl IntoIterator<Item = [String; N]>) -> Self {
        Table {
            columns,
            rows: rows.into_iter().collect(),
        }
    }

    /// The table for stdout as it is.
    pub(crate) fn to_text(&self) -> String {
        self.within(terminal_width())
    }

    /// The table in lines of at most `width` columns where eliding can do it; of any when absent.
    fn within(&self, width: Option<usize>) -> String {
        let widths = self.widths(width);
        let titles = self.columns.map(|column| column.title.to_owned());
        let mut text = self.line(&titles, &widths, |cell| style(cell).bold().to_string());
        for row in &self.rows {
            text += &self.line(row, &widths, |cell| cell);
        }
        text
    }

    fn widths(&self, limit: Option<usize>) -> [usize; N] {
        let mut widths = self.columns.map(|column| measure_text_width(column.title));
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(measure_text_width(cell));
            }
        }
        let gaps = GAP * N.saturating_sub(1);
        let limit = limit.unwrap_or(usize::MAX);
        while widths.iter().sum::<usize>() + gaps > limit {
            // The widest that elides gives way.
            let widest = (0..N)
                .filter(|&i| self.columns[i].elides && widths[i] > NARROWEST)
                .max_by_key(|&i| widths[i]);
            let Some(widest) = widest else { break };
            widths[widest] -= 1;
        }
        widths
    }

    fn line(
        &self,
        cells: &[String; N],
        widths: &[usize; N],
        dress: impl Fn(String) -> String,
    ) -> String {
        let mut line = String::new();
        for (i, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let cell = match self.columns[i].elides {
                true => elided(cell, *width),
                false => cell.clone(),
            };
            let pad = " ".repeat(width.saturating_sub(measure_text_width(&cell)));
            let cell = dress(cell);
            match (self.columns[i].right, i + 1 == N) {
                (true, _) => line += &format!("{pad}{cell}"),
                (false, true) => line += &cell,
                (false, false) => line += &format!("{cell}{pad}"),
            }
            if i + 1 < N {
                line += &" ".repeat(GAP);
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// The width of the terminal behind stdout: `COLUMNS`, or what the terminal says; `None` into a pipe
/// or a file.
pub(crate) fn terminal_width() -> Option<usize> {
    let set = std::env::var("COLUMNS").ok();
    let set = set.and_then(|columns| columns.parse().ok());
    let asked = || Term::stdout().size_checked();
    set.or_else(|| asked().map(|(_, columns)| usize::from(columns)))
        .filter(|width| *width > 0)
}

/// `text` in at most `width` columns, its middle replaced by `…` where it is longer.
pub(crate) fn elided(text: &str, width: usize) -> String {
    if measure_text_width(text) <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    // Names of a family share their endings more often than their beginnings.
    let (head, tail) = (room - room / 3, room / 3);
    let taken = |chars: &mut dyn Iterator<Item = char>, room: usize| {
        let (mut taken, mut width) = (Vec::new(), 0);
        for c in chars {
            width += measure_text_width(c.encode_utf8(&mut [0; 4]));
            if width > room {
                break;
            }
            taken.push(c);
        }
        taken
    };
    let head: String = taken(&mut text.chars(), head).into_iter().collect();
    let tail: String = { taken(&mut text.chars().rev(), tail).into_iter().rev() }.collect();
    format!("{head}…{tail}")
}

/// A curve in one line of block characters, at most `width` of them: means over equal stretches of
/// `values`, from the least to the largest.
pub(crate) fn sparkline(values: &[f64], width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let n = values.len().min(width);
    let means: Vec<f64> = (0..n)
        .map(|i| {
            let stretch = &values[i * values.len() / n..(i + 1) * values.len() / n];
            stretch.iter().sum::<f64>() / stretch.len() as f64
        })
        .collect();
    let least = means.iter().copied().fold(f64::INFINITY, f64::min);
    let most = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let block = |mean: &f64| {
        let share = match most > least {
            true => (mean - least) / (most - least),
            false => 0.0,
        };
        // Not a number is drawn as the least.
        BLOCKS[((share * 7.0).round() as usize).min(7)]
    };
    means.iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let row = |name: &str, rank: &str, tasks: &str| [name, rank, tasks].map(str::to_owned);
        Table::new(
            [
                Column::text("name"),
                Column::number("rank"),
                Column::text("tasks"),
            ],
            [
                row("niv1_subtask018_mctaco_temporal_reasoning", "4", "a,b"),
                row("boolq", "16", "q"),
            ],
        )
    }

    #[test]
    fn cells_are_whole_where_there_is_room() {
        let text = table().within(None);
        assert!(text.contains("niv1_subtask018_mctaco_temporal_reasoning     4  a,b\n"));
        assert!(text.contains("boolq                                        16  q\n"));
    }

    #[test]
    fn lines_fit_the_terminal_and_keep_both_ends_of_names() {
        let text = table().within(Some(30));
        assert!(text.lines().all(|line| measure_text_width(line) <= 30));
        assert!(text.contains("niv1_subtas…oning"), "{text}");
        assert!(text.contains("boolq"));
    }

    #[test]
    fn text_is_elided_by_width_and_not_by_bytes() {
        assert_eq!(elided("überlänge", 9), "überlänge");
        assert_eq!(elided("überlänge", 5), "übe…e");
        assert_eq!(elided("漢字漢字", 7), "漢字…字");
        assert_eq!(elided("abc", 1), "…");
    }

    #[test]
    fn a_curve_goes_from_its_least_to_its_largest() {
        assert_eq!(sparkline(&[3.0, 2.0, 1.0], 10), "█▅▁");
        assert_eq!(sparkline(&[1.0; 100], 4), "▁▁▁▁");
        assert_eq!(sparkline(&[], 4), "");
        assert_eq!(sparkline(&[f64::NAN, 1.0], 4).chars().count(), 2);
    }
}
