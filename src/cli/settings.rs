//! Where the settings of `serve` come from: flags, before environment variables, before a
//! configuration file, before defaults.
//!
//! Every option of the command line can be set in each of these ways, by its own name: `--rate`,
//! `SPLICEPORT_RATE`, `rate = "10M"`. What a file sets takes the place of the default, so that
//! there is one definition of an option, and one check of its value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use clap::error::ErrorKind::{ArgumentConflict, MissingRequiredArgument};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use toml::de::{DeTable, DeValue};

use super::args::Args;
use super::error::Failure;

const SERVE: &str = "serve";
/// What says where to read settings, or to print them, is none; and a secret is not printed, nor in
/// a file with other things.
const NO_SETTINGS: [&str; 5] = ["config", "print_config", "help", "version", "upload_token"];

/// The settings of a run of `serve`, as text: an option's name, and its values.
pub(super) struct Settings {
    values: BTreeMap<String, (Vec<String>, &'static str)>,
}

/// Why there are no settings.
pub(super) enum Refused {
    /// The command line, or the environment: clap says it, and helps.
    Call(clap::Error),
    /// The configuration file.
    File(Failure),
}

/// Reads the command line, the environment and the configuration file.
pub(super) fn read(args: &[OsString]) -> Result<(Args, Settings), Refused> {
    let mut command = command();
    let mut matches = parse(&command, args)?;
    let path = match matches.subcommand() {
        Some((SERVE, serve)) => serve.get_one::<std::path::PathBuf>("config").cloned(),
        _ => None,
    };
    let mut from_file = Vec::new();
    if let Some(path) = path {
        let text = std::fs::read_to_string(&path).map_err(|e| {
            let what = format!("cannot read the configuration file {}", path.display());
            Refused::File(Failure::io(what, &e))
        })?;
        let found = entries(&path, &text, &command).map_err(Refused::File)?;
        for (id, values) in found {
            from_file.push(id.clone());
            command = command.mut_subcommand(SERVE, |serve| {
                serve.mut_arg(id, |arg| arg.default_values(values))
            });
        }
        matches = parse(&command, args)?;
    }
    let settings = Settings::new(&command, &matches, &from_file);
    let args = Args::from_arg_matches(&matches).map_err(Refused::Call)?;
    Ok((args, settings))
}

fn parse(command: &Command, args: &[OsString]) -> Result<ArgMatches, Refused> {
    // Parsing completes a definition, which then can't be changed any more.
    let matches = command.clone().try_get_matches_from(args);
    matches.map_err(Refused::Call)
}

/// The command line's definition, with a variable for each setting.
fn command() -> Command {
    Args::command().mut_subcommand(SERVE, |serve| {
        serve.mut_args(|arg| {
            let id = arg.get_id().as_str();
            // (The token's variable is read where the token is needed.)
            if NO_SETTINGS.contains(&id) && id != "config" {
                return arg;
            }
            let name = id.to_uppercase();
            arg.env(format!("SPLICEPORT_{name}")).hide_env(true)
        })
    })
}

/// Those of the variables that are named like settings, and are none.
pub(super) fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let command = command();
    let serve = command.find_subcommand(SERVE).into_iter();
    let known: Vec<_> = serve
        .flat_map(Command::get_arguments)
        .filter_map(Arg::get_env)
        .collect();
    let is_unknown = |name: &OsString| {
        let text = name.to_string_lossy();
        let other = ["SPLICEPORT_BACKEND", "SPLICEPORT_UPLOAD_TOKEN"];
        text.starts_with("SPLICEPORT_")
            && !text.starts_with("SPLICEPORT_TEST_")
            && !other.contains(&&*text)
            && !known.contains(&name.as_os_str())
    };
    let names = names.filter(is_unknown);
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

fn key(arg: &Arg) -> String {
    arg.get_id().as_str().replace('_', "-")
}

fn settings_of(command: &Command) -> impl Iterator<Item = &Arg> {
    let serve = command.find_subcommand(SERVE).into_iter();
    let args = serve.flat_map(Command::get_arguments);
    args.filter(|arg| !NO_SETTINGS.contains(&arg.get_id().as_str()))
}

fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// What a file sets, by the options' ids; each value is one that the option takes.
fn entries(
    path: &Path,
    text: &str,
    command: &Command,
) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let at = |offset: usize, what: &str| {
        let line = 1 + text[..offset.min(text.len())].matches('\n').count();
        Failure::usage(format!("{}, line {line}: {what}", path.display()))
    };
    let table = DeTable::parse(text).map_err(|e| {
        let offset = e.span().map_or(0, |span| span.start);
        at(offset, e.message().trim())
    })?;
    let mut found = Vec::new();
    // In the order of the file, for the first mistake to be told first.
    let mut keys: Vec<_> = table.get_ref().iter().collect();
    keys.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in keys {
        let start = name.span().start;
        let name = name.get_ref().as_ref();
        let Some(arg) = settings_of(command).find(|arg| key(arg) == name) else {
            return Err(at(start, &unknown(command, name)));
        };
        let value = value.get_ref();
        let values = match value.as_array() {
            Some(values) if takes_several(arg) => {
                let values = values.iter().map(|value| plain(value.get_ref()));
                values.collect::<Option<Vec<_>>>()
            }
            _ => plain(value).map(|value| vec![value]),
        };
        let Some(values) = values else {
            let kind = value.type_str();
            return Err(at(start, &format!("{name} takes no {kind}")));
        };
        if is_flag(arg) {
            if value.as_bool().is_none() {
                return Err(at(start, &format!("{name} is true or false")));
            }
        } else if let Err(e) = check(command, arg, &values) {
            return Err(at(start, &e));
        }
        found.push((arg.get_id().to_string(), values));
    }
    Ok(found)
}

