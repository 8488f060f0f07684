//! Tables for people.

use std::fmt;

/// Writes rows below their headings, each column as wide as its widest cell.
pub fn write<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    headings: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> fmt::Result {
    let rows: Vec<[String; N]> = std::iter::once(headings.map(str::to_owned))
        .chain(rows)
        .collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in rows {
        let cells = widths.iter().zip(row);
        let line: String = cells
            .map(|(width, cell)| format!("{cell:<width$}  "))
            .collect();
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}
