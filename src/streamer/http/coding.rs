//! Content codings of files that stand ready compressed beside their originals, and which of them
//! a client takes (RFC 9110, sections 8.4.1 and 12.5.3).

use super::quality;

/// A content coding, in the order in which they are preferred: by how small they usually make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coding {
    Brotli,
    Zstandard,
    Gzip,
}

impl Coding {
    pub(crate) const ALL: [Coding; 3] = [Coding::Brotli, Coding::Zstandard, Coding::Gzip];

    /// Its name in `Content-Encoding`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Zstandard => "zstd",
            Coding::Gzip => "gzip",
        }
    }

    /// What is behind the original's name in that of the compressed file.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Coding::Brotli => ".br",
            Coding::Zstandard => ".zst",
            Coding::Gzip => ".gz",
        }
    }
}

/// How much a client likes each coding, in thousandths. What it takes by default: nothing but the
/// file as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Accepted {
    codings: [u16; 3],
    identity: u16,
}

impl Accepted {
    /// Reads `Accept-Encoding`.
    pub(crate) fn parse(header: &[u8]) -> Accepted {
        // What is not named has the quality of `*`, if that is.
        let mut named = [None; 3];
        let (mut identity, mut rest) = (None, None);
        for (name, quality) in quality::list(header) {
            let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
            if let Some(at) = Coding::ALL.iter().position(|c| is(c.name())) {
                named[at] = Some(quality);
            } else if is("x-gzip") {
                named[2] = Some(quality);
            } else if is("identity") {
                identity = Some(quality);
            } else if is("*") {
                rest = Some(quality);
            }
        }
        Accepted {
            codings: named.map(|quality| quality.or(rest).unwrap_or(0)),
            identity: identity.unwrap_or(0),
        }
    }

    /// The best of those that there are; `None` for the file as it is.
    pub(crate) fn best<T>(&self, there: &[(Coding, T)]) -> Option<usize> {
        let quality = |coding: Coding| self.codings[coding as usize];
        let mut best = None;
        for (at, (coding, _)) in there.iter().enumerate() {
            let quality = quality(*coding);
            let least = best.map_or(self.identity.max(1), |(_, best)| best + 1);
            if quality >= least {
                best = Some((at, quality));
            }
        }
        best.map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_what_the_client_likes_best() {
        use Coding::{Brotli, Gzip, Zstandard};
        let all = &Coding::ALL[..];
        for (header, there, best) in [
            ("", all, None),
            ("gzip", all, Some(Gzip)),
            ("x-gzip", all, Some(Gzip)),
            ("GZIP, deflate, br, zstd", all, Some(Brotli)),
            (
                "gzip, deflate, br, zstd",
                &[Zstandard, Gzip],
                Some(Zstandard),
            ),
            ("gzip, deflate, br, zstd", &[], None),
            ("gzip;q=0.8, br;q=0.5", all, Some(Gzip)),
            ("gzip;q=0.8, br;q=0.5", &[Brotli], Some(Brotli)),
            ("br;q=0", all, None),
            ("*", all, Some(Brotli)),
            ("*, br;q=0", all, Some(Zstandard)),
            ("*;q=0", all, None),
            ("identity, gzip", all, Some(Gzip)),
            ("identity, gzip;q=0.5", all, None),
            ("identity;q=0.5, gzip", all, Some(Gzip)),
            ("identity;q=0, gzip;q=0.001", all, Some(Gzip)),
            ("deflate, compress", all, None),
            ("gzipx", all, None),
            ("gzip;q=x", all, None),
        ] {
            let there: Vec<_> = there.iter().map(|c| (*c, ())).collect();
            let accepted = Accepted::parse(header.as_bytes());
            let chosen = accepted.best(&there).map(|at| there[at].0);
            assert_eq!(chosen, best, "{header}");
        }
    }
}
