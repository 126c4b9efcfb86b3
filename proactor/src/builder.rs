//! [`Builder`]: settings, and the one place where the backend is chosen.

use std::collections::VecDeque;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use crate::backend::{Backend, Context, DIRECT_TURN};
use crate::buf::BufGroup;
use crate::emulated::Emulated;
use crate::pipe::{PipeLimits, PipePool};
use crate::pool::Workers;
use crate::port::Port;
use crate::proactor::{BackendKind, Proactor};
use crate::probe::{Limits, Probe, kernel_release, refusal};
use crate::ring::{OpenError, Ring};
use crate::stats::Counters;

/// Which backend to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum BackendChoice {
    /// The ring where io_uring can be had, else the emulated port. The environment variable
    /// `SPLICEPORT_BACKEND` (`ring`, `emulated`, `auto`) overrides it.
    #[default]
    Auto,
    /// The ring, or an error.
    Ring,
    /// The emulated port.
    Emulated,
}

impl FromStr for BackendChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<BackendChoice, String> {
        match text {
            "auto" => Ok(BackendChoice::Auto),
            "ring" => Ok(BackendChoice::Ring),
            "emulated" => Ok(BackendChoice::Emulated),
            _ => Err(format!(
                "{text:?} is no backend: use auto, ring or emulated"
            )),
        }
    }
}

/// Settings for a [`Proactor`].
#[derive(Clone, Debug)]
pub struct Builder {
    choice: BackendChoice,
    pub(crate) entries: u32,
    pub(crate) workers: usize,
    /// What was asked for.
    pipes: Option<usize>,
    pipe_size: usize,
    recv_buffers: u16,
    recv_buffer_size: usize,
    drain: Duration,
}

pub(crate) struct Started {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) cx: Context,
    pub(crate) kind: BackendKind,
    pub(crate) probe: Probe,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder::new()
    }
}

impl Builder {
    /// The environment variable that overrides [`BackendChoice::Auto`].
    pub const ENVIRONMENT: &'static str = "SPLICEPORT_BACKEND";

    /// The defaults.
    pub fn new() -> Builder {
        Builder {
            choice: BackendChoice::Auto,
            entries: 512,
            workers: 16,
            pipes: None,
            pipe_size: 1 << 20,
            recv_buffers: 128,
            recv_buffer_size: 16 << 10,
            drain: Duration::from_secs(2),
        }
    }

    /// Which backend. Default: [`BackendChoice::Auto`].
    pub fn backend(mut self, choice: BackendChoice) -> Builder {
        self.choice = choice;
        self
    }

    /// The submission queue's size, rounded up to a power of two. No bound on operations under
    /// way. Default: 512.
    pub fn entries(mut self, entries: u32) -> Builder {
        self.entries = entries.clamp(8, 32768);
        self
    }

    /// The most worker threads: the pool's, and for each of its two kinds the kernel's behind the
    /// ring (`IORING_REGISTER_IOWQ_MAX_WORKERS`). Default: 16.
    pub fn workers(mut self, workers: usize) -> Builder {
        self.workers = workers.max(1);
        self
    }

    /// The most pipes leased at a time, for transfers. Default: 96, or as many as take a quarter of
    /// the descriptors that the process may have (RLIMIT_NOFILE, its soft limit, when this is built)
    /// if that is fewer; each takes two.
    pub fn pipes(mut self, count: usize) -> Builder {
        self.pipes = Some(count);
        self
    }

    /// The size of a pipe in bytes (`F_SETPIPE_SZ`), a quarter of it for files that are not cached;
    /// where that is refused, smaller ones are used. Default: 1 MiB.
    pub fn pipe_size(mut self, bytes: usize) -> Builder {
        self.pipe_size = bytes.clamp(4096, 1 << 30);
        self
    }

    /// Number and size in bytes of the buffers for [`Op::RecvMulti`](crate::Op::RecvMulti); the
    /// number is rounded up to a power of two. Default: 128 of 16 KiB.
    pub fn recv_buffers(mut self, count: u16, size: usize) -> Builder {
        self.recv_buffers = count.clamp(1, 1 << 15).next_power_of_two();
        self.recv_buffer_size = size.clamp(64, 1 << 24);
        self
    }

