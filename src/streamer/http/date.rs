//! The time of day, and its form in HTTP headers, made once a second.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httpdate::{fmt_http_date, parse_http_date};

/// Seconds since 1970; a clock before that reads 0.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// An HTTP date. A time after the year 9999, which has none, reads as the last second before.
pub(crate) fn format(seconds: u64) -> String {
    const LAST: u64 = 253_402_300_799;
    fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST)))
}

/// Reads an HTTP date, in seconds since 1970.
pub(crate) fn parse(header: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(header).ok()?;
    parse_http_date(text.trim()).ok().map(seconds)
}

/// What the `Date` header says, formatted once a second.
#[derive(Default)]
pub(crate) struct DateCache {
    last: RefCell<(u64, String)>,
}

impl DateCache {
    /// Gives the date of a second to `use_it`.
    pub(crate) fn with<T>(&self, second: u64, use_it: impl FnOnce(&str) -> T) -> T {
        let mut last = self.last.borrow_mut();
        if last.0 != second || last.1.is_empty() {
            *last = (second, format(second));
        }
        use_it(&last.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_and_parses() {
        assert_eq!(format(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        for form in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(form.as_bytes()), Some(784_111_777), "{form}");
        }
        assert_eq!(parse(b"yesterday"), None);
        assert_eq!(parse(b"\xff"), None);
        assert_eq!(format(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn caches_a_second() {
        let cache = DateCache::default();
        cache.with(0, |date| assert_eq!(date, "Thu, 01 Jan 1970 00:00:00 GMT"));
        cache.with(1, |date| assert_eq!(date, "Thu, 01 Jan 1970 00:00:01 GMT"));
        cache.with(1, |date| assert_eq!(date, "Thu, 01 Jan 1970 00:00:01 GMT"));
    }
}
