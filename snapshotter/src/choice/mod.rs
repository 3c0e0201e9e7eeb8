//! Which workload a start is for, and so which pack of its image it gets: the administrator's rules, in one place.
//!
//! The first that says something counts: (a) the label [`WORKLOAD`] of the start itself, (b) the first rule that matches, (c) the
//! administrator's program, (d) the node's own workload. When nobody says anything, [`soci_core::pack::Purpose::order`] decides.
//!
//! A [`Chooser`] owns the rules and the answers of the program that are remembered. What must always hold: a program that fails, hangs
//! or talks nonsense costs its time limit and a warning, never a start.

mod program;
mod rule;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::error::chain;

pub use program::{Program, ProgramError};
pub use rule::{PatternError, Rule};

/// On a request: the name of the workload whose pack is to be used.
pub const WORKLOAD: &str = "containerd.io/snapshot/remote/soci.pack.workload";

/// For how long an answer of the program counts for starts that are alike.
const REMEMBERED: Duration = Duration::from_mins(5);
/// Answers that are remembered at most.
const MAX_ANSWERS: usize = 1024;

/// A start for which a pack is to be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Launch {
    /// The image's name, as the client says it.
    pub image: String,
    /// Digest of the manifest of its platform.
    pub digest: Digest,
    /// containerd's namespace; empty when the client did not say.
    pub namespace: String,
    /// Labels of the snapshot that is asked for.
    pub labels: BTreeMap<String, String>,
}

/// Who has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A label of the start.
    Label,
    /// The rule with this number, from 1.
    Rule(usize),
    /// The administrator's program.
    Program,
    /// `[pack] workload` of the configuration.
    Node,
    /// Nobody: the order of packs decides.
    Nobody,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The workload; empty: none in particular.
    pub workload: String,
    /// Who has chosen it.
    pub by: By,
}

/// Chooses.
#[derive(Debug, Default)]
pub struct Chooser {
    rules: Vec<Rule>,
    program: Option<Program>,
    node: String,
    answers: Mutex<HashMap<Question, (Instant, Option<String>)>>,
}

/// What an answer of the program depends on.
type Question = (Launch, Vec<String>);

impl std::fmt::Display for By {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Label => f.write_str("label"),
            Self::Rule(number) => write!(f, "rule {number}"),
            Self::Program => f.write_str("chooser"),
            Self::Node => f.write_str("pack.workload"),
            Self::Nobody => f.write_str("default"),
        }
    }
}

impl Chooser {
    /// `node` is the workload of starts of which nothing else says one; empty: none.
    pub fn new(rules: Vec<Rule>, program: Option<Program>, node: String) -> Arc<Self> {
        Arc::new(Self { rules, program, node, answers: Mutex::default() })
    }

    /// Whether something may be chosen for this start that differs from what was chosen for the pull of its image.
    pub fn has_a_say(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.contains_key(WORKLOAD) || !self.rules.is_empty() || self.program.is_some()
    }

    /// Whether there is a program to ask.
    pub const fn has_program(&self) -> bool {
        self.program.is_some()
    }

    /// What label and rules say. Asks no program.
    pub fn told(&self, launch: &Launch) -> Option<Choice> {
        if let Some(workload) = launch.labels.get(WORKLOAD) {
            return Some(Choice { workload: workload.clone(), by: By::Label });
        }
        let (at, rule) = self.rules.iter().enumerate().find(|(_, rule)| rule.matches(launch))?;
        Some(Choice { workload: rule.workload.clone(), by: By::Rule(at + 1) })
    }

    /// Chooses among the workloads that the image has packs for (empty: a pack for none in particular). Waits for the program at
    /// most as long as its time limit.
    pub async fn choose(&self, launch: &Launch, available: Vec<String>) -> Choice {
        if let Some(told) = self.told(launch) {
            return told;
        }
        // Without a choice there is nothing to ask for.
        if let Some(program) = self.program.as_ref().filter(|_| available.len() > 1)
            && let Some(workload) = self.ask(program, launch, available).await
        {
            return Choice { workload, by: By::Program };
        }
        let by = if self.node.is_empty() { By::Nobody } else { By::Node };
        Choice { workload: self.node.clone(), by }
    }

