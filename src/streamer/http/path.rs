//! From a request's target to a path below the served directory.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};

use super::host;
use super::status::Status;

/// What has to be encoded in a path that goes into a URL.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The path and the query of a target in origin form (`/path?query`) or absolute form
/// (`http://host/path?query`).
pub(crate) fn split_target(target: &[u8]) -> Result<(&[u8], Option<&[u8]>), Status> {
    let target = match target {
        [b'/', ..] => target,
        _ => strip_authority(target).ok_or(Status::BAD_REQUEST)?,
    };
    if target.contains(&b'#') {
        return Err(Status::BAD_REQUEST);
    }
    Ok(match target.iter().position(|b| *b == b'?') {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    })
}

/// Whether a target in absolute form is of the scheme that this connection doesn't have (RFC 9110,
/// section 7.4).
pub(crate) fn is_misdirected(target: &[u8], over_tls: bool) -> bool {
    let other: &[u8] = if over_tls { b"http://" } else { b"https://" };
    let scheme = target.get(..other.len());
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(other))
}

/// What follows the host of an absolute target.
fn strip_authority(target: &[u8]) -> Option<&[u8]> {
    let prefix = |prefix: &[u8]| {
        let (head, rest) = target.split_at_checked(prefix.len())?;
        head.eq_ignore_ascii_case(prefix).then_some(rest)
    };
    let rest = prefix(b"http://").or_else(|| prefix(b"https://"))?;
    let end = rest.iter().position(|b| b"/?#".contains(b));
    if !host::is_valid(&rest[..end.unwrap_or(rest.len())]) {
        return None;
    }
    match rest.iter().position(|b| matches!(b, b'/' | b'?')) {
        Some(0) => None,
        Some(at) if rest[at] == b'/' => Some(&rest[at..]),
        _ if rest.is_empty() => None,
        // `http://host?query` has the path `/`, which holds no byte to point to.
        _ => Some(b"/"),
    }
}

/// The path relative to the served directory: decoded, without empty, `.` and `..` segments,
/// without the leading slash. It ends in a slash (or is empty, for the directory itself) where
/// the request names a directory.
///
/// No result can name anything above the directory without a link: it holds no `..` and no NUL.
/// Links are the opening's care.
pub(crate) fn normalize(path: &[u8]) -> Result<Cow<'_, [u8]>, Status> {
    let rest = path.strip_prefix(b"/").ok_or(Status::BAD_REQUEST)?;
    if is_plain(rest) {
        return Ok(Cow::Borrowed(rest));
    }
    let mut result = Vec::with_capacity(rest.len());
    // Where each segment in `result` begins.
    let mut starts = Vec::new();
    let mut directory = true;
    for raw in rest.split(|b| *b == b'/') {
        let segment = decode(raw)?;
        directory = matches!(&*segment, b"" | b"." | b"..");
        match &*segment {
            b"" | b"." => {}
            b".." => result.truncate(starts.pop().ok_or(Status::BAD_REQUEST)?),
            // No name holds one.
            name if name.contains(&b'/') => return Err(Status::NOT_FOUND),
            name if name.contains(&0) => return Err(Status::BAD_REQUEST),
            name => {
                starts.push(result.len());
                result.extend_from_slice(name);
                result.push(b'/');
            }
        }
    }
    if !directory {
        result.pop();
    }
    Ok(Cow::Owned(result))
}

/// Whether [`normalize`] has nothing to do: no escapes, no NUL, no empty segment, and none that
/// begins with a dot.
fn is_plain(rest: &[u8]) -> bool {
    let mut before = b'/';
    for &byte in rest {
        match byte {
            b'%' | 0 => return false,
            b'/' | b'.' if before == b'/' => return false,
            _ => before = byte,
        }
    }
    true
}

fn decode(segment: &[u8]) -> Result<Cow<'_, [u8]>, Status> {
    let mut rest = segment;
    while let Some(at) = rest.iter().position(|b| *b == b'%') {
        rest = match &rest[at + 1..] {
            [a, b, rest @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => rest,
            _ => return Err(Status::BAD_REQUEST),
        };
    }
    Ok(percent_decode(segment).into())
}

