//! Several ranges in one response (RFC 9110, section 14.6).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// What stands around the parts of a `multipart/byteranges` body.
#[derive(Debug)]
pub(crate) struct Multipart {
    pub(crate) boundary: String,
    /// What stands before each part.
    pub(crate) heads: Vec<String>,
    /// What stands behind the last.
    pub(crate) end: String,
    /// The length of the body, parts included.
    pub(crate) length: u64,
}

impl Multipart {
    /// For the parts of a file of `size` bytes, `content_type` being its field, with line's end.
    pub(crate) fn new(content_type: &str, size: u64, parts: &[(u64, u64)]) -> Multipart {
        let boundary = boundary();
        let mut before = "";
        let head = |&(start, end): &(u64, u64)| {
            let last = end - 1;
            let lead = std::mem::replace(&mut before, "\r\n");
            format!(
                "{lead}--{boundary}\r\n{content_type}\
                 Content-Range: bytes {start}-{last}/{size}\r\n\r\n"
            )
        };
        let heads: Vec<String> = parts.iter().map(head).collect();
        let end = format!("\r\n--{boundary}--\r\n");
        let content: u64 = parts.iter().map(|(start, end)| end - start).sum();
        let around: usize = heads.iter().map(String::len).sum();
        let length = content + (around + end.len()) as u64;
        Multipart {
            boundary,
            heads,
            end,
            length,
        }
    }
}

/// A line that no file holds but by chance: who wrote the file can't know the process's keys.
fn boundary() -> String {
    let keys = RandomState::new();
    format!("{:016x}{:016x}", keys.hash_one(0), keys.hash_one(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_around_the_parts() {
        let parts = [(5, 6), (0, 3)];
        let Multipart {
            boundary,
            heads,
            end,
            length,
        } = Multipart::new("Content-Type: a/b\r\n", 10, &parts);
        let whole = format!("{}5{}012{end}", heads[0], heads[1]);
        let expected = format!(
            "--{boundary}\r\nContent-Type: a/b\r\nContent-Range: bytes 5-5/10\r\n\r\n5\r\n\
             --{boundary}\r\nContent-Type: a/b\r\nContent-Range: bytes 0-2/10\r\n\r\n012\r\n\
             --{boundary}--\r\n"
        );
        assert_eq!(whole, expected);
        assert_eq!(length, whole.len() as u64);
        let other = Multipart::new("", 10, &parts);
        assert_ne!(other.boundary, boundary);
    }
}
