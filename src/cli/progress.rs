//! How far a transfer is, on a terminal; and what it came to.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar on standard error, if that is a terminal.
pub(super) struct Bar {
    bar: Option<ProgressBar>,
}

impl Bar {
    /// For `length` bytes.
    pub(super) fn new(length: u64) -> Bar {
        let bar = std::io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(10);
            let bar = ProgressBar::with_draw_target(Some(length), target);
            let style = ProgressStyle::with_template(
                "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
            );
            match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Bar { bar }
    }

    /// What is to be told of the progress: the bytes, and of how many if that is news. `None`
    /// where nobody looks.
    pub(super) fn progress(&self) -> Option<impl FnMut(u64, Option<u64>) + 'static> {
        let bar = self.bar.clone()?;
        Some(move |bytes, of: Option<u64>| {
            if let Some(of) = of {
                bar.set_length(of);
            }
            bar.set_position(bytes);
        })
    }

    /// Takes it off the screen.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `N bytes in S s (R MiB/s)`.
pub(super) fn summary(bytes: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let rate = bytes as f64 / f64::from(1 << 20) / seconds.max(1e-9);
    format!("{bytes} bytes in {seconds:.2} s ({rate:.1} MiB/s)")
}
