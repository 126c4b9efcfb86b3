//! Reading a request's head.

use std::mem::MaybeUninit;

use httparse::{Header, Status as Progress};

use super::asked::{Asked, understand};
use super::body::Body;
use super::choice::Conditions;
use super::coding::Accepted;
use super::status::Status;
use super::upload::Put;

/// The longest target, in bytes; longer ones are answered with 414.
pub(crate) const MAX_TARGET: usize = 8 << 10;
/// The longest head, in bytes; longer ones are answered with 431.
pub(crate) const MAX_HEAD: usize = 16 << 10;
/// The most header fields; more are answered with 431.
const MAX_HEADERS: usize = 100;
/// The longest body that is read away for the sake of the connection.
pub(crate) const MAX_BODY: u64 = 64 << 10;

/// What the client wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Method {
    Get,
    Head,
    /// What may be done: answered by itself.
    Options,
    /// An upload, where that is offered.
    Put,
    /// One that HTTP knows and this server doesn't offer: 405.
    NotAllowed,
    /// 501.
    Unknown,
}

/// What becomes of the connection after the response, and what has to be said about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Persistence {
    /// It goes on, as is usual since HTTP/1.1.
    Keep,
    /// It goes on, for an HTTP/1.0 client that asked: it is told.
    KeepTold,
    /// It ends.
    Close,
}

/// What decides the response, besides the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    /// The header alone.
    pub(crate) head: bool,
    pub(crate) persistence: Persistence,
    /// Something of the client's may be unread when the response is sent.
    pub(crate) linger: bool,
    pub(crate) accepted: Accepted,
    /// `None` for the usual request, which makes none.
    pub(crate) conditions: Option<Box<Conditions>>,
}

impl Wanted {
    pub(crate) fn closes(&self) -> bool {
        self.persistence == Persistence::Close
    }
}

/// A request's head.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) target: &'a [u8],
    /// `Accept` and `Accept-Encoding`, which not all servers care about.
    pub(crate) accept: Option<&'a [u8]>,
    pub(crate) accept_encoding: Option<&'a [u8]>,
    pub(crate) wanted: Wanted,
    /// What follows it, to be read away. [`Wanted::closes`] where it is not worth that.
    pub(crate) body: Body,
    /// What only a PUT says.
    pub(crate) put: Option<Box<Put>>,
    /// The head's length, the empty line included.
    pub(crate) len: usize,
}

/// What a buffer begins with.
#[derive(Debug)]
pub(crate) enum Parsed<'a> {
    Complete(Request<'a>),
    /// The beginning of a head.
    Partial,
    /// Nothing that can be answered otherwise than with this status and the connection's end.
    Refused(Status),
}

/// Reads the head at the beginning of `input`. The empty line that may stand before it has been
/// taken off.
pub(crate) fn parse(input: &[u8]) -> Parsed<'_> {
    match input {
        b"\r" => return Parsed::Partial,
        [b'\r' | b'\n', ..] => return Parsed::Refused(Status::BAD_REQUEST),
        _ => {}
    }
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(input, &mut headers);
    match parsed {
        Ok(Progress::Complete(len)) => {
            let target = request.path.unwrap_or_default();
            if target.len() > MAX_TARGET {
                return Parsed::Refused(Status::URI_TOO_LONG);
            }
            if len > MAX_HEAD {
                return Parsed::Refused(Status::HEADERS_TOO_LARGE);
            }
            if !ends_lines_with_crlf(&input[..len], request.headers) {
                return Parsed::Refused(Status::BAD_REQUEST);
            }
            let method = match request.method.unwrap_or_default() {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                "OPTIONS" => Method::Options,
                "PUT" => Method::Put,
                "POST" | "DELETE" | "PATCH" | "TRACE" | "CONNECT" => Method::NotAllowed,
                _ => Method::Unknown,
            };
            let version = request.version.unwrap_or_default();
            let mut fields = Asked::default();
            let mut headers = request.headers.iter();
            let read = headers.try_for_each(|h| fields.take(method, h.name, h.value));
            match read.and_then(|()| understand(method, version, &mut fields)) {
                Ok((wanted, body, put)) => Parsed::Complete(Request {
                    method,
                    target: target.as_bytes(),
                    accept: fields.accept,
                    accept_encoding: fields.accept_encoding,
                    wanted,
                    body,
                    put,
                    len,
                }),
                Err(status) => Parsed::Refused(status),
            }
        }
        Ok(Progress::Partial) => match partial_too_long(input) {
            Some(status) => Parsed::Refused(status),
            None => Parsed::Partial,
        },
        Err(httparse::Error::TooManyHeaders) => Parsed::Refused(Status::HEADERS_TOO_LARGE),
        Err(httparse::Error::Version) if names_version(input) => {
            Parsed::Refused(Status::VERSION_NOT_SUPPORTED)
        }
        Err(_) => Parsed::Refused(Status::BAD_REQUEST),
    }
}

