//! Lists with qualities: `Accept`, `Accept-Encoding` (RFC 9110, section 12.4.2).

/// Each element's value without parameters, and its quality in thousandths; 0 where that can't be
/// read, which is: not wanted.
pub(crate) fn list(header: &[u8]) -> impl Iterator<Item = (&[u8], u16)> {
    let elements = header.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    elements
        .filter(|element| !element.is_empty())
        .map(|element| {
            let mut pieces = element.split(|b| *b == b';').map(<[u8]>::trim_ascii);
            let value = pieces.next().unwrap_or_default();
            let quality = pieces.find_map(|piece| match piece {
                [b'q' | b'Q', b'=', quality @ ..] => Some(parse(quality).unwrap_or(0)),
                _ => None,
            });
            (value, quality.unwrap_or(1000))
        })
}

/// `0.5` and the like: at most three digits behind the point.
fn parse(text: &[u8]) -> Option<u16> {
    let (whole, rest) = text.split_first()?;
    let digits = match rest {
        [] => rest,
        [b'.', digits @ ..] if digits.len() <= 3 => digits,
        _ => return None,
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| digits.get(at).map_or(0, |d| u16::from(d - b'0'));
    let thousandths = digit(0) * 100 + digit(1) * 10 + digit(2);
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// Whether `Accept` asks for JSON rather than for HTML.
pub(crate) fn prefers_json(accept: &[u8]) -> bool {
    // The most specific range that fits tells (section 12.5.1).
    let of = |exact: &[u8], kind: &[u8]| {
        let fits = |range: &[u8]| match range {
            _ if range.eq_ignore_ascii_case(exact) => 3,
            _ if range.eq_ignore_ascii_case(kind) => 2,
            b"*/*" => 1,
            _ => 0,
        };
        let ranges = list(accept).map(|(range, quality)| (fits(range), quality));
        let best = ranges.filter(|(fits, _)| *fits > 0).max();
        best.map_or(0, |(_, quality)| quality)
    };
    of(b"application/json", b"application/*") > of(b"text/html", b"text/*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_qualities() {
        for (text, quality) in [
            ("1", Some(1000)),
            ("1.", Some(1000)),
            ("1.000", Some(1000)),
            ("0", Some(0)),
            ("0.5", Some(500)),
            ("0.125", Some(125)),
            ("0.1234", None),
            ("1.001", None),
            ("2", None),
            ("", None),
            (".5", None),
            ("-1", None),
            ("0,5", None),
        ] {
            assert_eq!(parse(text.as_bytes()), quality, "{text}");
        }
    }

    #[test]
    fn reads_lists() {
        let read: Vec<_> = list(b"a, b;x=y;q=0.5 ,, c ; Q=0").collect();
        let expected: [(&[u8], u16); 3] = [(b"a", 1000), (b"b", 500), (b"c", 0)];
        assert_eq!(read, expected);
    }

    #[test]
    fn tells_who_wants_json() {
        for (accept, json) in [
            ("", false),
            ("*/*", false),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                false,
            ),
            ("application/json", true),
            ("Application/JSON, text/plain, */*", false),
            ("application/json, */*;q=0.5", true),
            ("application/*", true),
            ("application/json;q=0.5, text/html", false),
            ("application/json, text/html;q=0.5", true),
            ("application/json;q=0, */*", false),
            ("text/html;q=0, */*", true),
        ] {
            assert_eq!(prefers_json(accept.as_bytes()), json, "{accept}");
        }
    }
}
