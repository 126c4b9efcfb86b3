//! Reading a request's head.

use std::mem::MaybeUninit;

use httparse::{Header, Status as Progress};

use super::date;
use super::range::ByteRange;
use super::status::Status;

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

/// A condition that a range request depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IfRange {
    /// The file is unchanged since this very second.
    Date(u64),
    /// An entity tag: this server gives none out, so none matches.
    Tag,
}

/// What decides the response, besides the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    /// The header alone.
    pub(crate) head: bool,
    pub(crate) persistence: Persistence,
    pub(crate) range: Option<ByteRange>,
    pub(crate) if_range: Option<IfRange>,
    /// Seconds since 1970.
    pub(crate) if_modified_since: Option<u64>,
    /// Seconds since 1970.
    pub(crate) if_unmodified_since: Option<u64>,
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
    pub(crate) wanted: Wanted,
    /// The body's length.
    pub(crate) body: u64,
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

/// Reads the head at the beginning of `input`.
pub(crate) fn parse(input: &[u8]) -> Parsed<'_> {
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
            let method = match request.method.unwrap_or_default() {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS" | "TRACE" | "CONNECT" => {
                    Method::NotAllowed
                }
                _ => Method::Unknown,
            };
            let version = request.version.unwrap_or_default();
            match read_fields(method, version, request.headers) {
                Ok((wanted, body)) => Parsed::Complete(Request {
                    method,
                    target: target.as_bytes(),
                    wanted,
                    body,
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
        Err(httparse::Error::Version) => Parsed::Refused(Status::VERSION_NOT_SUPPORTED),
        Err(_) => Parsed::Refused(Status::BAD_REQUEST),
    }
}

fn partial_too_long(input: &[u8]) -> Option<Status> {
    let line = input.trim_ascii_start();
    if line.len() > MAX_TARGET && !line[..MAX_TARGET].contains(&b'\n') {
        return Some(Status::URI_TOO_LONG);
    }
    (input.len() > MAX_HEAD).then_some(Status::HEADERS_TOO_LARGE)
}

/// Reads the header fields that matter here, and the body's length.
fn read_fields(
    method: Method,
    version: u8,
    headers: &[Header<'_>],
) -> Result<(Wanted, u64), Status> {
    let (mut close, mut keep) = (false, false);
    let mut hosts = 0;
    let mut body: Option<u64> = None;
    let mut expects = false;
    let mut none_match = false;
    let mut wanted = Wanted {
        head: method == Method::Head,
        persistence: Persistence::Keep,
        range: None,
        if_range: None,
        if_modified_since: None,
        if_unmodified_since: None,
    };
    for Header { name, value } in headers {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        // By length first: most fields are none of these.
        match name.len() {
            4 if is("host") => hosts += 1,
            5 if is("range") && method == Method::Get => wanted.range = ByteRange::parse(value),
            6 if is("expect") => expects = true,
            8 if is("if-range") => {
                wanted.if_range = Some(date::parse(value).map_or(IfRange::Tag, IfRange::Date));
            }
            10 if is("connection") => {
                for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    close |= option.eq_ignore_ascii_case(b"close");
                    keep |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            13 if is("if-none-match") => none_match = true,
            14 if is("content-length") => {
                let length = content_length(value).ok_or(Status::BAD_REQUEST)?;
                if body.is_some_and(|before| before != length) {
                    return Err(Status::BAD_REQUEST);
                }
                body = Some(length);
            }
            17 if is("if-modified-since") => wanted.if_modified_since = date::parse(value),
            // Its body's end could be found only by understanding the coding.
            17 if is("transfer-encoding") => return Err(Status::NOT_IMPLEMENTED),
            19 if is("if-unmodified-since") => wanted.if_unmodified_since = date::parse(value),
            _ => {}
        }
    }
    if hosts > 1 || (hosts == 0 && version == 1) {
        return Err(Status::BAD_REQUEST);
    }
    if none_match {
        // RFC 9110, 13.1.3: tags go before dates, and no tag is ours.
        wanted.if_modified_since = None;
    }
    let body = body.unwrap_or(0);
    wanted.persistence = match version {
        _ if close || body > MAX_BODY => Persistence::Close,
        // Whether the body comes after our answer is the client's choice: it can't be told.
        _ if expects && body > 0 => Persistence::Close,
        1 => Persistence::Keep,
        _ if keep => Persistence::KeepTold,
        _ => Persistence::Close,
    };
    Ok((wanted, body))
}

/// Digits, or the same number several times over (RFC 9110, 8.6).
fn content_length(value: &[u8]) -> Option<u64> {
    let mut length = None;
    for part in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
        if !part.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number: u64 = std::str::from_utf8(part).ok()?.parse().ok()?;
        if length.is_some_and(|before| before != number) {
            return None;
        }
        length = Some(number);
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(text: &str) -> (Method, Wanted, u64) {
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

    fn fields(fields: &str) -> (Wanted, u64) {
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
        assert_eq!(method("OPTIONS"), Method::NotAllowed);
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
        assert_eq!(fields("Content-Length: 5\r\n").1, 5);
        assert_eq!(fields("Content-Length: 5, 5\r\n").1, 5);
        assert!(!fields("Content-Length: 5\r\n").0.closes());
        assert!(fields("Content-Length: 65537\r\n").0.closes());
        assert!(
            fields("Content-Length: 5\r\nExpect: 100-continue\r\n")
                .0
                .closes()
        );
        for bad in ["-1", "+1", "", "1, 2", "1 2", "0x1", "18446744073709551616"] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {bad}\r\n\r\n");
            assert_eq!(refused(text.as_bytes()), Status::BAD_REQUEST, "{bad:?}");
        }
        let two = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(refused(two), Status::BAD_REQUEST);
        let chunked = b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(refused(chunked), Status::NOT_IMPLEMENTED);
    }

    #[test]
    fn reads_conditions() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let (wanted, _) = fields(&format!("If-Modified-Since: {date}\r\n"));
        assert_eq!(wanted.if_modified_since, Some(784_111_777));
        let (wanted, _) = fields(&format!(
            "If-Modified-Since: {date}\r\nIf-None-Match: \"a\"\r\n"
        ));
        assert_eq!(wanted.if_modified_since, None);
        let (wanted, _) = fields(&format!("Range: bytes=1-\r\nIf-Range: {date}\r\n"));
        assert_eq!(wanted.range, Some(ByteRange::From(1)));
        assert_eq!(wanted.if_range, Some(IfRange::Date(784_111_777)));
        let (wanted, _) = fields("Range: bytes=1-\r\nIf-Range: \"a\"\r\n");
        assert_eq!(wanted.if_range, Some(IfRange::Tag));
        let head = "HEAD / HTTP/1.1\r\nHost: a\r\nRange: bytes=1-\r\n\r\n";
        assert_eq!(complete(head).1.range, None, "a range is for GET alone");
    }

    #[test]
    fn refuses_what_is_no_request() {
        for bad in [
            "GET\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
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