    async fn ask(&self, program: &Program, launch: &Launch, available: Vec<String>) -> Option<String> {
        let question = (launch.clone(), available);
        let known = self.answers.lock().get(&question).cloned();
        if let Some((_, answer)) = known.filter(|(at, _)| at.elapsed() < REMEMBERED) {
            return answer;
        }
        match program.ask(launch, &question.1).await {
            Ok(answer) => {
                if let Some(name) = answer.as_ref().filter(|name| !question.1.contains(name)) {
                    tracing::warn!(
                        image = launch.image,
                        workload = name,
                        "the image has no pack for the workload that the chooser names"
                    );
                }
                let mut answers = self.answers.lock();
                if answers.len() >= MAX_ANSWERS {
                    answers.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
                    if answers.len() >= MAX_ANSWERS {
                        answers.clear();
                    }
                }
                answers.insert(question, (Instant::now(), answer.clone()));
                answer
            }
            Err(error) => {
                tracing::warn!(
                    image = launch.image,
                    error = chain(&error),
                    "the chooser of packs failed; the pack is chosen without it"
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn launch(image: &str, labels: &[(&str, &str)]) -> Launch {
        Launch {
            image: image.to_owned(),
            digest: Digest::of(b"image"),
            namespace: "k8s.io".to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        }
    }

    fn program(dir: &tempfile::TempDir, script: &str) -> Program {
        let path = dir.path().join("chooser");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        Program::new(path, Duration::from_secs(20))
    }

    fn packs() -> Vec<String> {
        ["web", "job", ""].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn the_first_that_says_something_counts() {
        let dir = tempfile::tempdir().unwrap();
        let asked = dir.path().join("asked");
        let script =
            format!("cat > {0}; echo >> {0}.count; echo '{{\"workload\": \"job\"}}'", asked.display());
        let rules = vec![Rule::new("*/team/*", "k8s.*", &BTreeMap::new(), "web".to_owned()).unwrap()];
        let chooser = Chooser::new(rules, Some(program(&dir, &script)), "node".to_owned());
        let by_label = launch("r/team/a:1", &[(WORKLOAD, "mine")]);
        let choice = |workload: &str, by| Choice { workload: workload.to_owned(), by };
        assert_eq!(chooser.choose(&by_label, packs()).await, choice("mine", By::Label));
        assert_eq!(chooser.choose(&launch("r/team/a:1", &[]), packs()).await, choice("web", By::Rule(1)));
        assert!(!asked.exists(), "the program is asked last");
        let other = launch("r/other:1", &[("a", "b")]);
        for _ in 0..2 {
            assert_eq!(chooser.choose(&other, packs()).await, choice("job", By::Program));
        }
        let count = std::fs::read_to_string(dir.path().join("asked.count")).unwrap();
        assert_eq!(count.lines().count(), 1, "asked once for starts that are alike");
        let said: serde_json::Value = serde_json::from_slice(&std::fs::read(&asked).unwrap()).unwrap();
        let expected = serde_json::json!({
            "version": 1, "image": "r/other:1", "digest": Digest::of(b"image").to_string(), "namespace": "k8s.io",
            "labels": {"a": "b"}, "workloads": ["web", "job", ""],
        });
        assert_eq!(said, expected);
        let one = vec!["web".to_owned()];
        assert_eq!(chooser.choose(&launch("r/third:1", &[]), one).await, choice("node", By::Node));
    }

    #[tokio::test]
    async fn a_program_that_fails_leaves_the_choice_to_the_node() {
        for script in
            ["exit 3", "echo nonsense", "yes", "echo '{\"workload\": 7}'", "echo '{\"workload\": null}'"]
        {
            let dir = tempfile::tempdir().unwrap();
            let chooser = Chooser::new(Vec::new(), Some(program(&dir, script)), String::new());
            let chosen = chooser.choose(&launch("r/a:1", &[]), packs()).await;
            assert_eq!(chosen, Choice { workload: String::new(), by: By::Nobody }, "{script}");
        }
        let dir = tempfile::tempdir().unwrap();
        let slow = program(&dir, "sleep 600");
        let slow = Program::new(slow.path().to_owned(), Duration::from_millis(50));
        let failed = slow.ask(&launch("r/a:1", &[]), &packs()).await;
        assert!(matches!(failed, Err(ProgramError::Late(_))), "{failed:?}");
    }
}
