//! What a server without files answers with.

/// Pages that are made when they are asked for ([`Server::of_pages`](super::Server::of_pages)).
pub trait Pages: Send + Sync + 'static {
    /// The page at a path, which is decoded and has no leading `/`; `None` for 404. `accept` is what
    /// the client says it takes (RFC 9110, section 12.5.1), if it says so, as it came.
    ///
    /// Called on a worker thread, which it may hold up for a while; several may be called at a time.
    fn page(&self, path: &[u8], accept: Option<&[u8]>) -> Option<Page>;
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The content's media type, for the field `Content-Type`.
    pub content_type: &'static str,
    /// The content.
    pub body: Vec<u8>,
}
