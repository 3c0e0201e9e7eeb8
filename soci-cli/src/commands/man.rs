//! `soci man`: the manual pages, made from the same words as `--help`. What stands below the flags there is taken apart into the
//! sections that readers of manual pages look for.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

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
        None => Ok(Results.write_all(&page(&root, None)?)?),
        Some(dir) => {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            write(&root, None, dir)
        }
    }
}

/// Writes the page of `command`, which is below `parent`, and those of its subcommands: `soci.1`, `soci-index.1`,
/// `soci-index-list.1`, ...
fn write(command: &Command, parent: Option<&Command>, dir: &Path) -> Result<()> {
    let path = dir.join(format!("{}.1", name(command)));
    fs::write(&path, page(command, parent)?).with_context(|| format!("cannot write {}", path.display()))?;
    shown(command).try_for_each(|below| write(below, Some(command), dir))
}

/// The name of a command's page.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// The commands below this one that have pages.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
}

fn page(command: &Command, parent: Option<&Command>) -> Result<Vec<u8>> {
    render(command, parent).context("cannot make the page")
}

fn render(command: &Command, parent: Option<&Command>) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if shown(command).next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    let below = command.get_after_long_help().or(command.get_after_help());
    let below = below.map(ToString::to_string).unwrap_or_default();
    let mut roff = Roff::new();
    for section in ["EXAMPLES", "EXIT STATUS", "NOTES"] {
        let parts: Vec<&str> =
            sections(&below).filter(|(title, _)| *title == section).map(|(_, text)| text).collect();
        match parts[..] {
            [] if section == "EXIT STATUS" => {
                roff.control("SH", [section]);
                roff.text([
                    roman("0 if it is done, 1 if it failed. "),
                    bold("soci"),
                    roman("(1) has the others."),
                ]);
            }
            [] => {}
            _ => {
                roff.control("SH", [section]);
                for text in parts {
                    paragraph(&mut roff, text);
                }
            }
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    let others = parent.into_iter().map(name).chain(shown(command).map(name));
    let mut pages: Vec<_> = others.map(|name| (name.to_owned(), 1)).collect();
    pages.push(("soci-snapshotter-grpc".to_owned(), 8));
    let count = pages.len();
    for (at, (name, section)) in pages.into_iter().enumerate() {
        let end = if at + 1 == count { "" } else { "," };
        roff.text([bold(name), roman(format!("({section}){end}"))]);
    }
    roff.to_writer(&mut page)?;
    // Each part has begun with the same definitions.
    let page = String::from_utf8(page).map_err(io::Error::other)?;
    let begin = page.find(".TH").unwrap_or_default();
    let (definitions, rest) = page.split_at(begin);
    let rest = if definitions.is_empty() { rest.to_owned() } else { rest.replace(definitions, "") };
    Ok(format!("{definitions}{rest}").into_bytes())
}

/// The paragraphs below the flags of `--help`, each with the section it belongs to.
fn sections(text: &str) -> impl Iterator<Item = (&'static str, &str)> {
    text.split("\n\n").map(str::trim_end).filter(|text| !text.is_empty()).map(|text| {
        let headed = |word: &str| text.strip_prefix(word);
        if let Some(rest) = headed("Examples:").or_else(|| headed("Example:")) {
            ("EXAMPLES", rest)
        } else if let Some(rest) = headed("Exit codes:") {
            ("EXIT STATUS", rest)
        } else {
            ("NOTES", text)
        }
    })
}

/// A paragraph; indented lines stay lines.
fn paragraph(roff: &mut Roff, text: &str) {
    let (mut literal, mut first) = (false, true);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let indented = line.starts_with("  ");
        if indented != literal {
            roff.control(if indented { "EX" } else { "EE" }, []);
            literal = indented;
        } else if first {
            roff.control("PP", []);
        }
        first = false;
        roff.text([roman(if indented { line } else { line.trim() })]);
    }
    if literal {
        roff.control("EE", []);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_the_sections_that_readers_look_for() {
        fn check(command: &Command, parent: Option<&Command>) {
            let page = String::from_utf8(page(command, parent).unwrap()).unwrap();
            for section in ["NAME", "SYNOPSIS", "\"EXIT STATUS\"", "\"SEE ALSO\""] {
                assert!(page.contains(&format!(".SH {section}\n")), "{section} in\n{page}");
            }
            assert!(!page.contains(".SH EXTRA"), "{page}");
            let leaf = shown(command).next().is_none();
            assert!(!leaf || page.contains(".SH EXAMPLES\n"), "{} has no example", name(command));
            shown(command).for_each(|below| check(below, Some(command)));
        }
        let mut root = Cli::command();
        root.build();
        check(&root, None);
    }

    #[test]
    fn text_below_the_flags_is_taken_apart() {
        let text = "Exit codes: 0 done;\n1 failed.\n\nExamples:\n  a b\n  c\n\nMore words.\n";
        let parts: Vec<_> = sections(text).collect();
        assert_eq!(
            parts,
            [("EXIT STATUS", " 0 done;\n1 failed."), ("EXAMPLES", "\n  a b\n  c"), ("NOTES", "More words.")]
        );
        let mut roff = Roff::new();
        paragraph(&mut roff, parts[1].1);
        assert!(roff.to_roff().ends_with(".EX\n  a b\n  c\n.EE\n"), "{}", roff.to_roff());
    }
}
