//! What an operator wants of the responses, besides the files as they are.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;
use globset::{GlobBuilder, GlobMatcher};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::head::content_type;
use super::path;

/// What a server does with what it finds. By default: it sends files, and `index.html` for their
/// directory; it lists nothing, and names that begin with a dot are not found.
#[derive(Clone, Debug, Default)]
pub struct Site {
    pub(crate) list: bool,
    pub(crate) hidden: bool,
    pub(crate) precompressed: bool,
    pub(crate) fallback: Option<Vec<u8>>,
    cache_control: Vec<(Option<Pattern>, String)>,
    downloads: Vec<Pattern>,
    cors: bool,
    /// Fields of each response, each with its line's end.
    always: String,
    error_pages: Vec<(u16, ErrorPage)>,
}

/// What stands in the place of a status in words.
#[derive(Clone, Debug)]
pub(crate) struct ErrorPage {
    pub(crate) content_type: String,
    pub(crate) body: Bytes,
}

/// The longest error page, in bytes.
const MAX_ERROR_PAGE: usize = 1 << 20;

impl Site {
    /// The defaults.
    pub fn new() -> Site {
        Site::default()
    }

    /// Directories without an index are listed, as HTML or, for who prefers it by `Accept`, JSON.
    pub fn list(mut self, yes: bool) -> Site {
        self.list = yes;
        self
    }

    /// Names that begin with a dot are served, and listed, as others are. Without it they are not
    /// found, but for `/.well-known/` (RFC 8615).
    pub fn hidden(mut self, yes: bool) -> Site {
        self.hidden = yes;
        self
    }

    /// Beside a file `a`, the files `a.br`, `a.zst` and `a.gz` are taken for the same, compressed;
    /// who accepts a coding gets that one. They are not made, and it is not looked whether they are
    /// as new as the original.
    pub fn precompressed(mut self, yes: bool) -> Site {
        self.precompressed = yes;
        self
    }

    /// What is not found, and has no dot in the last part of its path, gets this file, with 200:
    /// for applications that do their own routing.
    ///
    /// # Errors
    /// Where this is no path below the directory; the error says so.
    pub fn fallback(mut self, file: &str) -> Result<Site, String> {
        let file = file.trim_start_matches('/');
        let normal = path::normalize(format!("/{file}").as_bytes())
            .ok()
            .filter(|path| !path.is_empty() && !path.ends_with(b"/"))
            .map(|path| path.into_owned());
        let wrong = || format!("{file:?} names no file below the directory");
        self.fallback = Some(normal.ok_or_else(wrong)?);
        Ok(self)
    }

    /// `Cache-Control` for the files that fit a pattern, or, with none, for all others. The first
    /// pattern that fits counts. See [`download`](Site::download) on patterns.
    ///
    /// # Errors
    /// Where the pattern is none, or the value none of a header field; the error says so.
    pub fn cache_control(mut self, pattern: Option<&str>, value: &str) -> Result<Site, String> {
        let pattern = pattern.map(Pattern::new).transpose()?;
        check_value(value)?;
        self.cache_control.push((pattern, value.to_owned()));
        Ok(self)
    }

    /// Files that fit the pattern are to be saved rather than shown (`Content-Disposition:
    /// attachment`). `*` stands for anything but a slash, `**` for anything, `?`, `[a-z]` and
    /// `{a,b}` as usual; a pattern without a slash is for names in all directories, another for
    /// paths from the served directory on.
    ///
    /// # Errors
    /// Where the pattern is none; the error says so.
    pub fn download(mut self, pattern: &str) -> Result<Site, String> {
        self.downloads.push(Pattern::new(pattern)?);
        Ok(self)
    }

    /// Pages of this origin (`*`: of all) may read the responses (Fetch standard, CORS protocol).
    ///
    /// # Errors
    /// Where this is none; the error says so.
    pub fn cors(mut self, origin: &str) -> Result<Site, String> {
        let plain = |c: char| c.is_ascii_graphic() && c != ',';
        let (scheme, host) = origin.split_once("://").unwrap_or_default();
        let named = !scheme.is_empty() && !host.is_empty() && !host.contains('/');
        if origin != "*" && !(named && origin.chars().all(plain)) {
            return Err(format!(
                "{origin:?} is no origin: use * or one like https://example.org"
            ));
        }
        self.cors = true;
        // A String grows: this can't fail.
        let _ = write!(
            self.always,
            "Access-Control-Allow-Origin: {origin}\r\n\
             Access-Control-Expose-Headers: Accept-Ranges, Content-Encoding, Content-Length, \
             Content-Range, ETag\r\n"
        );
        Ok(self)
    }