/// What begins with a request of a later minor version than ours, as one of HTTP/1.1, which is how
/// it is to be understood (RFC 9110, section 2.5). No more than can be a head.
pub(crate) fn as_ours(input: &[u8]) -> Option<Vec<u8>> {
    const LATER: &[u8] = b" HTTP/1.";
    let line = input.split(|b| *b == b'\r').next()?;
    let minor = line.windows(LATER.len()).position(|w| w == LATER)? + LATER.len();
    if !matches!(line[minor..], [b'2'..=b'9']) {
        return None;
    }
    let mut ours = input[..input.len().min(MAX_HEAD + 1)].to_vec();
    *ours.get_mut(minor)? = b'1';
    Some(ours)
}

/// Whether the request line ends in some version of HTTP.
fn names_version(input: &[u8]) -> bool {
    let line = input
        .trim_ascii_start()
        .split(|b| b"\r\n".contains(b))
        .next();
    let mut words = line.unwrap_or_default().split(|b| *b == b' ').skip(2);
    let version = words
        .next()
        .and_then(|version| version.strip_prefix(b"HTTP/"));
    let digits = version.is_some_and(|v| matches!(v, [b'0'..=b'9', b'.', b'0'..=b'9']));
    digits && words.next().is_none()
}

fn partial_too_long(input: &[u8]) -> Option<Status> {
    let line = input.trim_ascii_start();
    if line.len() > MAX_TARGET && !line[..MAX_TARGET].contains(&b'\n') {
        return Some(Status::URI_TOO_LONG);
    }
    (input.len() > MAX_HEAD).then_some(Status::HEADERS_TOO_LARGE)
}

