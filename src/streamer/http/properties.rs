//! What holds of the parsers for whatever bytes a client sends. Checked with random bytes in the
//! tests, and with those that a fuzzer finds (`fuzz/`).

use super::choice::{Choice, Conditions, Current};
use super::multipart::Multipart;
use super::path::{normalize, split_target};
use super::range::{MAX_RANGES, Ranges, Selection};
use super::request::{MAX_HEAD, MAX_TARGET, Parsed, parse};

/// The boundary of a request: its head, its body, the path that it names.
///
/// # Panics
/// Where something does not hold.
pub fn request(data: &[u8]) {
    let start = data.iter().take_while(|b| b"\r\n".contains(b)).count();
    let data = &data[start..];
    match parse(data) {
        Parsed::Refused(status) => assert!((400..=599).contains(&status.code)),
        // What is kept of a client is bounded.
        Parsed::Partial => assert!(data.len() <= MAX_HEAD.max(MAX_TARGET)),
        Parsed::Complete(request) => {
            let (head, rest) = data.split_at(request.len);
            // It ends where all readers see it end, and what follows has no part in it.
            assert!(head.len() <= MAX_HEAD && head.ends_with(b"\r\n\r\n"));
            let ends = head.iter().filter(|b| **b == b'\n').count();
            let whole = head.windows(2).filter(|two| two == b"\r\n").count();
            assert_eq!(ends, whole, "a line that ends in LF alone");
            let folded = |w: &[u8]| w.starts_with(b"\r\n") && matches!(w[2], b' ' | b'\t');
            assert!(!head.windows(3).any(folded), "a folded line");
            assert!(matches!(parse(head), Parsed::Complete(alone) if alone.len == head.len()));
            assert!(!matches!(
                parse(&head[..head.len() - 1]),
                Parsed::Complete(_)
            ));
            body(request.body, rest);
            path(request.target);
            if let Some(conditions) = &request.wanted.conditions {
                choice(conditions);
            }
        }
    }
}

/// The end of a body is the same, however it arrives.
fn body(body: super::body::Body, data: &[u8]) {
    let mut at_once = body;
    let whole = at_once.skip(data);
    let mut piecemeal = body;
    let mut taken = 0;
    for piece in data.chunks(3) {
        match piecemeal.skip(piece) {
            Ok(n) => taken += n,
            Err(lost) => return assert_eq!(whole, Err(lost)),
        }
        if piecemeal.is_over() {
            break;
        }
    }
    assert_eq!(whole, Ok(taken));
    assert!(taken <= data.len());
    assert_eq!(at_once.is_over(), piecemeal.is_over());
}

/// No path leads above the directory, or to a name that no directory holds.
fn path(target: &[u8]) {
    let Ok((raw, _)) = split_target(target) else {
        return;
    };
    let Ok(path) = normalize(raw) else { return };
    assert!(!path.contains(&0) && !path.starts_with(b"/"));
    let inner = path.strip_suffix(b"/").unwrap_or(&path);
    let mut names = inner.split(|b| *b == b'/');
    assert!(inner.is_empty() || names.all(|name| !matches!(name, b"" | b"." | b"..")));
}

fn choice(conditions: &Conditions) {
    let current = Current {
        size: 1000,
        modified: Some(1000),
        tag: Some("\"a\""),
        second: 5000,
    };
    match conditions.choose(&current) {
        Choice::Part(start, end) => assert!(start < end && end <= 1000),
        Choice::Parts(parts) => disjoint(&parts, 1000),
        _ => {}
    }
}

/// What is sent for a `Range`: for a file of `size` bytes never more than the file, and no byte
/// twice.
///
/// # Panics
/// Where something does not hold.
pub fn ranges(header: &[u8], size: u64) {
    let Some(ranges) = Ranges::parse(header) else {
        return;
    };
    match ranges.select(size) {
        Selection::Whole => assert_eq!(size, 0),
        Selection::Part(start, end) => assert!(start < end && end <= size),
        Selection::Unsatisfiable => {}
        Selection::Parts(parts) => {
            disjoint(&parts, size);
            let multipart = Multipart::new("Content-Type: a/b\r\n", size, &parts);
            let content: u64 = parts.iter().map(|(start, end)| end - start).sum();
            let heads: usize = multipart.heads.iter().map(String::len).sum();
            let around = heads + multipart.end.len();
            assert_eq!(multipart.length, content + around as u64);
            assert!(around < 300 * parts.len());
        }
    }
}

fn disjoint(parts: &[(u64, u64)], size: u64) {
    assert!((2..=MAX_RANGES).contains(&parts.len()));
    let mut sorted = parts.to_vec();
    sorted.sort_unstable();
    assert!(
        sorted
            .iter()
            .all(|(start, end)| start < end && *end <= size)
    );
    assert!(sorted.windows(2).all(|two| two[0].1 < two[1].0));
}

#[cfg(all(test, not(miri)))]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    /// Pieces of which requests are made, and those that make hostile ones.
    const PIECES: &[&str] = &[
        "GET /",
        "HEAD /a/b",
        "POST ",
        "OPTIONS *",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        "Host: a\r\n",
        "\r\n\r\n",
        "\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        "\0",
        "/",
        "..",
        "%2e",
        "%2f",
        "%00",
        "%",
        "?",
        "#",
        "http://a",
        "Content-Length: ",
        "Transfer-Encoding: chunked\r\n",
        "Range: bytes=",
        "0-9",
        "-5",
        "10-",
        ",",
        "If-Range: ",
        "If-None-Match: ",
        "If-Match: *\r\n",
        "\"a\"",
        "W/",
        "5\r\n",
        "hello",
        "0\r\n\r\n",
        "Expect: 100-continue\r\n",
        "Connection: close\r\n",
        ":",
        "\u{fc}",
        "1",
    ];

    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            9 => select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
            1 => vec(any::<u8>(), 0..4),
        ];
        vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    /// A head that is a request, so that what is behind it is looked at.
    fn request() -> impl Strategy<Value = Vec<u8>> {
        let fields = vec(select(FIELDS), 0..5).prop_map(|fields| fields.concat());
        let target = vec(select(PIECES), 0..6).prop_map(|pieces| pieces.concat());
        (target, fields, hostile()).prop_map(|(target, fields, rest)| {
            let head = format!("GET /{target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            [head.as_bytes(), &rest].concat()
        })
    }

    const FIELDS: &[&str] = &[
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Range: bytes=0-9,100-,-5\r\n",
        "If-Range: \"a\"\r\n",
        "If-None-Match: \"b\", W/\"c\"\r\n",
        "X: y\r\n",
        "X: y\n",
        " folded\r\n",
    ];

    fn header() -> impl Strategy<Value = String> {
        let number = prop_oneof![
            any::<u16>().prop_map(|n| n.to_string()),
            any::<u64>().prop_map(|n| n.to_string()),
            Just(String::new()),
        ];
        let range = (number.clone(), number).prop_map(|(a, b)| format!("{a}-{b}"));
        vec(range, 0..40).prop_map(|ranges| format!("bytes={}", ranges.join(",")))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn requests_have_one_end(data in prop_oneof![hostile(), request()]) {
            super::request(&data);
        }

        #[test]
        fn any_bytes_are_taken(data in vec(any::<u8>(), 0..300)) {
            super::request(&data);
            super::ranges(&data, 1000);
        }

        #[test]
        fn ranges_stay_within_the_file(header in header(), size in prop_oneof![
            any::<u64>(),
            0..100_000_u64,
        ]) {
            super::ranges(header.as_bytes(), size);
        }
    }
}
