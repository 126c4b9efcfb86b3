//! What the fields of a request's head ask for, and how its body is framed.

use super::body::Body;
use super::choice::{Conditions, IfRange};
use super::coding::Accepted;
use super::date;
use super::host;
use super::range::Ranges;
use super::request::{MAX_BODY, Method, Persistence, Wanted};
use super::status::Status;
use super::tag;
use super::upload::Put;

/// The fields that matter here.
#[derive(Default)]
pub(super) struct Asked<'a> {
    pub(super) accept: Option<&'a [u8]>,
    pub(super) accept_encoding: Option<&'a [u8]>,
    close: bool,
    keep: bool,
    /// `100-continue`, or something else.
    expects: bool,
    expects_else: bool,
    hosts: u32,
    length: Option<u64>,
    coding: Option<Coding>,
    ranges: u32,
    modified_sinces: u32,
    unmodified_sinces: u32,
    conditions: Option<Box<Conditions>>,
    authorization: Option<Vec<u8>>,
    content_range: bool,
}

/// How a body is transferred.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    /// In chunks, and before that in a way that is not known here.
    Unknown,
    /// With no way to find its end.
    Endless,
    /// With an element that is empty, which another reader might take for an unknown coding, or
    /// pass over.
    Doubtful,
}

impl<'a> Asked<'a> {
    fn conditions(&mut self) -> &mut Conditions {
        self.conditions.get_or_insert_default()
    }

    /// Takes one field in.
    ///
    /// # Errors
    /// The status to refuse the request with.
    pub(super) fn take(
        &mut self,
        method: Method,
        name: &str,
        value: &'a [u8],
    ) -> Result<(), Status> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        // By length first: most fields are none of these.
        match name.len() {
            13 if method == Method::Put && is("authorization") => {
                self.authorization = Some(value.to_vec());
            }
            13 if is("content-range") => self.content_range = true,
            4 if is("host") => {
                self.hosts += 1;
                if !host::is_valid(value) {
                    return Err(Status::BAD_REQUEST);
                }
            }
            // For other methods a range has no meaning (RFC 9110, 14.2).
            5 if is("range") && method == Method::Get => {
                let range = only(&mut self.ranges, Ranges::parse(value));
                self.conditions().range = range;
            }
            6 if is("expect") => {
                for expectation in elements(value) {
                    self.expects = true;
                    self.expects_else |= !expectation.eq_ignore_ascii_case(b"100-continue");
                }
            }
            // In several lines they would be one list; who sends it so gets what all get.
            6 if is("accept") => self.accept = Some(value).filter(|_| self.accept.is_none()),
            15 if is("accept-encoding") => {
                let one = self.accept_encoding.is_none();
                self.accept_encoding = Some(if one { value } else { b"" });
            }
            8 if is("if-range") => {
                let twice = self.conditions().if_range.is_some();
                let if_range = if twice {
                    IfRange::Never
                } else {
                    if_range(value)
                };
                self.conditions().if_range = Some(if_range);
            }
            8 if is("if-match") => list(&mut self.conditions().if_match, value),
            10 if is("connection") => {
                for option in elements(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            13 if is("if-none-match") => list(&mut self.conditions().if_none_match, value),
            14 if is("content-length") => {
                let length = content_length(value).ok_or(Status::BAD_REQUEST)?;
                if self.length.is_some_and(|before| before != length) {
                    return Err(Status::BAD_REQUEST);
                }
                self.length = Some(length);
            }
            17 if is("if-modified-since") => {
                let date = only(&mut self.modified_sinces, date::parse(value));
                self.conditions().if_modified_since = date;
            }
            17 if is("transfer-encoding") => {
                self.coding = Some(transfer_coding(self.coding, value));
            }
            19 if is("if-unmodified-since") => {
                let date = only(&mut self.unmodified_sinces, date::parse(value));
                self.conditions().if_unmodified_since = date;
            }
            _ => {}
        }
        Ok(())
    }

    /// The body that follows (RFC 9112, 6.3). Whatever two readers might see differently is
    /// refused, and with that the connection ends.
    fn body(&self, version: u8) -> Result<Body, Status> {
        match (self.coding, self.length) {
            (None, None | Some(0)) => Ok(Body::None),
            (None, Some(length)) => Ok(Body::Length(length)),
            (Some(_), _) if version == 0 => Err(Status::BAD_REQUEST),
            (Some(_), Some(_)) | (Some(Coding::Endless | Coding::Doubtful), None) => {
                Err(Status::BAD_REQUEST)
            }
            (Some(Coding::Unknown), None) => Err(Status::NOT_IMPLEMENTED),
            (Some(Coding::Chunked), None) => Ok(Body::chunked(MAX_BODY)),
        }
    }
}

/// Makes of the fields what is wanted, and finds the body's length.
///
/// # Errors
/// The status to refuse the request with.
pub(super) fn understand(
    method: Method,
    version: u8,
    fields: &mut Asked<'_>,
) -> Result<(Wanted, Body, Option<Box<Put>>), Status> {
    if fields.hosts > 1 || (fields.hosts == 0 && version == 1) {
        return Err(Status::BAD_REQUEST);
    }
    let body = fields.body(version)?;
    // What HTTP/1.0 clients expect is to be ignored (RFC 9110, 10.1.1).
    if fields.expects_else && version == 1 {
        return Err(Status::EXPECTATION_FAILED);
    }
    let usual = match version {
        _ if fields.close => Persistence::Close,
        1 => Persistence::Keep,
        _ if fields.keep => Persistence::KeepTold,
        _ => Persistence::Close,
    };
    let persistence = match version {
        _ if matches!(body, Body::Length(n) if n > MAX_BODY) => Persistence::Close,
        // Whether the body comes after our answer is the client's choice: it can't be told.
        1 if fields.expects && !body.is_over() => Persistence::Close,
        _ => usual,
    };
    let put = (method == Method::Put).then(|| {
        Box::new(Put {
            length: fields.length.filter(|_| fields.coding.is_none()),
            expects: fields.expects && version == 1,
            authorization: fields.authorization.take(),
            part: fields.content_range,
            persistence: usual,
        })
    });
    let wanted = Wanted {
        head: method == Method::Head,
        persistence,
        linger: false,
        accepted: Accepted::default(),
        conditions: fields.conditions.take(),
    };
    Ok((wanted, body, put))
}

/// What a field says that is no list: nothing, where it came several times, since what is meant
/// can't be told.
fn only<T>(times: &mut u32, value: Option<T>) -> Option<T> {
    *times += 1;
    value.filter(|_| *times == 1)
}

/// The elements of a list; empty ones are none (RFC 9110, 5.6.1.2).
fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let elements = list.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    elements.filter(|element| !element.is_empty())
}

