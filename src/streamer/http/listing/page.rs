//! A listing for people: one page that needs nothing else, no script, no other file.

use std::fmt::{self, Write as _};

use super::super::path::encode;
use super::{CACHED_FIELDS, Item, Key, Listing, MAX_ITEMS, Page, Request, Sorting, timestamp};

const FIELDS: &str = "Content-Type: text/html; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\nReferrer-Policy: same-origin\r\n\
    Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'self'\r\n";

const STYLE: &str = include_str!("page.css");

pub(super) fn write(listing: &Listing, request: &Request) -> Page {
    let mut html = String::with_capacity(6000 + listing.items.len() * 300);
    // A String grows: this can't fail.
    let _ = document(&mut html, listing, request);
    Page {
        fields: FIELDS.into(),
        cached_fields: CACHED_FIELDS,
        body: html.into(),
    }
}

/// Text in HTML, in content and in attributes alike.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Control characters, and those that turn the direction of what follows, could
                // show a name as another.
                c if c.is_control() => f.write_str("\u{fffd}")?,
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_str("\u{fffd}")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

fn document(html: &mut String, listing: &Listing, request: &Request) -> fmt::Result {
    let path = String::from_utf8_lossy(&request.path);
    let title = format!("/{path}");
    let title = Escaped(&title);
    write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Index of {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
    )?;
    icons(html)?;
    html.write_str("<header>\n")?;
    breadcrumb(html, &request.path)?;
    summary(html, listing)?;
    html.write_str("</header>\n<main>\n")?;
    table(html, listing, request)?;
    html.write_str("</main>\n</body>\n</html>\n")
}

/// Shapes that the rows refer to.
fn icons(html: &mut String) -> fmt::Result {
    html.write_str(
        "<svg width=\"0\" height=\"0\" aria-hidden=\"true\">\n\
         <symbol id=\"dir\" viewBox=\"0 0 16 16\"><path fill=\"currentColor\" d=\"M1 3.5A1.5 1.5 0 0 1 2.5 2h3.2l1.6 2h6.2\
         A1.5 1.5 0 0 1 15 5.5v7a1.5 1.5 0 0 1-1.5 1.5h-11A1.5 1.5 0 0 1 1 12.5z\"/></symbol>\n\
         <symbol id=\"file\" viewBox=\"0 0 16 16\"><path fill=\"none\" stroke=\"currentColor\" \
         stroke-linejoin=\"round\" d=\"M3.5 1.5h6l3 3v10h-9zM9.5 1.5v3h3\"/></symbol>\n</svg>\n",
    )
}

/// The way from the top to here, each step a link.
fn breadcrumb(html: &mut String, path: &[u8]) -> fmt::Result {
    html.write_str("<nav aria-label=\"Breadcrumb\">\n<h1>Index of</h1>\n<ol>\n")?;
    let names: Vec<&[u8]> = path
        .split(|b| *b == b'/')
        .filter(|n| !n.is_empty())
        .collect();
    let mut href = String::from("/");
    for at in 0..=names.len() {
        let name = match at.checked_sub(1) {
            None => "/".into(),
            Some(at) => {
                write!(href, "{}/", encode(names[at]))?;
                String::from_utf8_lossy(names[at])
            }
        };
        let name = Escaped(&name);
        let label = if at == 0 { " aria-label=\"top\"" } else { "" };
        let current = if at == names.len() {
            " aria-current=\"page\""
        } else {
            ""
        };
        writeln!(
            html,
            "<li><a href=\"{}\"{label}{current}>{name}</a></li>",
            Escaped(&href)
        )?;
    }
    html.write_str("</ol>\n</nav>\n")
}

fn summary(html: &mut String, listing: &Listing) -> fmt::Result {
    let directories = listing.items.iter().filter(|item| item.directory).count();
    let files = listing.items.len() - directories;
    let bytes: u64 = listing
        .items
        .iter()
        .filter(|i| !i.directory)
        .map(|i| i.size)
        .sum();
    let count =
        |n: usize, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
    writeln!(
        html,
        "<p>{}, {}, {}</p>",
        count(directories, "directory", "directories"),
        count(files, "file", "files"),
        Size(bytes)
    )?;
    if listing.cut {
        writeln!(
            html,
            "<p role=\"note\"><strong>Only {MAX_ITEMS} of the entries are listed: there are more.\
             </strong></p>"
        )?;
    }
    Ok(())
}

