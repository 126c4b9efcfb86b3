//! A browser (Debian's chromium, without a screen) at the listing, and at a file that it fetches by
//! ranges. Skipped, aloud, where chromedriver is not installed.
//!
//! `SPLICEPORT_SCREENSHOTS=docs cargo test --test browser` makes the pictures of the documentation.

mod support;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::*;
use tempfile::TempDir;

on_both_backends! {
    people_find_their_way_through_a_listing,
    media_are_fetched_by_ranges,
}

/// A browser, driven by WebDriver (W3C).
struct Browser {
    /// Closes the browser with it.
    _driver: Running,
    driver: Client<TcpStream>,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// `None` where there is no chromedriver.
    fn start() -> Option<Browser> {
        // Free now; the driver takes no other as well.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        let port = port.expect("a port").port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).stdin(Stdio::null());
        if Command::new("chromedriver")
            .arg("--version")
            .output()
            .is_err()
        {
            not_run("there is no chromedriver here (package chromium-driver)");
            return None;
        }
        let driver = Running::start(command);
        let stream = wait_for("the driver", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
        let profile = tempfile::tempdir().expect("a directory");
        let mut browser = Browser {
            _driver: driver,
            driver: Client::new(stream),
            session: String::new(),
            _profile: profile,
        };
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--autoplay-policy=no-user-gesture-required",
            "--window-size=1000,640",
            profile.as_str(),
        ];
        let wanted =
            json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": args}}}});
        let session = browser.call("POST", "/session", Some(&wanted));
        session["sessionId"]
            .as_str()
            .expect("a session")
            .clone_into(&mut browser.session);
        Some(browser)
    }

    /// One command; its value.
    fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.driver.send(request.as_bytes());
        let response = self.driver.got();
        let mut value: Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!(response.status, 200, "{method} {path}: {value}");
        value["value"].take()
    }

    fn post(&mut self, what: &str, body: Value) -> Value {
        let path = format!("/session/{}/{what}", self.session);
        self.call("POST", &path, Some(&body))
    }

    fn open(&mut self, url: &str) {
        self.post("url", json!({ "url": url }));
    }

    /// The value of a script (`return ...`); of a promise, what it comes to.
    fn run(&mut self, script: &str) -> Value {
        self.post("execute/sync", json!({ "script": script, "args": [] }))
    }

    fn text(&mut self, script: &str) -> String {
        let value = self.run(script);
        value
            .as_str()
            .unwrap_or_else(|| panic!("{script}: {value}"))
            .to_owned()
    }

    fn element(&mut self, selector: &str) -> String {
        let found = self.post(
            "element",
            json!({"using": "css selector", "value": selector}),
        );
        let id = found.as_object().and_then(|o| o.values().next());
        id.and_then(Value::as_str).expect("an element").to_owned()
    }

    fn click(&mut self, selector: &str) {
        let id = self.element(selector);
        self.post(&format!("element/{id}/click"), json!({}));
    }

    /// Presses keys where the focus is.
    fn press(&mut self, keys: &str) {
        let downs_and_ups = |key: char| {
            let key = key.to_string();
            [
                json!({"type": "keyDown", "value": key}),
                json!({"type": "keyUp", "value": key}),
            ]
        };
        let actions: Vec<Value> = keys.chars().flat_map(downs_and_ups).collect();
        let keyboard = json!([{"type": "key", "id": "keyboard", "actions": actions}]);
        self.post("actions", json!({ "actions": keyboard }));
    }

    /// `light` or `dark`, as the system would say.
    fn prefer(&mut self, scheme: &str) {
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        let command = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": feature}});
        self.post("goog/cdp/execute", command);
    }

    /// Keeps a picture, where one is asked for.
    fn screenshot(&mut self, name: &str) {
        let path = format!("/session/{}/screenshot", self.session);
        let picture = self.call("GET", &path, None);
        let picture = decode(picture.as_str().expect("a picture"));
        assert!(picture.starts_with(b"\x89PNG"));
        if let Some(directory) = std::env::var_os("SPLICEPORT_SCREENSHOTS") {
            let path = Path::new(&directory).join(name);
            fs::write(path, picture).expect("the picture can be kept");
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.session.is_empty() {
            let path = format!("/session/{}", self.session);
            self.call("DELETE", &path, None);
        }
    }
}

