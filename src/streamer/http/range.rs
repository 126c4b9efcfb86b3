//! Byte ranges of a request (RFC 9110, section 14).

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

/// What a range means for a file of known size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Selection {
    /// The whole file, as without a range.
    Whole,
    /// `start..end`, not empty.
    Part(u64, u64),
    /// Nothing of the file lies in the range: 416.
    Unsatisfiable,
}

impl ByteRange {
    /// Reads a `Range` header. `None` for what is to be ignored: another unit, bad syntax, or
    /// several ranges, which section 14.2 lets a server answer with the whole file.
    pub(crate) fn parse(header: &[u8]) -> Option<ByteRange> {
        let header = header.trim_ascii();
        let (unit, spec) = header.split_at_checked(6)?;
        if !unit.eq_ignore_ascii_case(b"bytes=") {
            return None;
        }
        let spec = spec.trim_ascii();
        let dash = spec.iter().position(|b| *b == b'-')?;
        let (first, last) = (spec[..dash].trim_ascii(), spec[dash + 1..].trim_ascii());
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

    /// What of a file of `size` bytes is meant.
    pub(crate) fn select(self, size: u64) -> Selection {
        match self {
            ByteRange::Suffix(0) => Selection::Unsatisfiable,
            // Satisfiable by the RFC's words, but no Content-Range can say "no bytes".
            ByteRange::Suffix(_) if size == 0 => Selection::Whole,
            ByteRange::Suffix(count) => Selection::Part(size.saturating_sub(count), size),
            ByteRange::From(first) | ByteRange::Inclusive(first, _) if first >= size => {
                Selection::Unsatisfiable
            }
            ByteRange::From(first) => Selection::Part(first, size),
            ByteRange::Inclusive(first, last) => {
                Selection::Part(first, last.saturating_add(1).min(size))
            }
        }
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
    fn reads_one_range() {
        let table: &[(&str, Option<ByteRange>)] = &[
            ("bytes=0-0", Some(Inclusive(0, 0))),
            ("bytes=5-9", Some(Inclusive(5, 9))),
            ("BYTES=5-9", Some(Inclusive(5, 9))),
            (" bytes= 5 - 9 ", Some(Inclusive(5, 9))),
            ("bytes=5-", Some(From(5))),
            ("bytes=-5", Some(Suffix(5))),
            ("bytes=-0", Some(Suffix(0))),
            ("bytes=99999999999999999999999-", Some(From(u64::MAX))),
            (
                "bytes=0-99999999999999999999999",
                Some(Inclusive(0, u64::MAX)),
            ),
            ("bytes=9-5", None),
            ("bytes=-", None),
            ("bytes=", None),
            ("bytes", None),
            ("", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes=1-2-3", None),
            ("bytes=0x1-2", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
            ("bytes =0-1", None),
        ];
        for (header, expected) in table {
            assert_eq!(ByteRange::parse(header.as_bytes()), *expected, "{header:?}");
        }
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
            assert_eq!(range.select(size), expected, "{range:?} of {size}");
        }
    }
}