fn table(html: &mut String, listing: &Listing, request: &Request) -> fmt::Result {
    let path = String::from_utf8_lossy(&request.path);
    let caption = format!("/{path}");
    write!(
        html,
        "<table>\n<caption>Files and directories in {}, sorted by {}</caption>\n<thead>\n<tr>\n",
        Escaped(&caption),
        sorted_by(request.sorting)
    )?;
    for (key, name) in COLUMNS {
        heading(html, key, name, request.sorting)?;
    }
    html.write_str("</tr>\n</thead>\n<tbody>\n")?;
    if !request.path.is_empty() {
        html.write_str(
            "<tr><th scope=\"row\"><a href=\"../\"><svg aria-hidden=\"true\"><use href=\"#dir\"/></svg>\
             <span>../</span></a></th><td></td><td></td></tr>\n",
        )?;
    }
    for item in &listing.items {
        row(html, item)?;
    }
    html.write_str("</tbody>\n</table>\n")?;
    if listing.items.is_empty() {
        html.write_str("<p>This directory is empty.</p>\n")?;
    }
    Ok(())
}

const COLUMNS: [(Key, &str); 3] = [
    (Key::Name, "Name"),
    (Key::Size, "Size"),
    (Key::Modified, "Modified"),
];

fn sorted_by(sorting: Sorting) -> String {
    let name = COLUMNS.iter().find(|(key, _)| *key == sorting.key);
    let name = name.map_or("", |(_, name)| name).to_lowercase();
    let order = if sorting.descending {
        "descending"
    } else {
        "ascending"
    };
    format!("{name}, {order}")
}

/// A column's head: a link that sorts by it, the other way round where that is the order already.
fn heading(html: &mut String, key: Key, name: &str, sorting: Sorting) -> fmt::Result {
    let current = key == sorting.key;
    let (aria, arrow) = match (current, sorting.descending) {
        (false, _) => ("none", ""),
        (true, false) => ("ascending", " \u{2191}"),
        (true, true) => ("descending", " \u{2193}"),
    };
    let order = if current && !sorting.descending {
        "desc"
    } else {
        "asc"
    };
    writeln!(
        html,
        "<th scope=\"col\" aria-sort=\"{aria}\"><a href=\"?sort={}&amp;order={order}\">{name}\
         <span aria-hidden=\"true\">{arrow}</span></a></th>",
        name.to_lowercase()
    )
}

fn row(html: &mut String, item: &Item) -> fmt::Result {
    let name = String::from_utf8_lossy(&item.name);
    let slash = if item.directory { "/" } else { "" };
    // `./` keeps a name with a colon from being read as a scheme.
    let href = format!("./{}{slash}", encode(&item.name));
    let icon = if item.directory { "dir" } else { "file" };
    write!(
        html,
        "<tr><th scope=\"row\"><a href=\"{}\"><svg aria-hidden=\"true\"><use href=\"#{icon}\"/></svg>\
         <span>{}{slash}</span></a></th>",
        Escaped(&href),
        Escaped(&name)
    )?;
    match item.directory {
        true => html.write_str("<td></td>")?,
        false => write!(
            html,
            "<td><data value=\"{0}\" title=\"{0} bytes\">{1}</data></td>",
            item.size,
            Size(item.size)
        )?,
    }
    let time = timestamp(item.modified);
    let (day, clock) = (&time[..10], &time[11..16]);
    writeln!(
        html,
        "<td><time datetime=\"{time}\" title=\"UTC\">{day} {clock}</time></td></tr>"
    )
}

/// A number of bytes, with three digits at most before the unit.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 999.5 {
            value /= 1024.0;
            unit += 1;
        }
        let digits = if value < 9.95 { 1 } else { 0 };
        write!(f, "{value:.digits$} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::super::Form;
    use super::*;

    #[test]
    fn tells_sizes() {
        for (size, told) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10_189, "10 KiB"),
            (1_023_487, "999 KiB"),
            (1_023_488, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(Size(size).to_string(), told);
        }
    }

    #[test]
    fn no_name_becomes_markup() {
        let hostile = "<script>alert(\"1\")</script>&amp;'\u{202e}\n";
        let item = Item {
            name: hostile.as_bytes().to_vec(),
            directory: true,
            size: 0,
            modified: 0,
        };
        let request = Request {
            path: format!("{hostile}/").into_bytes(),
            hidden: false,
            form: Form::Html,
            sorting: Sorting::asked(None),
        };
        let listing = Listing {
            items: vec![item],
            cut: true,
        };
        let page = write(&listing, &request).body;
        let page = std::str::from_utf8(&page).unwrap();
        assert!(!page.contains("<script") && !page.contains("</script"));
        assert!(!page.contains("alert(\""));
        assert!(!page.contains('\u{202e}'));
        assert!(page.contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;amp;&#39;"));
        assert!(page.contains("there are more"));
        // Each row's link leads below the directory.
        assert!(page.contains("<a href=\"./%3Cscript%3E"));
    }
}
