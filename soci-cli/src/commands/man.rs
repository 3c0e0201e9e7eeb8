//! `soci man`: the manual pages, made from the same words as `--help`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::{cli::Cli, output::stream::Results};

/// Arguments of `soci man`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Write a page for each command into this directory. Without it, the page of soci itself goes to standard output.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut root = Cli::command();
    root.build();
    match &args.dir {
        None => Ok(Results.write_all(&page(&root)?)?),
        Some(dir) => {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            write(&root, dir)
        }
    }
}

/// Writes the page of `command` and those of its subcommands: `soci.1`, `soci-index.1`, `soci-index-list.1`, ...
fn write(command: &Command, dir: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = dir.join(format!("{name}.1"));
    fs::write(&path, page(command)?).with_context(|| format!("cannot write {}", path.display()))?;
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    command.get_subcommands().filter(shown).try_for_each(|command| write(command, dir))
}

fn page(command: &Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page).context("cannot make the page")?;
    Ok(page)
}