    /// A field of every response.
    ///
    /// # Errors
    /// Where name or value are none of a header field, or the field is the server's own; the error
    /// says so.
    pub fn header(mut self, name: &str, value: &str) -> Result<Site, String> {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(format!("{name:?} is no name of a header field"));
        }
        if OWN.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return Err(format!("{name} is told by the server itself"));
        }
        check_value(value)?;
        let _ = write!(self.always, "{name}: {value}\r\n");
        Ok(self)
    }

    /// The content of responses with this status that bring no file. `name` tells its type.
    ///
    /// # Errors
    /// Where the status is none of an error, or the content longer than 1 MiB; the error says so.
    pub fn error_page(
        mut self,
        status: u16,
        name: &str,
        content: impl Into<Bytes>,
    ) -> Result<Site, String> {
        if !(400..=599).contains(&status) {
            return Err(format!("{status} is no status of an error: 400 to 599 are"));
        }
        let body = content.into();
        if body.len() > MAX_ERROR_PAGE {
            return Err(format!(
                "an error page of {} bytes is too long: at most {MAX_ERROR_PAGE}",
                body.len()
            ));
        }
        let content_type = content_type(name.as_bytes());
        let page = ErrorPage { content_type, body };
        self.error_pages.push((status, page));
        Ok(self)
    }

    pub(crate) fn page_for(&self, status: u16) -> Option<&ErrorPage> {
        let mut pages = self.error_pages.iter();
        pages.find(|(of, _)| *of == status).map(|(_, page)| page)
    }

    /// Fields of each response, each with its line's end.
    pub(crate) fn always(&self) -> &str {
        &self.always
    }

    /// Fields for who asks what may be asked; `put` where uploads are offered, which no other
    /// origin's pages may make.
    pub(crate) fn options(&self, put: bool) -> &'static str {
        macro_rules! cors {
            ($allow:literal) => {
                concat!(
                    $allow,
                    "Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n\
                     Access-Control-Allow-Headers: Range, If-Range, If-Match, If-None-Match, \
                     If-Modified-Since, If-Unmodified-Since\r\n\
                     Access-Control-Max-Age: 86400\r\n"
                )
            };
        }
        match (put, self.cors) {
            (false, false) => "Allow: GET, HEAD, OPTIONS\r\n",
            (true, false) => "Allow: GET, HEAD, PUT, OPTIONS\r\n",
            (false, true) => cors!("Allow: GET, HEAD, OPTIONS\r\n"),
            (true, true) => cors!("Allow: GET, HEAD, PUT, OPTIONS\r\n"),
        }
    }

    /// Adds the fields that caches are to know (RFC 9110, 15.4.5).
    pub(crate) fn add_shared(&self, path: &[u8], fields: &mut String) {
        if self.precompressed {
            fields.push_str("Vary: Accept-Encoding\r\n");
        }
        let rules = self.cache_control.iter();
        let fits = rules.filter(|(pattern, _)| pattern.as_ref().is_none_or(|p| p.fits(path)));
        // A rule for all comes last.
        if let Some((_, value)) = fits.min_by_key(|(pattern, _)| pattern.is_none()) {
            let _ = write!(fields, "Cache-Control: {value}\r\n");
        }
    }

    /// Adds the fields about how a file is to be used.
    pub(crate) fn add_disposition(&self, path: &[u8], fields: &mut String) {
        if !self.downloads.iter().any(|pattern| pattern.fits(path)) {
            return;
        }
        let name = String::from_utf8_lossy(path::last(path));
        let plain = |c: char| match c {
            '"' | '\\' => '_',
            c if c.is_ascii_graphic() || c == ' ' => c,
            _ => '_',
        };
        let ascii: String = name.chars().map(plain).collect();
        let _ = write!(
            fields,
            "Content-Disposition: attachment; filename=\"{ascii}\""
        );
        if ascii != name {
            // RFC 8187.
            let whole = utf8_percent_encode(&name, NON_ALPHANUMERIC);
            let _ = write!(fields, "; filename*=UTF-8''{whole}");
        }
        fields.push_str("\r\n");
    }

    /// Whether a path below the directory may not be asked for.
    pub(crate) fn hides(&self, path: &[u8]) -> bool {
        let path = match path.strip_prefix(b".well-known") {
            Some(rest @ ([] | [b'/', ..])) => rest,
            _ => path,
        };
        !self.hidden
            && path
                .split(|b| *b == b'/')
                .any(|name| name.starts_with(b"."))
    }
}

/// Fields that say what the server knows better.
const OWN: [&str; 14] = [
    "Accept-Ranges",
    "Allow",
    "Connection",
    "Content-Encoding",
    "Content-Length",
    "Content-Range",
    "Content-Type",
    "Date",
    "ETag",
    "Last-Modified",
    "Location",
    "Server",
    "Trailer",
    "Transfer-Encoding",
];

