//! What a build says while it goes on, in the words of upstream's tool. Warnings and notes go to standard error. Holds no state.

use indicatif::HumanBytes;
use soci_core::{
    index::{Event, SkipReason},
    prefetch::{Chosen, Meaning, NotLocated},
};

use super::pack_args;
use crate::output::progress::Progress;

/// Says what became of a layer, in the words of upstream's tool; warnings go to standard error.
pub(crate) fn tell(event: Event<'_>, progress: &Progress) {
    match event {
        Event::Read { blob, bytes } => progress.advance(blob, bytes),
        Event::Ztoc { layer, ztoc, existed } => {
            let known = if existed { " (already exists)" } else { "" };
            progress.line(&format!("layer {} -> ztoc {ztoc}{known}", layer.digest));
        }
        Event::NoFineTable { layer, reason } => {
            say!("warning: no fine table - layer {} {reason}", layer.digest);
        }
        Event::Skipped { layer, reason } => {
            let size = match reason {
                SkipReason::TooSmall(_) => format!("size {} ", layer.size),
                _ => String::new(),
            };
            progress.line(&format!(
                "ztoc skipped - layer {} ({}) {size}{reason}",
                layer.digest, layer.media_type
            ));
        }
        Event::Prefetch { layer, artifact } => {
            progress.line(&format!("Created prefetch artifact for layer {layer}: {artifact}"));
        }
        Event::FineIndex { manifest, .. } => progress.line(&format!("fine index -> {}", manifest.digest)),
        Event::Chosen(chosen) => tell_chosen(chosen),
        Event::FileNotFound(path) => {
            say!("warning: prefetch file {path} not found in any layer");
        }
        Event::PathsNotFound { count, first } => {
            let first = String::from_utf8_lossy(first);
            say!("warning: {count} paths of the trace are no files of this image (the first: {first})");
        }
        Event::LayerUnread(layer) => {
            say!("warning: files of layer {} ({}) cannot be listed", layer.digest, layer.media_type);
        }
        Event::OutsideSpans(bytes) => {
            progress.note(&format!(
                "{bytes} bytes of the trace lie in layers without a zTOC, which are fetched whole"
            ));
        }
        Event::Ahead { ahead, .. } if ahead.cut_spans > 0 => {
            let bytes = HumanBytes(ahead.cut_bytes);
            progress.note(&format!("--prefetch-budget leaves out {} spans, {bytes}", ahead.cut_spans));
        }
        Event::Ahead { .. } => {}
        Event::Pack(pack) => pack_args::tell(pack, progress),
        Event::NoPack(reason) => {
            let reason = soci_core::error::chain(reason);
            say!("warning: no pack is made: {reason} (--no-pack asks for none)");
        }
    }
}

/// Says what a line of the prefetch list stands for, unless that is plain.
fn tell_chosen(chosen: &Chosen) {
    let line = &chosen.line;
    match &chosen.meaning {
        Meaning::File => {}
        Meaning::Link(own) => {
            say!("note: prefetch file {line} is {}", String::from_utf8_lossy(own));
        }
        Meaning::Directory(files) => {
            say!("note: prefetch path {line} is a directory, {files} files with content");
        }
        Meaning::Pattern(files) => {
            say!("note: prefetch pattern {line} matches {files} files with content");
        }
        Meaning::Hidden => {
            say!("warning: prefetch file {line} is removed by an upper layer");
        }
        Meaning::Nothing(NotLocated::Missing) => {
            say!("warning: prefetch file {line} not found in any layer");
        }
        Meaning::Nothing(reason) => say!("warning: prefetch file {line}: {reason}"),
    }
    match chosen.unspanned {
        0 => {}
        files => {
            say!("note: {files} files of {line} lie in layers without a zTOC, which are fetched whole");
        }
    }
}
