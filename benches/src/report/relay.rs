//! The tables of relays and uploads.

use super::markdown::{after, bytes_moved, line};
use crate::relay::Row;
use crate::rounds::Figures;

/// Writes them, if there are any.
pub fn write(text: &mut String, figures: &Figures<Row>) {
    if figures.rows.is_empty() {
        return;
    }
    line(text, "\n## Relays and uploads\n");
    line(
        text,
        "A proxy between a source and a sink (both ways: the sum), and files that are received, over \
         what was there before, and not forced to the disk.",
    );
    let same = |a: &Row, b: &Row| a.title() == b.title();
    for cell in figures.rows.chunk_by(same) {
        line(text, &format!("\n### {}\n", cell[0].title()));
        bytes_moved(text, cell.iter().map(|r| &r.row));
    }
    after(text, figures);
}
