//! What `soci` says about itself: completions that a shell takes, and a manual page for each command.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use harness::soci::Soci;

/// The visible subcommands that `soci [WORDS] --help` lists, with `help` itself left out.
fn commands(soci: &Soci, words: &[&str]) -> Vec<String> {
    let help = soci.run(words.iter().chain(&["--help"])).ok();
    let listed = help.split("Commands:\n").nth(1).unwrap_or_default();
    let listed = listed.lines().take_while(|line| !line.is_empty());
    // Names stand two blanks in; explanations that go on in another line stand further in.
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_has_a_manual_page_that_names_it() {
    let soci = Soci::new();
    soci.run(["man", "--dir", "pages"]).ok();
    let mut wanted = BTreeSet::from(["soci".to_owned()]);
    for command in commands(&soci, &[]) {
        wanted.extend(commands(&soci, &[&command]).iter().map(|below| format!("soci-{command}-{below}")));
        wanted.insert(format!("soci-{command}"));
    }
    assert!(wanted.contains("soci-index-list") && wanted.contains("soci-record"), "{wanted:?}");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(soci.dir().join("pages")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let page = fs::read_to_string(&path).unwrap();
        assert!(page.contains(&format!(".TH {name} 1")), "{name}: {page:.200}");
        found.insert(name);
    }
    assert_eq!(found, wanted);
    assert!(soci.run(["man"]).ok().contains(".TH soci 1"));
}

#[test]
fn bash_takes_the_completions_and_completes_commands() {
    let soci = Soci::new();
    fs::write(soci.dir().join("completion"), soci.run(["completion", "bash"]).ok()).unwrap();
    let script = "source ./completion; COMP_WORDS=(soci rec); COMP_CWORD=1; _soci soci rec soci; echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", script]).current_dir(soci.dir()).output().unwrap();
    let completed = String::from_utf8(output.stdout).unwrap();
    assert!(completed.split_whitespace().any(|word| word == "record"), "{completed} {:?}", output.stderr);
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(soci.run(["completion", shell]).ok().contains("record"), "{shell}");
    }
    assert!(soci.run(["completion", "abacus"]).code != 0);
}
