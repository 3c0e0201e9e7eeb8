//! Tables as Go's `text/tabwriter` makes them with minimum width 8 and padding 4, every cell ended by a tab: scripts
//! that read upstream's tables read ours.

use std::fmt::Write;

const MIN_WIDTH: usize = 8;
const PADDING: usize = 4;

/// Lays out rows of the same number of cells; the first row is the heading. Every line ends with a newline.
pub(crate) fn render<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        (longest + PADDING).max(MIN_WIDTH)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    rows.iter().fold(String::new(), |mut text, row| {
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(text, "{cell:<width$}"); // a String takes everything
        }
        text.push('\n');
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_padded_as_by_tabwriter() {
        let rows = [["DIGEST", "SIZE", "IMAGE REF"], ["sha256:1", "123456", ""]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(
            render(&rows),
            "DIGEST      SIZE      IMAGE REF    \nsha256:1    123456                 \n"
        );
        assert_eq!(render(&rows[..1]), "DIGEST    SIZE    IMAGE REF    \n");
    }
}
