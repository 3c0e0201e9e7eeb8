//! Progress on a terminal: a bar for each blob that is on its way, below the lines of results and warnings.
//!
//! Owns what is drawn on standard error. What must always hold: nothing is drawn unless standard error is a terminal and
//! output is wanted, lines go around the bars, and no bar is left behind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressFinish, ProgressStyle};
use soci_core::{digest::Digest, image::Descriptor};

use super::stream;

const BYTES: &str = "{msg} [{bar:24}] {bytes} of {total_bytes}, {bytes_per_sec}";
const STEPS: &str = "{msg} [{bar:24}] {pos} of {len}";
/// Hex digits that stand for a digest.
const SHORT: usize = 12;

/// The lines and bars of one command.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Bars>);

#[derive(Debug)]
struct Bars {
    quiet: bool,
    /// `None`: nobody would see them.
    all: Option<MultiProgress>,
    of_blobs: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Progress {
    /// With `quiet` there are neither bars nor lines of results.
    pub(crate) fn new(quiet: bool) -> Self {
        let all = if quiet { None } else { stream::bars() };
        Self(Arc::new(Bars { quiet, all, of_blobs: Mutex::default() }))
    }

    /// Bars, without lines of results.
    pub(crate) fn bars_alone() -> Self {
        Self(Arc::new(Bars { quiet: true, all: stream::bars(), of_blobs: Mutex::default() }))
    }

    /// Prints a line of results.
    pub(crate) fn line(&self, text: &str) {
        if !self.0.quiet {
            out!("{text}");
        }
    }

    /// Prints a note: what is good to know and needs nothing to be done. Warnings are said whatever was asked for.
    pub(crate) fn note(&self, text: &str) {
        if !self.0.quiet {
            say!("note: {text}");
        }
    }

    /// Moves the bar of a blob on, which is there from the first to the last byte.
    pub(crate) fn advance(&self, blob: &Descriptor, bytes: u64) {
        if self.0.all.is_none() {
            return;
        }
        let mut bars = self.0.of_blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(blob.digest).or_insert_with(|| self.bytes(&short(&blob.digest), blob.size));
        bar.inc(bytes);
        if bar.position() >= blob.size {
            bar.finish_and_clear();
            bars.remove(&blob.digest);
        }
    }

    /// A bar of `size` bytes.
    pub(crate) fn bytes(&self, what: &str, size: u64) -> ProgressBar {
        self.bar(what, size, BYTES)
    }

    /// A bar of `count` steps that may take long each.
    pub(crate) fn steps(&self, what: &str, count: u64) -> ProgressBar {
        let bar = self.bar(what, count, STEPS);
        if self.0.all.is_some() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        bar
    }

    /// A line that says how far something is, of which nobody knows the end.
    pub(crate) fn line_of(&self, label: &str) -> ProgressBar {
        let Some(all) = &self.0.all else { return ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{spinner} {prefix}{msg}").expect("the template is right");
        all.add(ProgressBar::new_spinner()).with_style(style).with_prefix(label.to_owned())
    }

    fn bar(&self, what: &str, length: u64, template: &str) -> ProgressBar {
        let Some(all) = &self.0.all else { return ProgressBar::hidden() };
        let style =
            ProgressStyle::with_template(template).expect("templates are right").progress_chars("=> ");
        all.add(ProgressBar::new(length))
            .with_finish(ProgressFinish::AndClear)
            .with_style(style)
            .with_message(what.to_owned())
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        if let Some(all) = &self.all {
            let _ = all.clear(); // the terminal is gone: so are the bars
        }
    }
}

/// A digest that fits beside a bar.
pub(crate) fn short(digest: &Digest) -> String {
    digest.hex()[..SHORT].to_owned()
}
