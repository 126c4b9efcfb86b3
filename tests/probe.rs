//! `spliceport probe`: what runs here, and why.

mod support;

use serde_json::Value;
use support::*;

fn probe(args: &[&str], environment: Option<&str>) -> (Option<i32>, String, String) {
    let mut command = program(&["probe"]);
    command.args(args);
    if let Some(backend) = environment {
        command.env("SPLICEPORT_BACKEND", backend);
    }
    let output = command.output().expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    (output.status.code(), stdout, stderr)
}

fn json(args: &[&str], environment: Option<&str>) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let (code, stdout, stderr) = probe(&args, environment);
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).expect("JSON")
}

#[test]
fn tells_which_backend_runs() {
    let (code, text, stderr) = probe(&[], None);
    assert_eq!(code, Some(0), "{stderr}");
    let first = text.lines().next().unwrap_or_default();
    assert!(first.starts_with("spliceport "), "{text}");
    assert!(first.contains(" on Linux "), "{text}");
    for word in [
        "\nbackend: ",
        "\nlimits\n",
        "RLIMIT_NOFILE",
        "pipe-max-size",
    ] {
        assert!(text.contains(word), "{text}");
    }
    let json = json(&[], None);
    let backend = json["backend"].as_str().expect("a backend");
    assert!(text.contains(&format!("\nbackend: {backend} (")), "{text}");
    assert!(json["reason"].as_str().is_some_and(|r| !r.is_empty()));
    assert!(json["limits"]["pipe_max_size_bytes"].is_u64());
    if backend == "ring" {
        let features = json["features"].as_array().expect("features");
        for feature in features {
            for key in ["name", "since", "used_for"] {
                let value = feature[key].as_str().expect("a string");
                assert!(text.contains(value), "{value} is not in {text}");
            }
            assert!(feature["found"].is_boolean());
        }
        let splice = features.iter().find(|f| f["name"] == "SPLICE");
        assert_eq!(splice.map(|f| &f["found"]), Some(&Value::Bool(true)));
    } else {
        for key in ["what", "advice"] {
            let value = json["refusal"][key].as_str().expect("a string");
            assert!(text.contains(value), "{value} is not in {text}");
        }
    }
}

#[test]
fn takes_the_backend_that_is_asked_for() {
    let asked = json(&["--backend", "emulated"], None);
    assert_eq!(asked["backend"], "emulated");
    let environment = json(&[], Some("emulated"));
    assert_eq!(environment["backend"], "emulated");
    let reason = environment["reason"].as_str().expect("a reason");
    assert!(reason.contains("SPLICEPORT_BACKEND"), "{reason}");
    if ring() == "ring" {
        // The environment is for `auto` alone.
        let asked = json(&["--backend", "ring"], Some("emulated"));
        assert_eq!(asked["backend"], "ring");
        assert_eq!(json(&[], Some("auto"))["backend"], "ring");
    }
}

#[test]
fn says_what_is_wrong() {
    let (code, _, stderr) = probe(&["--backend", "fast"], None);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("ring or emulated"), "{stderr}");
    let (code, _, stderr) = probe(&[], Some("fast"));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("SPLICEPORT_BACKEND"), "{stderr}");
    let (code, _, stderr) = probe(&["more"], None);
    assert_eq!(code, Some(2), "{stderr}");
}

#[test]
fn survives_a_reader_that_goes_away() {
    let mut child = program(&["probe"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
