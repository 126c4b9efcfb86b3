//! What the peers' HTTP servers share: the files of a directory, opened once with their response
//! heads ready and never looked at again, which is in the peers' favour; and the least of HTTP.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;

/// A file to be served.
pub struct Entry<F> {
    pub file: F,
    pub length: u64,
    pub head: String,
}

/// The files of a directory, by the path of their URL.
pub struct Site<F = File>(HashMap<String, Entry<F>>);

impl Site {
    pub fn open(dir: &Path) -> io::Result<Site> {
        let mut files = HashMap::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            let file = File::open(entry.path())?;
            let length = file.metadata()?.len();
            let url = format!("/{}", entry.file_name().to_string_lossy());
            let head = head(length);
            files.insert(url, Entry { file, length, head });
        }
        Ok(Site(files))
    }
}

impl<F> Site<F> {
    /// The file that `path` names.
    pub fn get(&self, path: &str) -> io::Result<&Entry<F>> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no file {path}"));
        self.0.get(path).ok_or_else(missing)
    }

    /// The same site with another kind of file.
    pub async fn map<G>(&self, to: impl AsyncFn(&F) -> io::Result<G>) -> io::Result<Site<G>> {
        let mut files = HashMap::new();
        for (url, entry) in &self.0 {
            let file = to(&entry.file).await?;
            let (length, head) = (entry.length, entry.head.clone());
            files.insert(url.clone(), Entry { file, length, head });
        }
        Ok(Site(files))
    }
}

/// The head of a response with a body of `length` bytes: the fields that `spliceport serve` sends,
/// as long as there, so that no reader has less to read. What they say never changes, which is in the
/// peers' favour.
pub fn head(length: u64) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nServer: benchmark/0.1.0.\r\nDate: Sun, 13 Sep 2020 12:26:40 GMT\r\n\
         Content-Type: application/octet-stream\r\n\
         Last-Modified: Sun, 13 Sep 2020 12:26:40 GMT\r\nAccept-Ranges: bytes\r\n\
         ETag: \"6b0da45b1a6d5ff2-{length:x}-97422a0c841c25e6\"\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// The path of the first request in `bytes`, and the request's length; nothing if it isn't whole.
pub fn request(bytes: &[u8]) -> io::Result<Option<(&str, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => Ok(Some((request.path.unwrap_or("/"), length))),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
    }
}
