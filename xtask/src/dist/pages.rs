//! What a shell and `man` want to know: the pages and completions that `soci` makes, the daemon's page, and that of its
//! configuration file, which is made from docs/configuration.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Programs;
use super::files::source;
use crate::exec;

/// All of it, as bytes.
pub(super) struct Pages {
    /// Pages by their file names (`soci.1`).
    pub(super) manual: BTreeMap<String, Vec<u8>>,
    pub(super) bash: Vec<u8>,
    pub(super) zsh: Vec<u8>,
    pub(super) fish: Vec<u8>,
}

/// Asks the program that runs here for its pages; `scratch` is a folder to be made.
pub(super) fn make(programs: &[Programs], scratch: &Path) -> Result<Pages> {
    let ours = programs.iter().map(|programs| programs.folder.join("soci"));
    let soci = ours
        .into_iter()
        .find(|soci| exec::succeeds(exec::command([soci]).arg("--version")))
        .context("the manual pages are made by soci itself: build it for this machine, too")?;
    exec::read(exec::command([&soci]).args(["man", "--dir"]).arg(scratch))?;
    let mut manual = BTreeMap::new();
    for entry in fs::read_dir(scratch)? {
        let entry = entry?;
        manual.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
    }
    manual.insert("soci-snapshotter-grpc.8".to_owned(), source("packaging/man/soci-snapshotter-grpc.8")?);
    let reference = String::from_utf8(source("docs/configuration.md")?)?;
    manual.insert("soci-snapshotter-grpc.toml.5".to_owned(), configuration(&reference)?.into_bytes());
    let completion = |shell: &str| -> Result<Vec<u8>> {
        Ok(exec::read(exec::command([&soci]).args(["completion", shell]))?.into_bytes())
    };
    Ok(Pages { manual, bash: completion("bash")?, zsh: completion("zsh")?, fish: completion("fish")? })
}

/// The page of the configuration file, from the chapter of the reference that has the tables of keys.
fn configuration(reference: &str) -> Result<String> {
    let chapter = reference
        .split("\n## config.toml\n")
        .nth(1)
        .context("docs/configuration.md has no chapter config.toml")?;
    let chapter = chapter.split("\n## ").next().unwrap_or_default();
    let mut page = ".TH SOCI-SNAPSHOTTER-GRPC.TOML 5\n.SH NAME\n\
        soci-snapshotter-grpc.toml \\- configuration of the soci snapshotter\n.SH SYNOPSIS\n\
        /etc/soci-snapshotter-grpc/config.toml\n.SH DESCRIPTION\n"
        .to_owned();
    for line in chapter.lines() {
        match cells(line) {
            Some(cells) if cells.iter().all(|cell| cell.chars().all(|c| c == '-' || c == ':')) => {}
            Some(cells) if cells.first().is_some_and(|cell| cell == "key") => {}
            Some(cells) => page += &key(&cells),
            None if line.starts_with("### ") => {
                let _ = writeln!(page, ".SH {}", text(&line[4..]).to_uppercase()); // a String takes everything
            }
            None if line.trim().is_empty() => page += ".PP\n",
            None => page.extend([text(line).as_str(), "\n"]),
        }
    }
    page += ".SH FILES\n.TP\n/etc/soci-snapshotter-grpc/config.toml\nRead when the daemon starts. A missing file means the defaults.\n\
        .SH EXAMPLES\n.EX\nsoci-snapshotter-grpc config default\nsoci-snapshotter-grpc config dump\n.EE\n\
        .SH SEE ALSO\n.BR soci-snapshotter-grpc (8),\n.BR soci (1)\n";
    Ok(page)
}

/// The cells of a row of a table.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let escaped = inner.replace("\\|", "\u{1}");
    Some(escaped.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect())
}

/// A row as an entry; a key that begins a table of the file has its name in front.
fn key(cells: &[String]) -> String {
    let empty = String::new();
    let cell = |at: usize| cells.get(at).unwrap_or(&empty);
    let mut entry = String::new();
    let mut name = cell(0).as_str();
    if let Some((table, rest)) = name.strip_prefix("**[").and_then(|name| name.split_once("]**")) {
        let _ = writeln!(entry, ".SS [{}]", text(table));
        name = rest.trim();
    }
    let ours = name.contains("*ours*");
    let name = name.replace("*ours*", "");
    let _ = writeln!(entry, ".TP\n{}", text(name.trim()));
    let facts = [("", cell(1)), ("default ", cell(2))];
    let facts = facts.iter().filter(|(_, fact)| !fact.is_empty());
    let mut facts: Vec<String> = facts.map(|(word, fact)| format!("{word}{}", text(fact))).collect();
    if ours {
        facts.push("not in upstream".to_owned());
    }
    if !facts.is_empty() {
        let _ = write!(entry, "({}) ", facts.join("; "));
    }
    entry + &format!("{}\n", text(cell(3)))
}

/// Words of Markdown as roff: code is bold, links are their words.
fn text(markdown: &str) -> String {
    let mut roff = String::new();
    let mut is_code = false;
    let mut rest = markdown;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        rest = after;
        match first {
            '`' => {
                is_code = !is_code;
                roff += if is_code { "\\fB" } else { "\\fR" };
            }
            '[' if !is_code => {
                if let Some((words, target)) = after.split_once("](")
                    && let Some((_, end)) = target.split_once(')')
                {
                    roff += &text(words);
                    rest = end;
                } else {
                    roff.push('[');
                }
            }
            '*' if !is_code => {}
            '\\' => roff += "\\e",
            '-' => roff += "\\-",
            other => roff.push(other),
        }
    }
    if roff.starts_with(['.', '\'']) { format!("\\&{roff}") } else { roff }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_becomes_entries() {
        let page = configuration(
            "# x\n\n## config.toml\nWords of `a-b` and [a link](there.md).\n\n| key | type | default | meaning |\n|---|---|---|---|\n\
             | **[http]** `Dial` | ms | 30 | connect |\n| `free` *ours* | `a` \\| `b` | none | |\n\n## Other\nno\n",
        );
        let page = page.unwrap();
        assert!(page.contains("Words of \\fBa\\-b\\fR and a link.\n"), "{page}");
        assert!(page.contains(".SS [http]\n.TP\n\\fBDial\\fR\n(ms; default 30) connect\n"), "{page}");
        assert!(
            page.contains(".TP\n\\fBfree\\fR\n(\\fBa\\fR | \\fBb\\fR; default none; not in upstream) \n"),
            "{page}"
        );
        assert!(!page.contains("no\n.SH"), "{page}");
    }

    #[test]
    fn the_reference_gives_a_page() {
        let page =
            configuration(&String::from_utf8(source("docs/configuration.md").unwrap()).unwrap()).unwrap();
        assert!(page.matches(".TP\n").count() > 30 && page.contains(".SS [pack]\n"), "{page}");
    }
}
