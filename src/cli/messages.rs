//! What the program says on standard error.
//!
//! It is written at once, until a server begins to serve: from then on it goes through a bounded
//! [queue](super::line_queue), since whoever reads standard error may be slow, or gone. What does not
//! fit is dropped and counted: serving never waits for it, nor does the end for long.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::line_queue::{self, Output, Queue};

/// How long the end waits for the last lines to be written.
const LAST: Duration = Duration::from_secs(1);

/// Where lines go, once there is somebody to write them.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Has the log's lines go to standard error.
pub(super) fn begin() {
    let environment = env_logger::Env::default().default_filter_or("warn");
    env_logger::Builder::from_env(environment)
        .target(env_logger::Target::Pipe(Box::new(Messages)))
        .init();
}

/// Starts the thread that writes from now on. What is given up before (rights, files) holds for it.
///
/// # Errors
/// No thread can be started.
pub(super) fn queue() -> io::Result<()> {
    let stderr = Stderr(io::stderr().as_fd().try_clone_to_owned()?.into());
    let queue = Arc::<Queue>::default();
    let lines = Arc::clone(&queue);
    std::thread::Builder::new()
        .name("messages".to_owned())
        .spawn(move || line_queue::run(&lines, stderr))?;
    let _ = QUEUE.set(queue);
    Ok(())
}

/// Says a whole line.
pub(super) fn say(line: &str) {
    // There is nobody to be told that nothing can be said.
    let _ = Messages.write_all(line.as_bytes());
}

/// The end: waits [a moment](LAST) for what is queued to be written.
pub(super) fn finish() {
    if let Some(queue) = QUEUE.get() {
        let _ = queue.finish(LAST);
    }
}

/// Takes whole lines.
struct Messages;

impl Write for Messages {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => {
                queue.push(lines);
                Ok(lines.len())
            }
            None => io::stderr().write(lines),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Stderr(File);

impl Output for Stderr {
    const NAME: &'static str = "standard error";

    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.0.write(lines)
    }
}
