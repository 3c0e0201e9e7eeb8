//! What came of it: for people on standard error, as JSON, and the commands that come next. Plain data.

use std::path::Path;

use indicatif::HumanBytes;
use recorder::until::{Condition, Until};
use serde::Serialize;
use soci_core::digest::Digest;

use super::Args;
use super::deliver::Made;
use super::target::{Target, plain};
use super::traffic::{Prediction, Start, predict};
use super::verify::Verified;
use crate::commands::made::Built;
use crate::commands::pushed::Pushed;

/// What came of it. The keys of its JSON are an interface.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    image: String,
    /// Its manifest.
    manifest: Digest,
    profile: String,
    /// The SOCI index beside it, or the image index of the new image.
    digest: Digest,
    /// Name or directory of the new image; `null`: there is none.
    to: Option<String>,
    #[serde(flatten)]
    built: Built,
    pushed: Vec<Pushed>,
    /// `null`: nothing was pushed.
    verified: Option<Verified>,
    predicted: Prediction,
    pub(super) measured: Option<Prediction>,
    /// Commands for a shell.
    next: Vec<String>,
}

impl Outcome {
    pub(super) fn new(
        args: &Args,
        target: &Target,
        profile: &Path,
        layers: u64,
        made: Made,
        verified: Option<Verified>,
    ) -> Self {
        let predicted = predict(layers, &made);
        Self {
            image: args.image.clone(),
            manifest: made.of,
            profile: profile.display().to_string(),
            digest: made.digest,
            to: match target {
                Target::Store | Target::Beside => None,
                Target::Image(name) => Some(name.clone()),
                Target::Layout(dir) => Some(dir.display().to_string()),
            },
            built: made.built,
            pushed: made.pushed,
            verified,
            predicted,
            measured: None,
            next: next(args, target),
        }
    }

    /// Says it.
    pub(super) fn tell(&self, quiet: bool) {
        if quiet {
            return;
        }
        self.built.sum_up(false);
        match (&self.to, &self.verified) {
            (to, Some(verified)) => {
                let place = to.as_deref().unwrap_or(&self.image);
                let Verified { blobs, bytes, .. } = verified;
                say!("pushed:      {place}; read back: {blobs} blobs, {}, all right", HumanBytes(*bytes));
            }
            (Some(to), None) => say!("written:     {to}"),
            (None, None) => say!("kept:        SOCI index {} in the local store", self.digest),
        }
        say!("{:<12} {:>14} {:>14}", "", "full pull", "optimized");
        table("predicted", &self.predicted);
        if let Some(measured) = &self.measured {
            table("measured", measured);
        }
        for command in &self.next {
            say!("next:        {command}");
        }
    }
}

/// A row for each figure that is known.
fn table(how: &str, Prediction { full, optimized }: &Prediction) {
    let row = |what: &str, of: fn(&Start) -> Option<String>| {
        if let (Some(full), Some(optimized)) = (of(full), of(optimized)) {
            say!("{what:<12} {full:>14} {optimized:>14}  {how}");
        }
    };
    row("bytes", |start| start.bytes.map(|bytes| HumanBytes(bytes).to_string()));
    row("requests", |start| start.requests.map(|requests| requests.to_string()));
    row("ready", |start| start.ready_s.map(|seconds| format!("{seconds:.2} s")));
}

/// Commands that go on from here.
fn next(args: &Args, target: &Target) -> Vec<String> {
    let name = plain(&args.image);
    match target {
        Target::Store => vec![format!("soci push{} {}", registry(args), quoted(name)), start(args, name)],
        Target::Beside => vec![start(args, name)],
        Target::Image(to) => vec![start(args, to)],
        Target::Layout(dir) => {
            vec![format!("soci push --image {} REGISTRY/NAME:TAG", quoted(&format!("oci:{}", dir.display())))]
        }
    }
}

/// A cold start of the image.
fn start(args: &Args, image: &str) -> String {
    let mut words = format!("soci run{}", registry(args));
    if let Some(name) = &args.name {
        words = format!("{words} --workload {}", quoted(name));
    }
    for rule in args.workload.until.iter().flat_map(Until::rules) {
        let text = rule.when.to_string();
        // In a list these would divide or end the rule.
        if !matches!(rule.when, Condition::Exit) && !text.contains(" or ") && !text.contains('+') {
            words = format!("{words} --until {}", quoted(&text));
        }
    }
    words = format!("{words} {}", quoted(image));
    if !args.workload.command.is_empty() {
        let command: Vec<String> = args.workload.command.iter().map(|word| quoted(word)).collect();
        words = format!("{words} -- {}", command.join(" "));
    }
    words
}

/// Flags about the registry that can be shown.
fn registry(args: &Args) -> String {
    let flags = args.registry.flags();
    let shown = [("--plain-http", flags.plain_http), ("--skip-verify", flags.skip_verify)];
    let given = shown.into_iter().filter(|(_, given)| *given);
    given.fold(String::new(), |text, (flag, _)| text + " " + flag)
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%,+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_the_same_for_a_shell() {
        assert_eq!(quoted("r.example:5000/a/b:1"), "r.example:5000/a/b:1");
        assert_eq!(quoted("log:^READY"), "'log:^READY'");
        assert_eq!((quoted("it's").as_str(), quoted("").as_str()), ("'it'\\''s'", "''"));
    }
}
