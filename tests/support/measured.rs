//! A server whose metrics are scraped, and what it says in them.

#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::support::*;

/// The samples of a page, by name and labels as they stand there.
#[derive(Debug)]
pub struct Samples(pub BTreeMap<String, f64>);

impl Samples {
    pub fn get(&self, name: &str) -> f64 {
        let value = self.0.get(name);
        *value.unwrap_or_else(|| panic!("there is no {name} in {self:#?}"))
    }

    /// The sum of a metric over its labels.
    pub fn sum(&self, name: &str) -> f64 {
        let of = |key: &&String| key.split('{').next() == Some(name);
        let all: Vec<_> = self.0.keys().filter(of).collect();
        assert!(!all.is_empty(), "there is no {name} in {self:#?}");
        all.into_iter().map(|key| self.0[key]).sum()
    }
}

/// Reads OpenMetrics, and holds it against the rules of that form (OpenMetrics 1.0).
pub fn parse(text: &str) -> Samples {
    let text = text.strip_suffix("# EOF\n").expect("an end that is marked");
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let (mut family, mut kind) = ("", "");
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (what, rest) = comment.split_once(' ').expect("a comment of a kind");
            let (name, value) = rest.split_once(' ').expect("a name and a value");
            match what {
                "HELP" => {
                    assert!(families.insert(name), "{name} comes twice");
                    assert!(!value.trim_matches('.').is_empty(), "{name} has no help");
                    family = name;
                    kind = "";
                }
                "TYPE" => {
                    assert!(families.contains(name) || families.insert(name), "{line}");
                    family = name;
                    kind = value;
                }
                "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{line}"),
                _ => panic!("{line}"),
            }
            assert_eq!(name, family, "{line}");
            continue;
        }
        let (key, value) = line.rsplit_once(' ').expect("a sample");
        let name = key.split('{').next().expect("a name");
        let suffix = name.strip_prefix(family).expect("a sample of its family");
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_count", "_sum"],
            _ => panic!("{family} is a {kind}"),
        };
        assert!(suffixes.contains(&suffix), "{kind}: {line}");
        let value: f64 = value.parse().expect("a number");
        assert!(value >= 0.0, "{line}");
        let before = samples.insert(key.to_owned(), value);
        assert_eq!(before, None, "{line} comes twice");
    }
    let samples = Samples(samples);
    for histogram in [
        "spliceport_request_duration_seconds",
        "spliceport_response_size_bytes",
    ] {
        let le = |key: &str| {
            let bound = key.strip_prefix(histogram)?.strip_prefix("_bucket{le=\"")?;
            bound.strip_suffix("\"}")?.parse::<f64>().ok()
        };
        let mut buckets: Vec<_> = samples
            .0
            .iter()
            .filter_map(|(k, v)| Some((le(k)?, *v)))
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(
            buckets.len() > 10 && buckets.is_sorted_by_key(|bucket| bucket.1),
            "{buckets:?}"
        );
        let last = buckets.last().expect("there are some");
        assert_eq!(last.0, f64::INFINITY);
        assert_eq!(last.1, samples.get(&format!("{histogram}_count")));
    }
    samples
}

/// A server, and where it tells its metrics.
pub struct Measured {
    pub server: Server,
    pub socket: PathBuf,
    _place: tempfile::TempDir,
}

/// As Prometheus asks.
pub const ACCEPT: &str = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";

impl Measured {
    pub fn with(backend: &str, directory: &Path, more: &[&str]) -> Measured {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("metrics");
        let address = format!("unix:{}", socket.display());
        let more = [more, &["--metrics", &address]].concat();
        let mut server = Server::with(backend, directory, &more);
        let line = server.running.line();
        assert_eq!(line, format!("metrics on http://{address}/metrics"));
        Measured {
            server,
            socket,
            _place: place,
        }
    }

    pub fn ask(&self, request: &str) -> Response {
        let stream = UnixStream::connect(&self.socket).expect("it answers");
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut client = Client::new(stream);
        client.send(request.as_bytes());
        client.response(request.as_bytes())
    }

    pub fn scrape(&self) -> Samples {
        let page = self.ask(&format!(
            "GET /metrics HTTP/1.1\r\nHost: test\r\n{ACCEPT}\r\n"
        ));
        assert_eq!(page.status, 200);
        parse(&String::from_utf8(page.body).expect("UTF-8"))
    }

    /// Scrapes until so many requests are over. (A client may have a response before the server has
    /// counted it.)
    pub fn after(&self, requests: u32) -> Samples {
        wait_for("the requests", || {
            let samples = self.scrape();
            let over: f64 = samples.get("spliceport_request_duration_seconds_count");
            assert!(over <= f64::from(requests), "{samples:#?}");
            (over == f64::from(requests)).then_some(samples)
        })
    }
}
