//! The header fields of the responses about one file, made once.

/// Whole fields, each with its line's end, so ordered that each kind of response takes what is its
/// own in one piece.
#[derive(Debug)]
pub(crate) struct Fields {
    text: String,
    type_end: usize,
    shared_start: usize,
    shared_end: usize,
}

impl Fields {
    /// `Content-Type`'s value; the fields about the representation; those that a 304 has, too
    /// (RFC 9110, 15.4.5); and those that each response of the server has.
    pub(crate) fn new(
        content_type: &str,
        representation: &str,
        shared: &str,
        always: &str,
    ) -> Fields {
        let mut text = format!("Content-Type: {content_type}\r\n");
        let type_end = text.len();
        text.push_str(representation);
        let shared_start = text.len();
        text.push_str(shared);
        let shared_end = text.len();
        text.push_str(always);
        Fields {
            text,
            type_end,
            shared_start,
            shared_end,
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> &str {
        &self.text
    }

    /// `Content-Type`.
    pub(crate) fn content_type(&self) -> &str {
        &self.text[..self.type_end]
    }

    /// All others.
    pub(crate) fn without_type(&self) -> &str {
        &self.text[self.type_end..]
    }

    /// Those that a 304 has, without those that each response has.
    pub(crate) fn not_modified(&self) -> &str {
        &self.text[self.shared_start..self.shared_end]
    }
}