/// A field that is a list may come in several lines (RFC 9110, 5.3).
fn list(whole: &mut Option<Vec<u8>>, value: &[u8]) {
    match whole {
        Some(whole) => {
            whole.push(b',');
            whole.extend_from_slice(value);
        }
        None => *whole = Some(value.to_vec()),
    }
}

fn if_range(value: &[u8]) -> IfRange {
    let value = value.trim_ascii();
    match tag::take(value) {
        Some((_, [])) => IfRange::Tag(value.to_vec()),
        Some(_) => IfRange::Never,
        None => date::parse(value).map_or(IfRange::Never, IfRange::Date),
    }
}

/// What one more line of codings makes of those before it. Empty elements are not passed over as in
/// other lists: on this one depends where the body ends, and not all read it alike.
fn transfer_coding(before: Option<Coding>, value: &[u8]) -> Coding {
    value
        .split(|b| *b == b',')
        .fold(before, |before, coding| {
            let coding = coding.trim_ascii();
            let chunked = coding.eq_ignore_ascii_case(b"chunked");
            Some(match before {
                Some(Coding::Doubtful) => Coding::Doubtful,
                _ if coding.is_empty() => Coding::Doubtful,
                // Chunks come last, and once (RFC 9112, 6.1).
                Some(Coding::Chunked | Coding::Unknown) => Coding::Endless,
                Some(Coding::Endless) if chunked => Coding::Unknown,
                None if chunked => Coding::Chunked,
                _ => Coding::Endless,
            })
        })
        .unwrap_or(Coding::Endless)
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
