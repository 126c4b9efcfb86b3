//! A listing for programs.

use serde::Serialize;

use super::super::path::encode;
use super::{CACHED_FIELDS, Listing, Page, Request, timestamp};

const FIELDS: &str = "Content-Type: application/json\r\n\
                      X-Content-Type-Options: nosniff\r\n";

#[derive(Serialize)]
struct Document {
    path: String,
    entries: Vec<Entry>,
    /// There are more entries than are told.
    truncated: bool,
}

#[derive(Serialize)]
struct Entry {
    /// Where it isn't UTF-8, an approximation.
    name: String,
    /// Relative to the directory, encoded: names it exactly.
    href: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    modified: String,
}

pub(super) fn write(listing: &Listing, request: &Request) -> Page {
    let entries = listing.items.iter().map(|item| Entry {
        name: String::from_utf8_lossy(&item.name).into_owned(),
        href: format!(
            "{}{}{}",
            // What stands before a colon would be a scheme.
            if item.name.contains(&b':') { "./" } else { "" },
            encode(&item.name),
            if item.directory { "/" } else { "" }
        ),
        r#type: if item.directory { "directory" } else { "file" },
        size: (!item.directory).then_some(item.size),
        modified: timestamp(item.modified),
    });
    let document = Document {
        path: format!("/{}", String::from_utf8_lossy(&request.path)),
        entries: entries.collect(),
        truncated: listing.cut,
    };
    // Strings and numbers can be written down.
    let body = serde_json::to_vec(&document).unwrap_or_default();
    Page {
        fields: FIELDS.into(),
        cached_fields: CACHED_FIELDS,
        body: body.into(),
    }
}