    /// How long a dropped proactor waits for operations to end. Default: 2 seconds.
    pub fn drain(mut self, time: Duration) -> Builder {
        self.drain = time;
        self
    }

    /// Makes the proactor, for this thread.
    ///
    /// # Errors
    /// Exhaustion (`EMFILE`, `ENFILE`, `ENOMEM`). With [`BackendChoice::Ring`], whatever keeps
    /// io_uring from being used, with advice. `InvalidInput` where the environment variable names
    /// no backend.
    pub fn build(self) -> io::Result<Proactor> {
        let port = Port::new()?;
        let limits = Limits::read();
        let pipes = PipeLimits {
            count: self.pipes.unwrap_or(default_pipes(limits.open_files)),
            size: self.pipe_size,
        };
        let mut cx = Context {
            pipes: PipePool::new(pipes),
            bufs: BufGroup::new(self.recv_buffers, self.recv_buffer_size, port.clone()),
            workers: Workers::new(port.clone(), self.workers),
            port,
            ready: VecDeque::new(),
            counters: Counters::default(),
            direct_left: DIRECT_TURN,
        };
        let (choice, asked) = self.effective_choice()?;
        let mut probe = Probe {
            kernel: kernel_release(),
            backend: BackendKind::Emulated,
            reason: asked,
            ring_refused: None,
            features: Vec::new(),
            limits,
        };
        let mut backend: Option<Box<dyn Backend>> = None;
        if choice != BackendChoice::Emulated {
            match Ring::open(&self, &mut cx) {
                Ok((ring, features)) => {
                    probe.backend = BackendKind::Ring;
                    probe.features = features;
                    if choice == BackendChoice::Auto {
                        probe.reason = "io_uring is available".to_owned();
                    }
                    backend = Some(Box::new(ring));
                }
                Err(OpenError::Exhausted(e)) => return Err(e),
                Err(OpenError::Unavailable(e)) => {
                    let refusal = refusal(&e, &limits);
                    let why = format!("{}; {}", refusal.what, refusal.advice);
                    if choice == BackendChoice::Ring {
                        return Err(io::Error::new(e.kind(), why));
                    }
                    log::info!("no io_uring here, so the emulated backend runs: {why}");
                    probe.reason = format!("io_uring can't be had: {why}");
                    probe.ring_refused = Some(refusal);
                }
            }
        }
        let backend = match backend {
            Some(backend) => backend,
            None => Box::new(Emulated::open()?),
        };
        let started = Started {
            backend,
            cx,
            kind: probe.backend,
            probe,
        };
        Proactor::start(started, self.drain)
    }

    /// The choice, after the environment's say, and who made it.
    fn effective_choice(&self) -> io::Result<(BackendChoice, String)> {
        if self.choice != BackendChoice::Auto {
            return Ok((self.choice, "asked for by the program".to_owned()));
        }
        let Some(value) = std::env::var_os(Self::ENVIRONMENT) else {
            return Ok((BackendChoice::Auto, String::new()));
        };
        let choice = value.to_string_lossy().parse().map_err(|e: String| {
            let name = Self::ENVIRONMENT;
            io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: {e}"))
        })?;
        Ok((choice, format!("asked for by {}", Self::ENVIRONMENT)))
    }
}

/// How many pipes there may be unless somebody says so, where the process may have so many
/// descriptors.
fn default_pipes(open_files: Option<u64>) -> usize {
    const MOST: u64 = 96;
    // Two descriptors each; all of them together a quarter of what there is.
    open_files.map_or(MOST, |limit| (limit / 8).min(MOST)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_take_a_share_of_the_descriptors() {
        for (open_files, pipes) in [
            (None, 96),
            (Some(1 << 20), 96),
            (Some(1024), 96),
            (Some(256), 32),
            (Some(64), 8),
            (Some(0), 0),
        ] {
            assert_eq!(default_pipes(open_files), pipes, "{open_files:?}");
        }
    }
}
