//! Byte ranges of a request (RFC 9110, section 14).
//!
//! Several ranges are answered with several parts, in the order in which they were asked for. So
//! that no request costs more than the file: ranges that overlap or nearly touch are brought
//! together (in the place of the first), so no byte is sent twice; and a header with more than
//! [`MAX_RANGES`] is ignored: the whole file is sent.

/// The most ranges of a request.
pub(crate) const MAX_RANGES: usize = 32;

/// Parts with a gap of up to this many bytes are sent as one: a part's own head is about as long.
const GAP: u64 = 80;

/// One byte range as a request names it, before the file's size is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ByteRange {
    /// `bytes=first-last`, both included; `last` may lie behind the end.
    Inclusive(u64, u64),
    /// `bytes=first-`: until the end.
    From(u64),
    /// `bytes=-count`: the last bytes.
    Suffix(u64),
}

/// What ranges mean for a file of known size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Selection {
    /// The whole file, as without a range.
    Whole,
    /// `start..end`, not empty.
    Part(u64, u64),
    /// At least two, none of which is empty; they don't overlap.
    Parts(Vec<(u64, u64)>),
    /// Nothing of the file lies in the ranges: 416.
    Unsatisfiable,
}

/// The ranges of a request; at least one, at most [`MAX_RANGES`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ranges(Vec<ByteRange>);

impl Ranges {
    /// Reads a `Range` header. `None` for what is to be ignored: another unit, bad syntax, or too
    /// many.
    pub(crate) fn parse(header: &[u8]) -> Option<Ranges> {
        let (unit, list) = header.trim_ascii().split_at_checked(6)?;
        if !unit.eq_ignore_ascii_case(b"bytes=") {
            return None;
        }
        let mut ranges = Vec::with_capacity(1);
        // Of a list, a recipient accepts empty elements (section 5.6.1.2).
        let elements = list.split(|b| *b == b',').map(<[u8]>::trim_ascii);
        for element in elements.filter(|element| !element.is_empty()) {
            if ranges.len() == MAX_RANGES {
                return None;
            }
            ranges.push(ByteRange::parse(element)?);
        }
        (!ranges.is_empty()).then_some(Ranges(ranges))
    }

    /// What of a file of `size` bytes is meant.
    pub(crate) fn select(&self, size: u64) -> Selection {
        // Satisfiable by the RFC's words, but no Content-Range can say "no bytes".
        let suffix = |range: &ByteRange| matches!(range, ByteRange::Suffix(1..));
        if size == 0 && self.0.iter().any(suffix) {
            return Selection::Whole;
        }
        let mut parts = Vec::new();
        for part in self.0.iter().filter_map(|range| range.of(size)) {
            add(&mut parts, part);
        }
        match parts[..] {
            [] => Selection::Unsatisfiable,
            [(start, end)] => Selection::Part(start, end),
            _ => Selection::Parts(parts),
        }
    }
}

/// Adds a part to others; those that are near to it become one with it.
fn add(parts: &mut Vec<(u64, u64)>, mut part: (u64, u64)) {
    let mut place = parts.len();
    // What has grown may be near to others now.
    while let Some(at) = parts.iter().position(|other| is_near(*other, part)) {
        let other = parts.remove(at);
        part = (part.0.min(other.0), part.1.max(other.1));
        place = place.min(at).min(parts.len());
    }
    parts.insert(place, part);
}

fn is_near(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 <= b.1.saturating_add(GAP) && b.0 <= a.1.saturating_add(GAP)
}

impl ByteRange {
    /// Reads one element of the list.
    fn parse(spec: &[u8]) -> Option<ByteRange> {
        let dash = spec.iter().position(|b| *b == b'-')?;
        let (first, last) = (&spec[..dash], &spec[dash + 1..]);
        if first.is_empty() {
            return number(last).map(ByteRange::Suffix);
        }
        let first = number(first)?;
        if last.is_empty() {
            return Some(ByteRange::From(first));
        }
        let last = number(last)?;
        (first <= last).then_some(ByteRange::Inclusive(first, last))
    }

    /// The `start..end` of a file of `size` bytes that is meant; `None` where that is nothing.
    fn of(self, size: u64) -> Option<(u64, u64)> {
        let (start, end) = match self {
            ByteRange::Suffix(count) => (size.saturating_sub(count), size),
            ByteRange::From(first) => (first, size),
            ByteRange::Inclusive(first, last) => (first, last.saturating_add(1).min(size)),
        };
        (start < end).then_some((start, end))
    }
}

