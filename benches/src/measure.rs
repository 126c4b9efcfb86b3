//! Figures: what a server used during a window of time, taken by the load itself so that the window
//! is the one in which it counts; and medians with their spread.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The server's processor and the load's.
pub const SERVER_CORE: usize = 0;
pub const LOAD_CORE: usize = 1;

/// What a server used in a window.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Used {
    pub seconds: f64,
    /// Processor time of the server's processes, to the nanosecond: with all their threads, those
    /// that have ended too, and io_uring's workers (clock_getcpuclockid(3)).
    pub cpu: f64,
    /// The same, split by the ticks of the clock.
    pub user: f64,
    pub system: f64,
    /// Share of its processor's time that was not idle, whoever used it.
    pub core: f64,
    /// Share of it that went to interrupts, as the ticks of the clock saw it.
    pub interrupts: f64,
    pub threads: usize,
    /// Most resident memory since [`reset_peak`], in bytes.
    pub peak: u64,
}

/// Takes what a server uses.
pub struct Window {
    pid: u32,
    start: Instant,
    run: HashMap<u32, u64>,
    ticks: (u64, u64),
    core: Core,
}

impl Window {
    /// Begins. `pid` is the server's process; its children count too.
    pub fn open(pid: u32) -> Window {
        Window {
            pid,
            run: run_times(pid),
            ticks: ticks(pid),
            core: Core::now(SERVER_CORE),
            start: Instant::now(),
        }
    }

    /// Ends.
    pub fn close(self) -> Used {
        let seconds = self.start.elapsed().as_secs_f64();
        let core = Core::now(SERVER_CORE);
        let (run, ticks) = (run_times(self.pid), ticks(self.pid));
        let nanos = |(id, time): (&u32, &u64)| time - self.run.get(id).unwrap_or(&0).min(time);
        let cpu = run.iter().map(nanos).sum::<u64>() as f64 / 1e9;
        let hertz = hertz();
        let user = (ticks.0 - self.ticks.0.min(ticks.0)) as f64 / hertz;
        let system = (ticks.1 - self.ticks.1.min(ticks.1)) as f64 / hertz;
        let share = if user + system > 0.0 {
            user / (user + system)
        } else {
            0.0
        };
        Used {
            seconds,
            cpu,
            user: cpu * share,
            system: cpu * (1.0 - share),
            core: (1.0 - (core.idle - self.core.idle) as f64 / hertz / seconds).clamp(0.0, 1.0),
            interrupts: (core.interrupts - self.core.interrupts) as f64 / hertz / seconds,
            threads: threads(self.pid).len(),
            peak: processes(self.pid)
                .iter()
                .map(|id| status(*id, "VmHWM:"))
                .sum(),
        }
    }
}

fn hertz() -> f64 {
    // SAFETY: takes and touches no memory.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

/// A process and its descendants.
pub fn processes(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(id) = all.get(at) {
        let path = format!("/proc/{id}/task/{id}/children");
        let children = fs::read_to_string(path).unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|c| c.parse::<u32>().ok()),
        );
        at += 1;
    }
    all
}

/// Threads of a process and its descendants.
pub fn threads(pid: u32) -> Vec<u32> {
    let of = |id: u32| {
        fs::read_dir(format!("/proc/{id}/task"))
            .into_iter()
            .flatten()
    };
    let tasks = processes(pid).into_iter().flat_map(of).flatten();
    tasks
        .filter_map(|t| t.file_name().to_str()?.parse().ok())
        .collect()
}

/// Nanoseconds that a process and its descendants have run, each by its clock.
fn run_times(pid: u32) -> HashMap<u32, u64> {
    let of = |id: u32| {
        let mut clock = 0;
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: both calls write to this stack frame alone.
        let result = unsafe {
            match libc::clock_getcpuclockid(id as i32, &raw mut clock) {
                0 => libc::clock_gettime(clock, &raw mut time),
                error => error,
            }
        };
        let nanos = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
        (result == 0).then_some((id, nanos))
    };
    processes(pid).into_iter().filter_map(of).collect()
}

/// Ticks in user mode and in the kernel, of all threads that there were.
fn ticks(pid: u32) -> (u64, u64) {
    processes(pid)
        .into_iter()
        .fold((0, 0), |(user, system), id| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let rest = stat.rsplit(')').next().unwrap_or("");
            let field = |n: usize| {
                rest.split_whitespace()
                    .nth(n)
                    .and_then(|f| f.parse::<u64>().ok())
            };
            (
                user + field(11).unwrap_or(0),
                system + field(12).unwrap_or(0),
            )
        })
}

/// Ticks of one processor.
#[derive(Clone, Copy)]
struct Core {
    idle: u64,
    interrupts: u64,
}

impl Core {
    fn now(cpu: usize) -> Core {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let name = format!("cpu{cpu} ");
        let line = stat.lines().find(|l| l.starts_with(&name)).unwrap_or("");
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .filter_map(|t| t.parse().ok())
            .collect();
        let tick = |n: usize| ticks.get(n).copied().unwrap_or(0);
        Core {
            idle: tick(3) + tick(4),
            interrupts: tick(5) + tick(6),
        }
    }
}

/// A field of `/proc/PID/status` that is in KiB, in bytes.
pub fn status(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(field))
        .unwrap_or("");
    let kib = line
        .split_whitespace()
        .next()
        .and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Lets the most resident memory be counted anew.
pub fn reset_peak(pid: u32) {
    for id in processes(pid) {
        let _ = fs::write(format!("/proc/{id}/clear_refs"), "5");
    }
}

/// System calls a second of a server that is under load now, counted by `perf stat` at the
/// kernel's tracepoint; nothing where that can't be had.
pub fn system_calls(pid: u32, time: Duration) -> Option<f64> {
    let threads: Vec<String> = threads(pid).iter().map(u32::to_string).collect();
    let output = Command::new("perf")
        .args([
            "stat",
            "-x,",
            "-e",
            "raw_syscalls:sys_enter",
            "-t",
            &threads.join(","),
        ])
        .args(["sleep", &time.as_secs_f64().to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|l| l.contains("raw_syscalls"))?;
    let count: f64 = line.split(',').next()?.parse().ok()?;
    Some(count / time.as_secs_f64())
}

/// Middle, smallest and largest of some figures; of an even number, the middle is the mean of two.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
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
        let last = figures.len().saturating_sub(1);
        Spread {
            median: f64::midpoint(pick(last / 2), pick(last.div_ceil(2))),
            min: pick(0),
            max: pick(last),
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