fn check_value(value: &str) -> Result<(), String> {
    let printable = |b: u8| matches!(b, b'\t' | b' '..=b'~' | 0x80..);
    if value.trim() != value || value.is_empty() || !value.bytes().all(printable) {
        return Err(format!("{value:?} is no value of a header field"));
    }
    Ok(())
}

/// Which files something is for.
#[derive(Clone, Debug)]
struct Pattern {
    glob: GlobMatcher,
    /// It is for names, wherever they stand.
    name: bool,
}

impl Pattern {
    fn new(pattern: &str) -> Result<Pattern, String> {
        let text = pattern.strip_prefix('/').unwrap_or(pattern);
        let glob = GlobBuilder::new(text).literal_separator(true).build();
        let glob = glob.map_err(|e| format!("{pattern:?} is no pattern: {}", e.kind()))?;
        Ok(Pattern {
            glob: glob.compile_matcher(),
            name: !pattern.contains('/'),
        })
    }

    fn fits(&self, path: &[u8]) -> bool {
        let what = if self.name { path::last(path) } else { path };
        self.glob.is_match(Path::new(OsStr::from_bytes(what)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_for_names_or_paths() {
        for (pattern, path, fits) in [
            ("*.css", "a.css", true),
            ("*.css", "d/e/a.css", true),
            ("*.css", "a.css.map", false),
            ("*.{css,js}", "d/a.js", true),
            ("d/*.css", "d/a.css", true),
            ("d/*.css", "d/e/a.css", false),
            ("d/**", "d/e/a.css", true),
            ("/a", "a", true),
            ("/a", "d/a", false),
            ("a?", "ab", true),
        ] {
            assert_eq!(
                Pattern::new(pattern).unwrap().fits(path.as_bytes()),
                fits,
                "{pattern}"
            );
        }
        assert!(Pattern::new("[a").is_err());
    }

    #[test]
    fn the_rule_that_fits_best_says_how_long_to_keep() {
        let site = Site::new()
            .cache_control(None, "no-cache")
            .and_then(|s| s.cache_control(Some("*.css"), "max-age=1"))
            .and_then(|s| s.cache_control(Some("d/**"), "max-age=2"))
            .unwrap();
        let of = |path: &[u8]| {
            let mut fields = String::new();
            site.add_shared(path, &mut fields);
            fields
        };
        assert_eq!(of(b"a"), "Cache-Control: no-cache\r\n");
        assert_eq!(of(b"d/a.css"), "Cache-Control: max-age=1\r\n");
        assert_eq!(of(b"d/a"), "Cache-Control: max-age=2\r\n");
    }

    #[test]
    fn tells_names_to_save_under() {
        let site = Site::new().download("*").unwrap();
        for (path, value) in [
            ("d/a b.txt", "attachment; filename=\"a b.txt\""),
            (
                "a\"\r\nb",
                "attachment; filename=\"a___b\"; filename*=UTF-8''a%22%0D%0Ab",
            ),
            (
                "\u{fc}",
                "attachment; filename=\"_\"; filename*=UTF-8''%C3%BC",
            ),
        ] {
            let mut fields = String::new();
            site.add_disposition(path.as_bytes(), &mut fields);
            assert_eq!(fields, format!("Content-Disposition: {value}\r\n"));
        }
    }

    #[test]
    fn hides_names_with_a_dot_first() {
        let site = Site::new();
        for (path, hides) in [
            ("a", false),
            ("a.b", false),
            (".git/config", true),
            ("d/.a", true),
            (".well-known/acme-challenge/x", false),
            (".well-known/.x", true),
            (".well-knownx", true),
            ("d/.well-known/x", true),
        ] {
            assert_eq!(site.hides(path.as_bytes()), hides, "{path}");
            assert!(!Site::new().hidden(true).hides(path.as_bytes()));
        }
    }

    #[test]
    fn takes_nothing_that_is_none() {
        let site = Site::new;
        assert!(site().header("X y", "z").is_err());
        assert!(site().header("", "z").is_err());
        assert!(site().header("X", "a\r\nY: b").is_err());
        assert!(site().header("content-length", "5").is_err());
        assert!(site().cache_control(None, "").is_err());
        assert!(site().cors("example.org").is_err());
        assert!(site().cors("https://example.org/").is_err());
        assert!(site().cors("https://example.org:8000").is_ok());
        assert!(site().fallback("../a").is_err());
        assert!(site().fallback("").is_err());
        assert!(site().fallback("d/").is_err());
        assert!(site().error_page(200, "a.html", "").is_err());
        let long = vec![0; MAX_ERROR_PAGE + 1];
        assert!(site().error_page(404, "a.html", long).is_err());
    }
}
