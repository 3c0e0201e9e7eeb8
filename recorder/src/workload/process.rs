//! What to run: the image's configuration and the user's words put together.
//!
//! The command is ENTRYPOINT followed by CMD. Words after `--` replace all of it; `--arg` values replace CMD only.

use serde::{Deserialize, Serialize};

use soci_core::image::ImageConfig;

use super::WorkloadError;

/// The search path of a process whose image sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with its surroundings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// `KEY=VALUE`, each key once; of a command of the machine, what is added to the recorder's.
    pub env: Vec<String>,
    /// Working directory in the image, absolute; of a command of the machine, the recorder's when empty.
    pub cwd: String,
    /// `user[:group]` by name or number; empty is root.
    pub user: String,
}

/// What the user said about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The whole command line, in place of the image's.
    pub command: Vec<String>,
    /// The arguments of the image's entrypoint, in place of its CMD.
    pub args: Vec<String>,
    /// `KEY=VALUE` to add or to replace.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// User.
    pub user: Option<String>,
}

impl Process {
    /// Puts both together.
    pub fn new(image: &ImageConfig, overrides: &Overrides) -> Result<Self, WorkloadError> {
        let args = if overrides.command.is_empty() {
            let cmd = if overrides.args.is_empty() { &image.cmd } else { &overrides.args };
            image.entrypoint.iter().chain(cmd).cloned().collect::<Vec<_>>()
        } else {
            overrides.command.clone()
        };
        if args.is_empty() {
            return Err(WorkloadError::NoCommand);
        }
        check(&overrides.env)?;
        let mut env: Vec<String> = Vec::new();
        for entry in image.env.iter().filter(|entry| entry.contains('=')).chain(&overrides.env) {
            put(&mut env, entry.clone());
        }
        if !env.iter().any(|entry| key(entry) == "PATH") {
            env.push(format!("PATH={DEFAULT_PATH}"));
        }
        let cwd = overrides.cwd.as_deref().unwrap_or(&image.working_dir);
        Ok(Self {
            args,
            env,
            cwd: format!("/{}", cwd.trim_start_matches('/')),
            user: overrides.user.clone().unwrap_or_else(|| image.user.clone()),
        })
    }

    /// A command of this machine: its environment and directory are the recorder's where the user says nothing else.
    pub fn on_host(overrides: &Overrides) -> Result<Self, WorkloadError> {
        if overrides.command.is_empty() {
            return Err(WorkloadError::NoCommand);
        }
        check(&overrides.env)?;
        let cwd = overrides.cwd.clone().unwrap_or_default();
        Ok(Self { args: overrides.command.clone(), env: overrides.env.clone(), cwd, user: String::new() })
    }

    /// The value of a variable.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|entry| key(entry) == name).map(|entry| &entry[name.len() + 1..])
    }

    /// Adds a variable, in place of one of that name.
    pub(crate) fn set_var(&mut self, name: &str, value: &str) {
        put(&mut self.env, format!("{name}={value}"));
    }
}

/// Is each entry `KEY=VALUE`?
fn check(env: &[String]) -> Result<(), WorkloadError> {
    match env.iter().find(|entry| entry.find('=').is_none_or(|at| at == 0)) {
        Some(bad) => Err(WorkloadError::Environment(bad.clone())),
        None => Ok(()),
    }
}

fn put(env: &mut Vec<String>, entry: String) {
    match env.iter().position(|known| key(known) == key(&entry)) {
        Some(at) => env[at] = entry,
        None => env.push(entry),
    }
}

fn key(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageConfig {
        ImageConfig {
            env: vec!["A=1".into(), "B=2".into(), "A=3".into()],
            entrypoint: vec!["/entry".into()],
            cmd: vec!["default".into()],
            working_dir: "srv".into(),
            user: "www".into(),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn entrypoint_and_command_follow_the_oci_rules() {
        let run = |overrides: &Overrides| Process::new(&image(), overrides).unwrap();
        assert_eq!(run(&Overrides::default()).args, ["/entry", "default"]);
        let args = Overrides { args: vec!["x".into(), "y".into()], ..Overrides::default() };
        assert_eq!(run(&args).args, ["/entry", "x", "y"]);
        let command =
            Overrides { command: vec!["sh".into()], args: vec!["x".into()], ..Overrides::default() };
        assert_eq!(run(&command).args, ["sh"]);
        let empty = Process::new(&ImageConfig::default(), &Overrides::default());
        assert!(matches!(empty, Err(WorkloadError::NoCommand)));
        assert!(matches!(Process::on_host(&args), Err(WorkloadError::NoCommand)));
        assert_eq!(Process::on_host(&command).unwrap().args, ["sh"]);
    }

    #[test]
    fn the_last_value_of_a_variable_wins_and_the_user_comes_last() {
        let overrides = Overrides { env: vec!["B=9".into(), "C=".into()], ..Overrides::default() };
        let process = Process::new(&image(), &overrides).unwrap();
        assert_eq!(process.env, ["A=3", "B=9", "C=", &format!("PATH={DEFAULT_PATH}")]);
        assert_eq!((process.var("B"), process.var("C"), process.var("D")), (Some("9"), Some(""), None));
        assert_eq!((process.cwd.as_str(), process.user.as_str()), ("/srv", "www"));
        for bad in ["A", "=x"] {
            let overrides = Overrides { env: vec![bad.into()], ..Overrides::default() };
            assert!(matches!(Process::new(&image(), &overrides), Err(WorkloadError::Environment(_))));
            let on_host = Process::on_host(&Overrides { command: vec!["x".into()], ..overrides });
            assert!(matches!(on_host, Err(WorkloadError::Environment(_))));
        }
    }
}
