//! A file as its author wrote it.

/// The text of one file and the name that reports show for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceFile {
    /// The path as the author names it; shown, never opened.
    pub path: String,
    /// The whole text. Reading it, and refusing what is not UTF-8, is the caller's part.
    pub content: String,
}
