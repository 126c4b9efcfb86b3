//! [`ServerStats`]: what a server did, as plain numbers.

/// What a [`Server`](super::Server) has done since it was made, beside what its observers are told.
///
/// Counted on the server's thread, without atomics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Files that are kept open between requests.
    pub open_files: OpenFileStats,
    /// Files that clients put.
    pub uploads: UploadStats,
}

/// Of the files that are kept open between requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenFileStats {
    /// Those that are open now; a file and its compressed forms count as one.
    pub open: usize,
    /// Requests that found their file open, and unchanged.
    pub hits: u64,
    /// Requests whose file, or what else there might be at their path, had to be opened.
    pub misses: u64,
    /// Times that an open file was asked (fstat(2)) whether it had changed.
    pub checks: u64,
}

/// Of uploads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UploadStats {
    /// Those whose content was taken from the client. The ones that were refused before that are
    /// none of them.
    pub begun: u64,
    /// Those that are in their places.
    pub placed: u64,
    /// Those that came to nothing. What is neither this nor placed is under way.
    pub failed: u64,
}
