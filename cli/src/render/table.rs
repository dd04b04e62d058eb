//! Columns of text, two spaces apart, with colours that do not count for the width. Pure.

use crate::text::plain;

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    pub colored: bool,
}

/// What a cell means, not which colour it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Doubt,
    Title,
}

impl Paint {
    pub fn text(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Doubt => "33",
            Tone::Title => "1",
        };
        if self.colored { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// One cell. Control characters are taken out here, so that every table is safe for a terminal.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    pub fn toned(text: impl ToString, tone: Tone) -> Self {
        Self { tone, ..Self::left(text) }
    }

    pub fn left(text: impl ToString) -> Self {
        let text = plain(&text.to_string());
        Self { text: if text.is_empty() { "-".into() } else { text }, tone: Tone::Plain, right: false }
    }

    /// The same cell with another meaning.
    pub fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    pub fn right(text: impl ToString) -> Self {
        Self { right: true, ..Self::left(text) }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// A table with a title row. Rows may be shorter than the title.
#[derive(Clone, Debug)]
pub struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(titles: &[&'static str]) -> Self {
        Self { titles: titles.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The text, each line ended, no blanks at the ends of lines. A title stands as its column does.
    pub fn render(&self, paint: Paint) -> String {
        let titles: Vec<Cell> = self
            .titles
            .iter()
            .enumerate()
            .map(|(column, title)| Cell {
                text: (*title).to_owned(),
                tone: Tone::Title,
                right: self.rows.first().and_then(|row| row.get(column)).is_some_and(|cell| cell.right),
            })
            .collect();
        let all: Vec<&Vec<Cell>> = std::iter::once(&titles).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.titles.len())
            .map(|column| all.iter().filter_map(|row| row.get(column)).map(Cell::width).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in all {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(width - cell.width());
                let shown = paint.text(cell.tone, &cell.text);
                let last = column + 1 == row.len();
                if cell.right {
                    text.push_str(&pad);
                }
                text.push_str(&shown);
                if !last {
                    text.push_str(if cell.right { "" } else { &pad });
                    text.push_str("  ");
                }
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["NAME", "N", "WHY"]);
        table.row(vec![Cell::left("blue"), Cell::right(100), Cell::toned("fine", Tone::Good)]);
        table.row(vec![Cell::left("a-long-name"), Cell::right(7), Cell::left("")]);
        table
    }

    #[test]
    fn columns_align_and_lines_have_no_blanks_at_the_end() {
        let text = sample().render(Paint { colored: false });
        assert_eq!(text, "NAME           N  WHY\nblue         100  fine\na-long-name    7  -\n");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let text = sample().render(Paint { colored: true });
        let bare = text.replace("\u{1b}[1m", "").replace("\u{1b}[32m", "").replace("\u{1b}[0m", "");
        assert_eq!(bare, sample().render(Paint { colored: false }));
        assert!(text.contains("\u{1b}[32mfine\u{1b}[0m"));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&["A"]);
        table.row(vec![Cell::left("x\u{1b}[2J\ny")]);
        assert_eq!(table.render(Paint { colored: false }), "A\nx [2J y\n");
    }
}
