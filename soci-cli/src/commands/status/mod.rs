//! `soci status`: what came of the starts on this node, as the snapshotter tells it.
//!
//! Holds no state. With --json the snapshotter's own document goes through; names in it are the snapshotter's promises.

mod document;
mod text;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use self::document::Document;
use crate::global::Global;
use crate::hint::Hinted;
use crate::output::stream;
use crate::status_socket;

/// How often --watch looks.
const AGAIN: Duration = Duration::from_secs(1);
/// Clears a terminal.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Arguments of `soci status`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Only starts of images whose name contains this, or whose manifest has this digest.
    image: Option<String>,
    /// Show it again each second.
    #[arg(long)]
    watch: bool,
    /// Print the snapshotter's document; with --watch a line each second.
    #[arg(long)]
    json: bool,
    /// The snapshotter's status socket. [default: status.sock in --root]
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let socket = args.socket.clone().unwrap_or_else(|| global.store_root().join("status.sock"));
    loop {
        let answer = status_socket::get(&socket, "/status").map_err(|error| {
            let hint = "is soci-snapshotter-grpc running? Its directory is --root, its socket [status] socket; only root may ask";
            Hinted::new(format!("cannot ask the snapshotter on {}: {error}", socket.display()), hint)
        })?;
        let words = if args.json { filtered(&answer, args)? } else { shown(&answer, args)? };
        if args.watch && !args.json && std::io::stdout().is_terminal() {
            stream::results(CLEAR);
        }
        stream::results(&words);
        if !args.watch || stream::has_failed() {
            return Ok(());
        }
        sleep(AGAIN);
    }
}

fn shown(answer: &str, args: &Args) -> Result<String> {
    let mut document: Document =
        serde_json::from_str(answer).context("the snapshotter's answer is of another version")?;
    document.starts.retain(|start| is_meant(args, &start.image, &start.digest));
    Ok(text::text(&document))
}

/// The document with the starts that are meant.
fn filtered(answer: &str, args: &Args) -> Result<String> {
    let mut document: serde_json::Value =
        serde_json::from_str(answer).context("the snapshotter's answer is not JSON")?;
    if let Some(starts) = document.get_mut("starts").and_then(serde_json::Value::as_array_mut) {
        starts.retain(|start| {
            let word = |key: &str| start.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
            is_meant(args, word("image"), word("digest"))
        });
    }
    let text =
        if args.watch { serde_json::to_string(&document)? } else { serde_json::to_string_pretty(&document)? };
    Ok(text + "\n")
}

fn is_meant(args: &Args, image: &str, digest: &str) -> bool {
    args.image.as_deref().is_none_or(|wanted| image.contains(wanted) || digest == wanted)
}