/// The last name of a path.
pub(crate) fn last(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// A path, or a name, as a part of a URL.
pub(crate) fn encode(path: &[u8]) -> String {
    percent_encode(path, PATH).to_string()
}

/// The target that names the directory `path` (as [`normalize`] gives it) with its slash at the
/// end. Built from the decoded path: what a client sent as `//host` must not become a redirect to
/// that host.
pub(crate) fn directory_target(path: &[u8], query: Option<&[u8]>) -> String {
    let mut target = format!("/{}/", encode(path));
    if let Some(query) = query {
        target.push('?');
        target.extend(percent_encode(query, CONTROLS));
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(target: &str) -> Result<String, Status> {
        let (path, _) = split_target(target.as_bytes())?;
        let path = normalize(path)?;
        Ok(String::from_utf8_lossy(&path).into_owned())
    }

    #[test]
    fn normalizes() {
        let table = [
            ("/", ""),
            ("/a", "a"),
            ("/a/b.txt", "a/b.txt"),
            ("/a/", "a/"),
            ("//a//b//", "a/b/"),
            ("/./a/./b/.", "a/b/"),
            ("/a/../b", "b"),
            ("/a/b/../..", ""),
            ("/a/b/..", "a/"),
            ("/%61%2e%74xt", "a.txt"),
            ("/a/%2E%2e/b", "b"),
            ("/a/.%2e/b", "b"),
            ("/%2e/a", "a"),
            ("/a%20b", "a b"),
            ("/a+b", "a+b"),
            ("/...", "..."),
            ("/..a", "..a"),
            ("/.a/a.", ".a/a."),
            ("/a?b/../../c", "a"),
            ("/a\\..\\b", "a\\..\\b"),
            ("http://host/a", "a"),
            ("HTTP://host:80/a?b", "a"),
            ("http://host?b", ""),
            ("http://host", ""),
            ("//etc/passwd", "etc/passwd"),
            ("/%252e%252e/a", "%2e%2e/a"),
        ];
        for (target, expected) in table {
            assert_eq!(path(target).as_deref(), Ok(expected), "{target}");
        }
    }

    #[test]
    fn refuses_what_leads_out() {
        let table = [
            ("/..", Status::BAD_REQUEST),
            ("/../a", Status::BAD_REQUEST),
            ("/a/../../b", Status::BAD_REQUEST),
            ("/%2e%2e/a", Status::BAD_REQUEST),
            ("/%2E./a", Status::BAD_REQUEST),
            ("/a/..//../b", Status::BAD_REQUEST),
            ("http://host/../a", Status::BAD_REQUEST),
            ("/..%2fa", Status::NOT_FOUND),
            ("/a%2fb", Status::NOT_FOUND),
            ("/a%2F..%2F..%2Fb", Status::NOT_FOUND),
            ("/a%00", Status::BAD_REQUEST),
            ("/%00", Status::BAD_REQUEST),
            ("/%", Status::BAD_REQUEST),
            ("/%2", Status::BAD_REQUEST),
            ("/%zz", Status::BAD_REQUEST),
            ("/%2x", Status::BAD_REQUEST),
            ("/a#b", Status::BAD_REQUEST),
            ("", Status::BAD_REQUEST),
            ("a", Status::BAD_REQUEST),
            ("*", Status::BAD_REQUEST),
            ("host:80", Status::BAD_REQUEST),
            ("ftp://host/a", Status::BAD_REQUEST),
            ("http:///a", Status::BAD_REQUEST),
            ("http://", Status::BAD_REQUEST),
        ];
        for (target, expected) in table {
            assert_eq!(path(target), Err(expected), "{target}");
        }
    }

    #[test]
    fn redirects_to_this_host() {
        assert_eq!(directory_target(b"a/b c", None), "/a/b%20c/");
        assert_eq!(directory_target(b"a", Some(b"x=1")), "/a/?x=1");
        assert_eq!(directory_target(b"a\r\nb%", None), "/a%0D%0Ab%25/");
        let (path, _) = split_target(b"//host/a").unwrap();
        let path = normalize(path).unwrap();
        assert_eq!(directory_target(&path, None), "/host/a/");
    }
}
