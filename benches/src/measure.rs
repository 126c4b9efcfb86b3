//! Clocks, pinning, medians.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Processor time of this process, its threads and the kernel's workers for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub user: Duration,
    pub system: Duration,
}

impl Cpu {
    pub fn now() -> Cpu {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the kernel fills the struct; all zeros is a valid one.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        let time = |t: libc::timeval| {
            Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64)
        };
        Cpu {
            user: time(usage.ru_utime),
            system: time(usage.ru_stime),
        }
    }

    pub fn since(self, before: Cpu) -> f64 {
        (self.user + self.system - before.user - before.system).as_secs_f64()
    }
}

/// One measured run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sample {
    pub seconds: f64,
    pub bytes: u64,
    pub cpu_seconds: f64,
}

impl Sample {
    /// Runs something and takes its time.
    pub fn of(bytes: u64, run: impl FnOnce() -> io::Result<()>) -> io::Result<Sample> {
        let (cpu, start) = (Cpu::now(), Instant::now());
        run()?;
        Ok(Sample {
            seconds: start.elapsed().as_secs_f64(),
            bytes,
            cpu_seconds: Cpu::now().since(cpu),
        })
    }

    pub fn gigabytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds / 1e9
    }

    pub fn cpu_per_gigabyte(&self) -> f64 {
        self.cpu_seconds / (self.bytes as f64 / 1e9)
    }
}

/// Middle, smallest and largest of some figures.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let pick = |at: usize| figures.get(at).copied().unwrap_or(f64::NAN);
        Spread {
            median: pick(figures.len() / 2),
            min: pick(0),
            max: pick(figures.len().saturating_sub(1)),
        }
    }
}

/// Binds this thread, and those it starts, to one processor.
pub fn pin(cpu: usize) {
    // SAFETY: a cpu_set_t of zeros is an empty set; the calls read and write that set alone.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}