/// Decimal digits. One that no `u64` can hold lies behind the end of every file, and so does the
/// largest `u64`.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |n: u64, d: &u8| n.saturating_mul(10).saturating_add(u64::from(d - b'0'));
    Some(digits.iter().fold(0, digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ByteRange::*;

    #[test]
    fn reads_ranges() {
        let table: &[(&str, &[ByteRange])] = &[
            ("bytes=0-0", &[Inclusive(0, 0)]),
            ("bytes=5-9", &[Inclusive(5, 9)]),
            ("BYTES=5-9", &[Inclusive(5, 9)]),
            (" bytes= 5-9 ", &[Inclusive(5, 9)]),
            ("bytes=5-", &[From(5)]),
            ("bytes=-5", &[Suffix(5)]),
            ("bytes=-0", &[Suffix(0)]),
            ("bytes=99999999999999999999999-", &[From(u64::MAX)]),
            ("bytes=0-99999999999999999999999", &[Inclusive(0, u64::MAX)]),
            ("bytes=0-1,3-4", &[Inclusive(0, 1), Inclusive(3, 4)]),
            ("bytes=,0-1 ,, -4,", &[Inclusive(0, 1), Suffix(4)]),
        ];
        for (header, expected) in table {
            let ranges = Ranges::parse(header.as_bytes());
            assert_eq!(ranges, Some(Ranges(expected.to_vec())), "{header:?}");
        }
    }

    #[test]
    fn ignores_what_is_no_range() {
        for header in [
            "bytes=9-5",
            "bytes=-",
            "bytes=",
            "bytes=,",
            "bytes",
            "",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=1 - 2",
            "bytes=0x1-2",
            "bytes=0-1,x",
            "bytes=0-1;3-4",
            "lines=0-1",
            "bytes =0-1",
        ] {
            assert_eq!(Ranges::parse(header.as_bytes()), None, "{header:?}");
        }
        let many = |n| format!("bytes={}", vec!["0-0"; n].join(","));
        assert!(Ranges::parse(many(MAX_RANGES).as_bytes()).is_some());
        assert_eq!(Ranges::parse(many(MAX_RANGES + 1).as_bytes()), None);
    }

    #[test]
    fn selects_within_the_file() {
        let table = [
            (Inclusive(0, 0), 10, Selection::Part(0, 1)),
            (Inclusive(5, 9), 10, Selection::Part(5, 10)),
            (Inclusive(5, 100), 10, Selection::Part(5, 10)),
            (Inclusive(0, u64::MAX), 10, Selection::Part(0, 10)),
            (Inclusive(10, 20), 10, Selection::Unsatisfiable),
            (From(0), 10, Selection::Part(0, 10)),
            (From(9), 10, Selection::Part(9, 10)),
            (From(10), 10, Selection::Unsatisfiable),
            (From(u64::MAX), u64::MAX, Selection::Unsatisfiable),
            (From(0), 0, Selection::Unsatisfiable),
            (Suffix(3), 10, Selection::Part(7, 10)),
            (Suffix(10), 10, Selection::Part(0, 10)),
            (Suffix(u64::MAX), 10, Selection::Part(0, 10)),
            (Suffix(0), 10, Selection::Unsatisfiable),
            (Suffix(5), 0, Selection::Whole),
        ];
        for (range, size, expected) in table {
            let selection = Ranges(vec![range]).select(size);
            assert_eq!(selection, expected, "{range:?} of {size}");
        }
    }

    #[test]
    fn brings_together_what_overlaps() {
        let table: &[(&str, &[(u64, u64)])] = &[
            // In the order of the request.
            ("bytes=5000-5009,0-9", &[(5000, 5010), (0, 10)]),
            ("bytes=0-9,9000-,20000-", &[(0, 10), (9000, 10_000)]),
            ("bytes=0-9,0-9,0-9", &[(0, 10)]),
            ("bytes=0-,0-", &[(0, 10_000)]),
            ("bytes=0-9,10-19", &[(0, 20)]),
            ("bytes=0-9,90-99", &[(0, 100)]),
            ("bytes=0-9,91-99", &[(0, 10), (91, 100)]),
            // The last makes one of two, in the place of the first.
            (
                "bytes=0-9,8000-8009,200-209,5-205",
                &[(0, 210), (8000, 8010)],
            ),
            (
                "bytes=8000-8009,200-209,0-9,5-205",
                &[(8000, 8010), (0, 210)],
            ),
            ("bytes=-10,0-9998", &[(0, 10_000)]),
        ];
        for (header, expected) in table {
            let ranges = Ranges::parse(header.as_bytes()).unwrap();
            let selected = match ranges.select(10_000) {
                Selection::Part(start, end) => vec![(start, end)],
                Selection::Parts(parts) => parts,
                other => panic!("{header}: {other:?}"),
            };
            assert_eq!(selected, *expected, "{header}");
        }
    }
}
