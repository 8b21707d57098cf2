//! A bar on standard error, for people only.

use crate::console::Console;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Between two drawings.
const REDRAW: Duration = Duration::from_millis(100);

/// What was copied so far. Clones share the bar; without a terminal there is none.
#[derive(Clone)]
pub(super) struct Progress(Option<Arc<Bar>>);

struct Bar {
    bar: ProgressBar,
    files: AtomicU64,
    found: AtomicU64,
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Progress {
    pub(super) fn new(console: &Console) -> Self {
        if !console.shows_progress() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let form = match console.color {
            true => {
                "{bar:30.cyan/blue} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg} {elapsed}, {eta} left"
            }
            false => {
                "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg} {elapsed}, {eta} left"
            }
        };
        bar.set_style(ProgressStyle::with_template(form).expect("the template is fixed"));
        bar.enable_steady_tick(REDRAW);
        Self(Some(Arc::new(Bar {
            bar,
            files: AtomicU64::new(0),
            found: AtomicU64::new(0),
        })))
    }

    /// A file of this many bytes is to be copied.
    pub(super) fn expect(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.found.fetch_add(1, Ordering::Relaxed);
            bar.bar.inc_length(bytes);
        }
    }

    /// Bytes were copied.
    pub(super) fn add(&self, bytes: usize) {
        if let Some(bar) = &self.0 {
            bar.bar.inc(bytes as u64);
        }
    }

    /// A file is done.
    pub(super) fn file_done(&self) {
        if let Some(bar) = &self.0 {
            let done = bar.files.fetch_add(1, Ordering::Relaxed) + 1;
            let found = bar.found.load(Ordering::Relaxed);
            bar.bar.set_message(format!("{done}/{found} files"));
        }
    }

    /// Runs `work` while the bar is out of the way, so that lines it prints stay whole.
    pub(super) fn aside(&self, work: impl FnOnce()) {
        match &self.0 {
            Some(bar) => bar.bar.suspend(work),
            None => work(),
        }
    }
}