/// Base64.
fn decode(text: &str) -> Vec<u8> {
    let digit = |b: u8| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(digit).collect();
    let group = |four: &[u8]| {
        let bits = four.iter().fold(0_u32, |bits, d| bits << 6 | u32::from(*d));
        let bits = bits << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

/// Names in the rows, in their order.
const NAMES: &str =
    "return [...document.querySelectorAll('tbody a')].map(a => a.textContent).join()";
const PATH: &str = "return location.pathname + location.search";

fn people_find_their_way_through_a_listing(backend: &str) {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let dir = directory(&[
        ("files/photos/harbour.jpg", &[0; 40_000]),
        ("files/releases/notes.txt", b"hello"),
        ("files/chapter 2.pdf", &[0; 310_000]),
        ("files/chapter 10.pdf", &[0; 1_200_000]),
        ("files/readme.txt", b"hello from a file"),
        ("files/Überblick & <mehr>.txt", b"hello"),
        ("files/a colon: here.txt", b"hello"),
        ("files/empty/.hidden", b""),
    ]);
    let server = Server::with(backend, dir.path(), &["--list"]);
    let base = format!("http://{}", server.address);
    browser.prefer("light");
    browser.open(&format!("{base}/files/"));
    assert_eq!(browser.text("return document.title"), "Index of /files/");
    let directories = "../,empty/,photos/,releases/";
    let names = "a colon: here.txt,chapter 2.pdf,chapter 10.pdf,readme.txt,Überblick & <mehr>.txt";
    assert_eq!(browser.text(NAMES), format!("{directories},{names}"));

    // By size, and the other way round.
    browser.click("thead th:nth-child(2) a");
    assert_eq!(browser.text(PATH), "/files/?sort=size&order=asc");
    browser.click("thead th:nth-child(2) a");
    assert_eq!(browser.text(PATH), "/files/?sort=size&order=desc");
    let first = "return document.querySelector('tbody tr:nth-child(5) a').textContent";
    assert_eq!(browser.text(first), "chapter 10.pdf");
    let sorted = "return document.querySelector('th[aria-sort=descending]').textContent.trim()";
    assert!(browser.text(sorted).starts_with("Size"));

    // Links: into a directory, out of it, to a file whatever its name.
    browser.click("tbody tr:nth-child(3) a");
    assert_eq!(browser.text(PATH), "/files/photos/");
    browser.click("tbody tr:first-child a");
    assert_eq!(browser.text(PATH), "/files/");
    browser.click("nav li:first-child a");
    assert_eq!(browser.text(PATH), "/");
    browser.open(&format!("{base}/files/"));
    browser.click("tbody tr:last-child a");
    assert_eq!(browser.text("return document.body.textContent"), "hello");
    browser.open(&format!("{base}/files/empty/"));
    assert!(
        browser
            .text("return document.body.textContent")
            .contains("is empty")
    );

    // With the keyboard alone: the first stop is the way up.
    browser.open(&format!("{base}/files/"));
    browser.press("\u{e004}");
    let focus = "return document.activeElement.getAttribute('aria-label')";
    assert_eq!(browser.text(focus), "top");
    let outline = "return getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.text(outline), "solid");
    browser.press("\u{e007}");
    wait_for("the way up", || (browser.text(PATH) == "/").then_some(()));

    // For who does not see it: a table with a caption, heads of columns and rows, a language.
    browser.open(&format!("{base}/files/"));
    for (what, count) in [
        ("html[lang]", 1),
        ("main", 1),
        ("nav[aria-label]", 1),
        ("a[aria-current=page]", 1),
        ("table caption", 1),
        ("thead th[scope=col][aria-sort]", 3),
        ("tbody th[scope=row]", 9),
        ("svg:not([aria-hidden=true])", 0),
        ("script", 0),
    ] {
        let script = format!("return String(document.querySelectorAll('{what}').length)");
        assert_eq!(browser.text(&script), count.to_string(), "{what}");
    }

    // Both schemes, each with a contrast that is easily read (WCAG 2, 1.4.3: 4.5).
    let mut backgrounds = vec![];
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        let background = browser.text("return getComputedStyle(document.body).backgroundColor");
        for element in [
            "body",
            "tbody a",
            "thead a",
            "tbody td time",
            "header p",
            "nav a",
        ] {
            let color =
                format!("return getComputedStyle(document.querySelector('{element}')).color");
            let contrast = contrast(&browser.text(&color), &background);
            assert!(contrast > 4.5, "{element}, {scheme}: {contrast}");
        }
        backgrounds.push(background);
        browser.screenshot(&format!("listing-{scheme}.png"));
    }
    assert_ne!(backgrounds[0], backgrounds[1]);
}

/// The ratio of two colours (`rgb(1, 2, 3)`), as WCAG 2 defines it.
fn contrast(a: &str, b: &str) -> f64 {
    let luminance = |color: &str| {
        let inner = color.strip_prefix("rgb(").and_then(|c| c.strip_suffix(')'));
        let channels = inner.unwrap_or_else(|| panic!("{color}")).split(", ");
        let linear = channels.map(|channel| {
            let value = channel.parse::<f64>().expect("a number") / 255.0;
            match value <= 0.040_45 {
                true => value / 12.92,
                false => ((value + 0.055) / 1.055).powf(2.4),
            }
        });
        linear
            .zip([0.2126, 0.7152, 0.0722])
            .map(|(c, weight)| c * weight)
            .sum::<f64>()
    };
    let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
    a.max(b) / a.min(b)
}

/// A minute of silence: WAV, 8 bits, mono.
fn silence(rate: u32, seconds: u32) -> Vec<u8> {
    let length = rate * seconds;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + length).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(rate.to_le_bytes());
    wav.extend(rate.to_le_bytes());
    wav.extend(b"\x01\0\x08\0data");
    wav.extend(length.to_le_bytes());
    wav.resize(wav.len() + length as usize, 0x80);
    wav
}