/// Whether no line ends in LF alone, as RFC 9112, section 2.2 lets one take it: what stands before
/// us might have read such lines as one.
fn ends_lines_with_crlf(head: &[u8], headers: &[Header<'_>]) -> bool {
    let start = head.as_ptr() as usize;
    let starts = headers.iter().map(|h| h.name.as_ptr() as usize - start);
    // Each name stands at the beginning of a line.
    head.ends_with(b"\r\n\r\n") && starts.into_iter().all(|at| head[..at].ends_with(b"\r\n"))
}

#[cfg(test)]
mod tests {
    use super::super::choice::IfRange;
    use super::super::range::Ranges;
    use super::*;

    fn complete(text: &str) -> (Method, Wanted, Body) {
        match parse(text.as_bytes()) {
            Parsed::Complete(request) => {
                assert_eq!(request.len, text.len());
                (request.method, request.wanted, request.body)
            }
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    fn refused(text: &[u8]) -> Status {
        match parse(text) {
            Parsed::Refused(status) => status,
            other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(text)),
        }
    }

    fn fields(fields: &str) -> (Wanted, Body) {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let (_, wanted, body) = complete(&text);
        (wanted, body)
    }

    #[test]
    fn reads_a_head() {
        let text = b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\nGET /next";
        let Parsed::Complete(request) = parse(text) else {
            panic!("not complete");
        };
        assert_eq!(request.method, Method::Get);
        assert_eq!(request.target, b"/a?b");
        assert_eq!(&text[request.len..], b"GET /next");
        for end in 0..request.len {
            assert!(matches!(parse(&text[..end]), Parsed::Partial), "{end}");
        }
    }

    #[test]
    fn tells_methods() {
        let method = |name: &str| complete(&format!("{name} / HTTP/1.1\r\nHost: a\r\n\r\n")).0;
        assert_eq!(method("GET"), Method::Get);
        assert_eq!(method("HEAD"), Method::Head);
        assert_eq!(method("POST"), Method::NotAllowed);
        assert_eq!(method("OPTIONS"), Method::Options);
        assert_eq!(method("BREW"), Method::Unknown);
        assert_eq!(method("get"), Method::Unknown);
    }

    #[test]
    fn decides_persistence() {
        let of = |version: &str, connection: &str| {
            let text = format!("GET / {version}\r\nHost: a\r\n{connection}\r\n");
            complete(&text).1.persistence
        };
        assert_eq!(of("HTTP/1.1", ""), Persistence::Keep);
        assert_eq!(of("HTTP/1.1", "Connection: Close\r\n"), Persistence::Close);
        let listed = "Connection: upgrade , close\r\n";
        assert_eq!(of("HTTP/1.1", listed), Persistence::Close);
        assert_eq!(of("HTTP/1.0", ""), Persistence::Close);
        let keep = "Connection: Keep-Alive\r\n";
        assert_eq!(of("HTTP/1.0", keep), Persistence::KeepTold);
        assert_eq!(of("HTTP/1.1", keep), Persistence::Keep);
        let both = "Connection: keep-alive, close\r\n";
        assert_eq!(of("HTTP/1.0", both), Persistence::Close);
    }

    #[test]
    fn knows_body_lengths() {
        assert_eq!(fields("").1, Body::None);
        assert_eq!(fields("Content-Length: 0\r\n").1, Body::None);
        assert_eq!(fields("Content-Length: 5\r\n").1, Body::Length(5));
        assert_eq!(fields("Content-Length: 5, 5\r\n").1, Body::Length(5));
        assert!(!fields("Content-Length: 5\r\n").0.closes());
        assert!(fields("Content-Length: 65537\r\n").0.closes());
        let expects = "Expect: 100-Continue\r\n";
        assert!(
            fields(&format!("Content-Length: 5\r\n{expects}"))
                .0
                .closes()
        );
        assert!(!fields(expects).0.closes());
        for bad in ["-1", "+1", "", "1, 2", "1 2", "0x1", "18446744073709551616"] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {bad}\r\n\r\n");
            assert_eq!(refused(text.as_bytes()), Status::BAD_REQUEST, "{bad:?}");
        }
        let two = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(refused(two), Status::BAD_REQUEST);
    }

    #[test]
    fn knows_where_chunks_end_or_refuses_them() {
        let chunked = "Transfer-Encoding: Chunked\r\n";
        assert_eq!(fields(chunked).1, Body::chunked(MAX_BODY));
        assert!(!fields(chunked).0.closes());
        let of = |version: &str, fields: &str| {
            refused(format!("GET / {version}\r\nHost: a\r\n{fields}\r\n").as_bytes())
        };
        for (fields, status) in [
            (
                "Transfer-Encoding: gzip, chunked\r\n",
                Status::NOT_IMPLEMENTED,
            ),
            (
                "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
                Status::NOT_IMPLEMENTED,
            ),
            ("Transfer-Encoding: gzip\r\n", Status::BAD_REQUEST),
            ("Transfer-Encoding: identity\r\n", Status::BAD_REQUEST),
            ("Transfer-Encoding:\r\n", Status::BAD_REQUEST),
            ("Transfer-Encoding: chunked, gzip\r\n", Status::BAD_REQUEST),
            (
                "Transfer-Encoding: chunked, chunked\r\n",
                Status::BAD_REQUEST,
            ),
            ("Transfer-Encoding: xchunked\r\n", Status::BAD_REQUEST),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                Status::BAD_REQUEST,
            ),
            (
                "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
                Status::BAD_REQUEST,
            ),
        ] {
            assert_eq!(of("HTTP/1.1", fields), status, "{fields:?}");
        }
        assert_eq!(of("HTTP/1.0", chunked), Status::BAD_REQUEST);
    }

    #[test]
    fn reads_conditions() {
        assert_eq!(fields("Accept: */*\r\n").0.conditions, None);
        let conditions = |text: &str| *fields(text).0.conditions.expect("conditions");
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let c = conditions(&format!(
            "If-Modified-Since: {date}\r\nIf-Unmodified-Since: never\r\n\
             If-None-Match: \"a\"\r\nIf-Match: *\r\nif-none-match: \"b\"\r\n"
        ));
        assert_eq!(c.if_modified_since, Some(784_111_777));
        assert_eq!(c.if_unmodified_since, None);
        assert_eq!(c.if_none_match.as_deref(), Some(b"\"a\",\"b\"".as_slice()));
        assert_eq!(c.if_match.as_deref(), Some(b"*".as_slice()));
        let c = conditions(&format!("Range: bytes=1-\r\nIf-Range: {date}\r\n"));
        assert_eq!(c.range, Ranges::parse(b"bytes=1-"));
        assert_eq!(c.if_range, Some(IfRange::Date(784_111_777)));
        let if_range = |text: &str| conditions(text).if_range;
        let tag = Some(IfRange::Tag(b"W/\"a\"".to_vec()));
        assert_eq!(if_range("If-Range: W/\"a\"\r\n"), tag);
        for never in ["nonsense", "\"a", "\"a\", \"b\"", "*", ""] {
            let field = format!("If-Range: {never}\r\n");
            assert_eq!(if_range(&field), Some(IfRange::Never), "{never}");
        }
        let twice = "If-Range: \"a\"\r\nIf-Range: \"a\"\r\n";
        assert_eq!(if_range(twice), Some(IfRange::Never));
        let twice = "Range: bytes=1-\r\nRange: bytes=1-\r\n";
        assert_eq!(conditions(twice).range, None);
        let head = "HEAD / HTTP/1.1\r\nHost: a\r\nRange: bytes=1-\r\n\r\n";
        assert_eq!(
            complete(head).1.conditions,
            None,
            "a range is for GET alone"
        );
    }

    #[test]
    fn refuses_what_is_no_request() {
        for bad in [
            "GET\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\tfolded\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n",
            "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert_eq!(refused(bad.as_bytes()), Status::BAD_REQUEST, "{bad:?}");
        }
        assert_eq!(
            refused(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
            Status::VERSION_NOT_SUPPORTED
        );
    }

    #[test]
    fn takes_later_minor_versions_for_ours() {
        let later = b"GET /a HTTP/1.2\r\nHost: a\r\n\r\nGET /b HTTP/1.3\r\n";
        assert_eq!(refused(later), Status::VERSION_NOT_SUPPORTED);
        let ours = as_ours(later).expect("a request");
        assert_eq!(
            ours,
            b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.3\r\n"
        );
        for none in ["GET /a HTTP/2.0\r\n", "GET /a HTTP/1.22\r\n", "", "x\r\n"] {
            assert_eq!(as_ours(none.as_bytes()), None, "{none:?}");
        }
        let long = [&later[..], &[b'x'; 2 * MAX_HEAD]].concat();
        assert_eq!(as_ours(&long).expect("a request").len(), MAX_HEAD + 1);
    }

    #[test]
    fn bounds_the_head() {
        let long = format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "a".repeat(MAX_TARGET)
        );
        assert_eq!(refused(long.as_bytes()), Status::URI_TOO_LONG);
        let endless = format!("GET /{}", "a".repeat(MAX_TARGET));
        assert_eq!(refused(endless.as_bytes()), Status::URI_TOO_LONG);
        let start = "GET / HTTP/1.1\r\nHost: a\r\n";
        let field = format!("{start}X: {}", "a".repeat(MAX_HEAD));
        assert_eq!(refused(field.as_bytes()), Status::HEADERS_TOO_LARGE);
        let field = format!("{field}\r\n\r\n");
        assert_eq!(refused(field.as_bytes()), Status::HEADERS_TOO_LARGE);
        let many = format!("{start}{}\r\n", "X: a\r\n".repeat(MAX_HEADERS));
        assert_eq!(refused(many.as_bytes()), Status::HEADERS_TOO_LARGE);
    }
}