fn takes_several(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// A value as the command line has it.
fn plain(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(yes) => yes.to_string(),
        _ => return None,
    })
}

/// Whether an option takes these values; in the option's own words.
fn check(command: &Command, arg: &Arg, values: &[String]) -> Result<(), String> {
    let mut call = vec!["spliceport".to_owned(), SERVE.to_owned()];
    match arg.get_long() {
        Some(long) => call.extend(values.iter().map(|value| format!("--{long}={value}"))),
        None => {
            call.push("--".to_owned());
            call.extend(values.iter().cloned());
        }
    }
    match command.clone().try_get_matches_from(call) {
        Ok(_) => Ok(()),
        // Others that it goes with, or doesn't, are looked at with all that is set.
        Err(e) if matches!(e.kind(), MissingRequiredArgument | ArgumentConflict) => Ok(()),
        Err(e) => {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default();
            Err(first.trim_start_matches("error: ").to_owned())
        }
    }
}

fn unknown(command: &Command, name: &str) -> String {
    let known: Vec<_> = settings_of(command).map(key).collect();
    format!(
        "there is no setting {name:?}; those there are: {}",
        known.join(", ")
    )
}

impl Settings {
    fn new(command: &Command, matches: &ArgMatches, from_file: &[String]) -> Settings {
        let mut values = BTreeMap::new();
        if let Some((SERVE, serve)) = matches.subcommand() {
            for arg in settings_of(command) {
                let id = arg.get_id().as_str();
                let raw = serve.get_raw(id).into_iter().flatten();
                let set = raw.map(|value| value.to_string_lossy().into_owned());
                let source = match serve.value_source(id) {
                    Some(ValueSource::CommandLine) => "command line",
                    Some(ValueSource::EnvVariable) => "environment",
                    _ if from_file.iter().any(|other| other == id) => "configuration file",
                    _ => "default",
                };
                values.insert(key(arg), (set.collect(), source));
            }
        }
        Settings { values }
    }

