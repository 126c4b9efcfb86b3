//! What every benchmark starts with: its options, and a directory that is removed in the end.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

/// The options that all benchmarks take.
pub struct Options {
    /// About a minute instead of a full run.
    pub quick: bool,
    json: Option<PathBuf>,
}

impl Options {
    /// From the command line; what Cargo adds to it is passed over.
    pub fn from_args() -> Options {
        let mut options = Options {
            quick: false,
            json: None,
        };
        let mut args = std::env::args_os().skip(1);
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--quick") => options.quick = true,
                Some("--json") => options.json = args.next().map(PathBuf::from),
                _ => {}
            }
        }
        options
    }

    /// Writes the figures, if a file for them was named.
    pub fn write(&self, rows: &impl Serialize) -> io::Result<()> {
        let Some(path) = &self.json else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(rows)?;
        std::fs::write(path, text)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    }
}

/// A directory for a benchmark's files (`files`) and for what servers keep (`state`).
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> io::Result<Scratch> {
        let root = std::env::temp_dir().join(format!("spliceport-{name}-{}", std::process::id()));
        let scratch = Scratch(root);
        std::fs::create_dir_all(scratch.files())?;
        std::fs::create_dir_all(scratch.state())?;
        Ok(scratch)
    }

    pub fn files(&self) -> PathBuf {
        self.0.join("files")
    }

    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {e}", self.0.display());
        }
    }
}
