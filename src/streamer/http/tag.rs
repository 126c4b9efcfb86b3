//! Entity tags (RFC 9110, section 8.8.3).

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::stamp::Stamp;

/// How long after a change another one may leave the file's time as it is: a tick of the clock
/// that file systems use, several times over. (Since Linux 6.13 most have finer times.)
const TICK: Duration = Duration::from_millis(50);

/// How two tags are compared (section 8.8.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Comparison {
    /// Equal, and neither is weak: the same bytes.
    Strong,
    /// Equal but for weakness.
    Weak,
}

/// A file's tag, quotes included: what tells it and its content apart from any other: device,
/// inode, size, and the time of the last change in nanoseconds. `suffix` tells a coding.
///
/// Weak while the file might still change without its time changing.
pub(crate) fn of(stamp: &Stamp, suffix: &str, now: SystemTime) -> String {
    let mut tag = String::with_capacity(48);
    if !is_settled(stamp, now) {
        tag.push_str("W/");
    }
    let (seconds, nanos) = stamp.modified;
    // Which inode it is says something of the machine; a digest of it tells as much apart.
    let place = mix(stamp.device ^ mix(stamp.inode));
    // A String grows: this can't fail.
    let _ = write!(
        tag,
        "\"{:x}{nanos:08x}-{:x}-{place:016x}{suffix}\"",
        seconds, stamp.size
    );
    tag
}

/// Whether a change that came now would show in the file's time.
fn is_settled(stamp: &Stamp, now: SystemTime) -> bool {
    let (Ok(seconds), Ok(nanos)) = (
        u64::try_from(stamp.modified.0),
        u32::try_from(stamp.modified.1),
    ) else {
        return true;
    };
    let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
    // A time in the future was set on purpose: no change would leave it so.
    let age = modified.and_then(|modified| now.duration_since(modified).ok());
    age.is_none_or(|age| age > TICK)
}

/// Spreads a number over 64 bits (the finalizer of SplitMix64).
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Whether `If-Match` or `If-None-Match` names `tag`: `*`, or a list of tags. What comes behind a
/// syntax error names nothing.
pub(crate) fn is_listed(list: &[u8], tag: Option<&str>, comparison: Comparison) -> bool {
    let mut rest = list.trim_ascii();
    if rest == b"*" {
        return true;
    }
    let Some(tag) = tag else { return false };
    loop {
        while let [b',' | b' ' | b'\t', tail @ ..] = rest {
            rest = tail;
        }
        let Some((one, tail)) = take(rest) else {
            return false;
        };
        if is_same(one, tag.as_bytes(), comparison) {
            return true;
        }
        rest = tail.trim_ascii_start();
        if !matches!(rest, [] | [b',', ..]) {
            return false;
        }
    }
}

/// Whether two tags are the same.
pub(crate) fn is_same(a: &[u8], b: &[u8], comparison: Comparison) -> bool {
    let opaque = |tag: &'_ [u8]| tag.strip_prefix(b"W/").map_or(tag.len(), <[u8]>::len);
    let weak = opaque(a) != a.len() || opaque(b) != b.len();
    let equal = a[a.len() - opaque(a)..] == b[b.len() - opaque(b)..];
    equal && (comparison == Comparison::Weak || !weak)
}

/// The tag at the beginning, and what follows.
pub(crate) fn take(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = if text.starts_with(b"W/") { 2 } else { 0 };
    if text.get(start) != Some(&b'"') {
        return None;
    }
    let inside = &text[start + 1..];
    let end = inside.iter().position(|b| *b == b'"')?;
    let valid = |b: &u8| matches!(b, 0x21 | 0x23..=0x7e | 0x80..);
    inside[..end]
        .iter()
        .all(valid)
        .then(|| text.split_at(start + end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            device: 1,
            inode: 2,
            size: 3,
            modified: (1_000_000, 5),
            changed: (0, 0),
        }
    }

    #[test]
    fn tells_files_apart() {
        let now = SystemTime::now();
        let base = of(&stamp(), "", now);
        assert!(take(base.as_bytes()).is_some_and(|(_, rest)| rest.is_empty()));
        assert_eq!(base, of(&stamp(), "", now));
        let changes: [fn(&mut Stamp); 5] = [
            |s| s.device = 2,
            |s| s.inode = 3,
            |s| s.size = 4,
            |s| s.modified.0 += 1,
            |s| s.modified.1 += 1,
        ];
        for change in changes {
            let mut other = stamp();
            change(&mut other);
            assert_ne!(of(&other, "", now), base);
        }
        assert_ne!(of(&stamp(), "-br", now), base);
    }

    #[test]
    fn is_weak_while_the_clock_may_hide_a_change() {
        let at =
            |millis: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000 + millis);
        assert!(of(&stamp(), "", at(1)).starts_with("W/\""));
        assert!(of(&stamp(), "", at(51)).starts_with('"'));
        assert!(of(&stamp(), "", SystemTime::UNIX_EPOCH).starts_with('"'));
    }

    #[test]
    fn compares_as_the_rfc_s_table() {
        use Comparison::{Strong, Weak};
        for (a, b, strong, weak) in [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
            ("\"1\"", "\"2\"", false, false),
        ] {
            assert_eq!(is_same(a.as_bytes(), b.as_bytes(), Strong), strong);
            assert_eq!(is_same(a.as_bytes(), b.as_bytes(), Weak), weak);
        }
    }

    #[test]
    fn reads_lists() {
        for (list, found) in [
            ("*", true),
            (" * ", true),
            ("\"a\"", true),
            ("\"b\", \"a\"", true),
            ("\"b\",\"a\",", true),
            (", ,\"b\" , W/\"a\"", true),
            ("\"a,b\", \"a\"", true),
            ("", false),
            ("a", false),
            ("\"a", false),
            ("\"A\"", false),
            ("w/\"a\"", false),
            ("\"b\" \"a\"", false),
            ("*, \"a\"", false),
            ("\"\", \"b\"", false),
        ] {
            let is = is_listed(list.as_bytes(), Some("\"a\""), Comparison::Weak);
            assert_eq!(is, found, "{list}");
        }
        assert!(!is_listed(b"W/\"a\"", Some("\"a\""), Comparison::Strong));
        assert!(is_listed(b"*", None, Comparison::Strong));
        assert!(!is_listed(b"\"a\"", None, Comparison::Strong));
    }
}