fn media_are_fetched_by_ranges(backend: &str) {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let wav = silence(44_100, 600);
    let page = b"<!DOCTYPE html><title>player</title><audio preload=metadata src=long.wav></audio>";
    let dir = directory(&[("player.html", page), ("long.wav", &wav)]);
    let server = Server::start(backend, dir.path());
    browser.open(&format!("http://{}/player.html", server.address));
    // Far behind what is loaded for the start: only by a range can it be had.
    let sought = browser.run(
        "const audio = document.querySelector('audio');
         const event = name => new Promise((done, failed) => {
             audio.addEventListener(name, done, {once: true});
             audio.addEventListener('error', () => failed(audio.error.message), {once: true});
         });
         const ready = audio.readyState >= 1 ? Promise.resolve() : event('loadedmetadata');
         return ready.then(() => { audio.currentTime = 590; return event('seeked'); })
             .then(() => [audio.duration, audio.currentTime, audio.seekable.end(0)]
                 .map(Math.round).join());",
    );
    assert_eq!(sought, "600,590,600");
    let part = browser.run(
        "return fetch('long.wav', {headers: {Range: 'bytes=20000000-20000099'}})
             .then(r => r.arrayBuffer().then(b => [r.status, b.byteLength,
                 r.headers.get('Content-Range')].join(' ')));",
    );
    let told = format!("206 100 bytes 20000000-20000099/{}", wav.len());
    assert_eq!(part, Value::String(told));
}