    /// The settings as a configuration file, with where each comes from.
    pub(super) fn to_toml(&self) -> String {
        let mut text = String::new();
        for (name, (values, source)) in &self.values {
            let quoted: Vec<_> = values.iter().map(|value| quote(value)).collect();
            // A String grows: this can't fail.
            let _ = match &quoted[..] {
                [] => writeln!(text, "# {name} is not set"),
                [one] => writeln!(text, "{name} = {one} # {source}"),
                several => writeln!(text, "{name} = [{}] # {source}", several.join(", ")),
            };
        }
        text
    }

    /// The names of the settings that differ.
    pub(super) fn changed<'a>(&'a self, other: &Settings) -> Vec<&'a str> {
        let differs = |name: &str, values: &Vec<String>| {
            let others = other.values.get(name);
            others.is_none_or(|(others, _)| others != values)
        };
        let all = self.values.iter();
        all.filter(|(name, (values, _))| differs(name, values))
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

/// A value in TOML. Numbers, and what is true or false, are what they look like.
fn quote(value: &str) -> String {
    let is_number = !value.starts_with('0') && value.bytes().all(|b| b.is_ascii_digit());
    if matches!(value, "true" | "false" | "0") || (is_number && !value.is_empty()) {
        return value.to_owned();
    }
    // JSON's strings are strings of TOML.
    serde_json::Value::from(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
        entries(Path::new("f"), text, &command()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_file_sets_options_by_their_names() {
        let text =
            "# comment\nrate = '1M'\nidle-timeout = 2.5\nthreads = 3\ndirectory = \"/srv\"\n";
        let expected = [
            ("rate", "1M"),
            ("idle_timeout", "2.5"),
            ("threads", "3"),
            ("directory", "/srv"),
        ];
        let expected = expected.map(|(id, value)| (id.to_owned(), vec![value.to_owned()]));
        assert_eq!(of(text).unwrap(), expected);
    }

    #[test]
    fn variables_that_set_nothing_are_found() {
        let names = [
            "SPLICEPORT_RATE",
            "SPLICEPORT_RAET",
            "SPLICEPORT_CONFIG",
            "SPLICEPORT_BACKEND",
            "SPLICEPORT_UPLOAD_TOKEN",
            "SPLICEPORT_TEST_X",
            "SPLICEPORT",
            "PATH",
        ];
        let unknown = unknown_variables(names.map(OsString::from).into_iter());
        assert_eq!(unknown, ["SPLICEPORT_RAET"]);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line, said) in [
            ("\n\nnonsense = 1\n", 3, "\"nonsense\""),
            ("idle_timeout = 1\n", 1, "idle-timeout"),
            ("config = 'x'\n", 1, "\"config\""),
            ("rate = '1M'\nthreads = 0\n", 2, "--threads"),
            ("rate = [1]\n", 1, "array"),
            ("rate = {a = 1}\n", 1, "table"),
            ("[section]\nrate = 1\n", 1, "\"section\""),
            ("\nrate = \n", 2, ""),
            ("rate = 1\nrate = 2\n", 2, "duplicate"),
            ("route = 'walk'\n", 1, "sendfile"),
        ] {
            let refused = of(text).unwrap_err();
            assert!(refused.contains(&format!("f, line {line}: ")), "{refused}");
            assert!(refused.contains(said), "{text:?}: {refused}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read() {
        let args = ["spliceport", "serve", "--rate", "1M", "a\"b"].map(OsString::from);
        let Ok((_, settings)) = read(&args) else {
            panic!("they are arguments");
        };
        let text = settings.to_toml();
        assert!(text.contains("rate = \"1M\" # command line\n"), "{text}");
        assert!(text.contains("idle-timeout = 60 # default\n"), "{text}");
        assert!(text.contains("# threads is not set\n"), "{text}");
        let read = of(&text).unwrap();
        assert!(read.contains(&("directory".to_owned(), vec!["a\"b".to_owned()])));
    }
}
