//! Which response a request for something that exists gets: conditions and ranges (RFC 9110,
//! sections 13 and 14), in the order of section 13.2.2.

use super::range::{Ranges, Selection};
use super::tag::{self, Comparison};

/// A condition that the range depends on (section 13.1.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum IfRange {
    /// The file is unchanged since this very second.
    Date(u64),
    /// The file has this tag.
    Tag(Vec<u8>),
    /// It can't be understood: not fulfilled.
    Never,
}

/// What a request says besides what it wants: most say none of this.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Conditions {
    /// The lists of tags, as they were sent.
    pub(crate) if_match: Option<Vec<u8>>,
    pub(crate) if_none_match: Option<Vec<u8>>,
    /// Seconds since 1970.
    pub(crate) if_modified_since: Option<u64>,
    /// Seconds since 1970.
    pub(crate) if_unmodified_since: Option<u64>,
    pub(crate) if_range: Option<IfRange>,
    pub(crate) range: Option<Ranges>,
}

/// What conditions are held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Current<'a> {
    pub(crate) size: u64,
    /// When it was last changed, in seconds since 1970; unknown for what is made on the spot.
    pub(crate) modified: Option<u64>,
    pub(crate) tag: Option<&'a str>,
    /// The present, in seconds since 1970.
    pub(crate) second: u64,
}

/// What to answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Choice {
    /// 200 and the file.
    Whole,
    /// 206 and `start..end` of it.
    Part(u64, u64),
    /// 206 and several parts, which do not overlap.
    Parts(Vec<(u64, u64)>),
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
    /// 416.
    Unsatisfiable,
}

impl Conditions {
    /// Chooses the response to a GET or HEAD.
    pub(crate) fn choose(&self, current: &Current<'_>) -> Choice {
        let modified = current.modified;
        match &self.if_match {
            Some(list) if !tag::is_listed(list, current.tag, Comparison::Strong) => {
                return Choice::PreconditionFailed;
            }
            Some(_) => {}
            None => {
                let since = self.if_unmodified_since.zip(modified);
                if since.is_some_and(|(at, modified)| modified > at) {
                    return Choice::PreconditionFailed;
                }
            }
        }
        let known = match &self.if_none_match {
            Some(list) => tag::is_listed(list, current.tag, Comparison::Weak),
            None => {
                let since = self.if_modified_since.zip(modified);
                since.is_some_and(|(at, modified)| modified <= at)
            }
        };
        if known {
            return Choice::NotModified;
        }
        match &self.range {
            Some(range) if self.range_holds(current) => match range.select(current.size) {
                Selection::Whole => Choice::Whole,
                Selection::Part(start, end) => Choice::Part(start, end),
                Selection::Parts(parts) => Choice::Parts(parts),
                Selection::Unsatisfiable => Choice::Unsatisfiable,
            },
            _ => Choice::Whole,
        }
    }

    /// Whether the client's part belongs to what there is now.
    fn range_holds(&self, current: &Current<'_>) -> bool {
        match &self.if_range {
            None => true,
            // Within the second in which it changed, a file may change again unseen (8.8.2.2).
            Some(IfRange::Date(at)) => current.modified == Some(*at) && *at < current.second,
            Some(IfRange::Tag(tag)) => current
                .tag
                .is_some_and(|own| tag::is_same(tag, own.as_bytes(), Comparison::Strong)),
            Some(IfRange::Never) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURRENT: Current<'_> = Current {
        size: 10,
        modified: Some(1000),
        tag: Some("\"a\""),
        second: 5000,
    };

    fn with(change: impl FnOnce(&mut Conditions)) -> Choice {
        let mut conditions = Conditions {
            range: Ranges::parse(b"bytes=5-"),
            ..Conditions::default()
        };
        change(&mut conditions);
        conditions.choose(&CURRENT)
    }

    fn tags(list: &str) -> Option<Vec<u8>> {
        Some(list.as_bytes().to_vec())
    }

    const PART: Choice = Choice::Part(5, 10);

    #[test]
    fn obeys_conditions_before_ranges() {
        assert_eq!(Conditions::default().choose(&CURRENT), Choice::Whole);
        assert_eq!(with(|_| {}), PART);
        let behind = with(|c| c.range = Ranges::parse(b"bytes=10-"));
        assert_eq!(behind, Choice::Unsatisfiable);
        assert_eq!(with(|c| c.if_modified_since = Some(999)), PART);
        let since = with(|c| c.if_modified_since = Some(1000));
        assert_eq!(since, Choice::NotModified);
        assert_eq!(with(|c| c.if_unmodified_since = Some(1000)), PART);
        let since = with(|c| c.if_unmodified_since = Some(999));
        assert_eq!(since, Choice::PreconditionFailed);
    }

    #[test]
    fn obeys_tags_before_dates() {
        // (If-Match, If-Unmodified-Since, If-None-Match, If-Modified-Since)
        let choose = |matches, unmodified, none_match, modified| {
            with(|c| {
                c.if_match = matches;
                c.if_unmodified_since = unmodified;
                c.if_none_match = none_match;
                c.if_modified_since = modified;
            })
        };
        let (own, other) = (|| tags("\"a\""), || tags("\"b\""));
        let failed = Choice::PreconditionFailed;
        assert_eq!(choose(own(), Some(1), None, None), PART);
        assert_eq!(choose(other(), Some(1000), None, None), failed);
        assert_eq!(choose(tags("W/\"a\""), None, None, None), failed);
        assert_eq!(choose(tags("*"), None, None, None), PART);
        assert_eq!(choose(None, None, own(), Some(1)), Choice::NotModified);
        assert_eq!(choose(None, None, other(), Some(1000)), PART);
        assert_eq!(choose(None, None, tags("*"), None), Choice::NotModified);
        assert_eq!(
            choose(None, None, tags("W/\"a\""), None),
            Choice::NotModified
        );
        assert_eq!(choose(other(), None, own(), None), failed);
        assert_eq!(choose(own(), None, own(), None), Choice::NotModified);
        assert_eq!(choose(None, Some(999), own(), None), failed);
    }

    #[test]
    fn sends_parts_of_what_the_client_knows_only() {
        let of = |if_range: IfRange| with(|c| c.if_range = Some(if_range));
        let tag = |text: &str| of(IfRange::Tag(text.as_bytes().to_vec()));
        assert_eq!(of(IfRange::Date(1000)), PART);
        assert_eq!(of(IfRange::Date(999)), Choice::Whole);
        assert_eq!(of(IfRange::Date(1001)), Choice::Whole);
        assert_eq!(of(IfRange::Never), Choice::Whole);
        assert_eq!(tag("\"a\""), PART);
        assert_eq!(tag("\"b\""), Choice::Whole);
        assert_eq!(tag("W/\"a\""), Choice::Whole);
        let conditions = Conditions {
            range: Ranges::parse(b"bytes=5-"),
            if_range: Some(IfRange::Date(1000)),
            ..Conditions::default()
        };
        let this_second = Current {
            second: 1000,
            ..CURRENT
        };
        assert_eq!(conditions.choose(&this_second), Choice::Whole);
    }

    #[test]
    fn knows_nothing_of_what_is_made_on_the_spot() {
        let current = Current {
            modified: None,
            tag: None,
            ..CURRENT
        };
        let mut conditions = Conditions {
            if_modified_since: Some(u64::MAX),
            if_unmodified_since: Some(0),
            ..Conditions::default()
        };
        assert_eq!(conditions.choose(&current), Choice::Whole);
        conditions.if_match = tags("\"a\"");
        assert_eq!(conditions.choose(&current), Choice::PreconditionFailed);
    }
}
