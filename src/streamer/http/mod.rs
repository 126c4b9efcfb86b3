//! HTTP/1.1 (RFC 9110, 9111, 9112) as a protocol on the transport: bytes in, writes and files out.
//!
//! Nothing here submits operations or knows of the backends: what has to be opened, or done where
//! it may wait, is asked of the server's [`Shared`](super::server::Shared).

mod asked;
mod body;
mod cache;
mod choice;
mod coding;
mod connection;
mod date;
mod ends;
mod exchanges;
mod fields;
mod head;
mod host;
mod listing;
mod moment;
mod multipart;
mod path;
mod pending;
#[cfg(any(test, feature = "fuzzing"))]
pub mod properties;
mod quality;
mod range;
mod request;
mod respond;
mod responses;
mod site;
mod stamp;
mod status;
mod tag;
mod upload;

pub(super) use cache::{Cache, CacheCounts};
pub(super) use connection::{Connection, Http, Place};
pub(super) use date::DateCache;
pub(super) use moment::{Moment, Times};
pub(super) use responses::Responses;
pub use site::Site;

#[cfg(test)]
mod tests {
    /// The module's border: of all the proactor offers, HTTP knows the descriptor, by the name that
    /// the transport's own interface gives it.
    #[test]
    #[cfg_attr(miri, ignore = "of the source, not of what it does")]
    fn stands_on_the_transport_alone() {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/src/streamer/http");
        let files = |dir: &str| std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path());
        let mut paths: Vec<_> = files(here)
            .chain(files(&format!("{here}/listing")))
            .collect();
        paths.retain(|path| path.is_file());
        for path in paths {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text
                .lines()
                .map(|line| line.split("//").next().unwrap_or(""));
            for (number, line) in code.enumerate() {
                let name = concat!("proac", "tor");
                assert!(!line.contains(name), "{}:{}", path.display(), number + 1);
            }
        }
    }
}
