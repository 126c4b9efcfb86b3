//! Which response a request for an existing file gets (RFC 9110, sections 13 and 14).

use super::range::Selection;
use super::request::{IfRange, Wanted};

/// What to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Choice {
    /// 200 and the file.
    Whole,
    /// 206 and `start..end` of it.
    Part(u64, u64),
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
    /// 416.
    Unsatisfiable,
}

/// Chooses, for a file of `size` bytes that was last changed at `modified`.
pub(crate) fn choose(wanted: &Wanted, size: u64, modified: u64) -> Choice {
    if wanted.if_unmodified_since.is_some_and(|at| modified > at) {
        return Choice::PreconditionFailed;
    }
    if wanted.if_modified_since.is_some_and(|at| modified <= at) {
        return Choice::NotModified;
    }
    let current = match wanted.if_range {
        None => true,
        Some(IfRange::Date(at)) => at == modified,
        Some(IfRange::Tag) => false,
    };
    match wanted.range {
        Some(range) if current => match range.select(size) {
            Selection::Whole => Choice::Whole,
            Selection::Part(start, end) => Choice::Part(start, end),
            Selection::Unsatisfiable => Choice::Unsatisfiable,
        },
        _ => Choice::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::super::range::ByteRange;
    use super::super::request::Persistence;
    use super::*;

    const WANTED: Wanted = Wanted {
        head: false,
        persistence: Persistence::Keep,
        range: None,
        if_range: None,
        if_modified_since: None,
        if_unmodified_since: None,
    };

    #[test]
    fn obeys_conditions_before_ranges() {
        let range = Some(ByteRange::From(5));
        let with = |change: fn(&mut Wanted)| {
            let mut wanted = Wanted { range, ..WANTED };
            change(&mut wanted);
            choose(&wanted, 10, 1000)
        };
        assert_eq!(choose(&WANTED, 10, 1000), Choice::Whole);
        assert_eq!(with(|_| {}), Choice::Part(5, 10));
        assert_eq!(
            with(|w| w.range = Some(ByteRange::From(10))),
            Choice::Unsatisfiable
        );
        assert_eq!(
            with(|w| w.if_modified_since = Some(999)),
            Choice::Part(5, 10)
        );
        assert_eq!(
            with(|w| w.if_modified_since = Some(1000)),
            Choice::NotModified
        );
        assert_eq!(
            with(|w| w.if_unmodified_since = Some(1000)),
            Choice::Part(5, 10)
        );
        assert_eq!(
            with(|w| w.if_unmodified_since = Some(999)),
            Choice::PreconditionFailed
        );
        assert_eq!(
            with(|w| w.if_range = Some(IfRange::Date(1000))),
            Choice::Part(5, 10)
        );
        assert_eq!(
            with(|w| w.if_range = Some(IfRange::Date(999))),
            Choice::Whole
        );
        assert_eq!(
            with(|w| w.if_range = Some(IfRange::Date(1001))),
            Choice::Whole
        );
        assert_eq!(with(|w| w.if_range = Some(IfRange::Tag)), Choice::Whole);
    }
}
