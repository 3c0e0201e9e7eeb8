//! The words of `--until`: a list of rules, read without guessing. Pure.
//!
//! ```text
//! list = rule { " or " rule }
//! rule = condition [ "+" time ]          time: 300ms, 5s, 1m30s; a bare number is seconds, but not after "+"
//! condition = exit | signal | notify | ready | time | time:TIME | log:REGEX | tcp:PORT | http:URL | exec:CMD
//! ```
//! Every ` or ` divides, and every `+TIME` at the end of a rule is its tail. In a regular expression or a command
//! `or\ ` and `\+` stand for the same characters and do neither.

use std::str::FromStr;
use std::time::Duration;

use regex::bytes::Regex;
use soci_core::duration;

use super::{Condition, HttpUrl, Rule, RuleError, time};

/// What parts the rules of a list.
const OR: &str = " or ";
/// All that a rule can be.
const KINDS: &str = "expected exit, TIME, log:REGEX, tcp:PORT, http:URL, exec:CMD, notify, signal or ready, each perhaps with +TIME";

/// End rules; the first that comes true counts. An empty list means the workload's end.
#[derive(Debug, Clone, Default)]
pub struct Until {
    rules: Vec<Rule>,
}

impl Until {
    /// All rules of several lists as one.
    pub fn join<'a>(lists: impl IntoIterator<Item = &'a Self>) -> Result<Self, RuleError> {
        let rules: Vec<Rule> = lists.into_iter().flat_map(|list| list.rules.iter().cloned()).collect();
        let is_ready = |rule: &Rule| matches!(rule.when, Condition::Ready);
        if let Some(rule) = rules.iter().find(|rule| is_ready(rule))
            && !rules.iter().any(|rule| rule.when.tells_readiness())
        {
            let reason = "says nothing alone: add the rule that tells readiness, such as log:REGEX";
            return Err(RuleError { text: rule.to_string(), reason: reason.into() });
        }
        Ok(Self { rules })
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The regular expressions of log rules, with the places of these in the list.
    pub fn logs(&self) -> Vec<(usize, Regex)> {
        let logs = self.rules.iter().enumerate();
        logs.filter_map(
            |(at, rule)| {
                if let Condition::Log(regex) = &rule.when { Some((at, regex.clone())) } else { None }
            },
        )
        .collect()
    }

    /// Must somebody listen for notifications?
    pub fn wants_notify(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.when, Condition::Notify))
    }
}

impl FromStr for Until {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let mut rules: Vec<Rule> = Vec::new();
        for part in text.split(OR) {
            let rule = rule(part).map_err(|reason| {
                let before = rules.last().map(|rule: &Rule| &rule.when);
                let hint = match before {
                    Some(Condition::Log(_) | Condition::Exec(_)) if !starts_like_a_rule(part) => {
                        "; where \" or \" belongs to the rule before it, write \" or\\ \""
                    }
                    _ => "",
                };
                RuleError { text: part.into(), reason: reason + hint }
            })?;
            rules.push(rule);
        }
        Ok(Self { rules })
    }
}

fn starts_like_a_rule(part: &str) -> bool {
    let kinds = ["exit", "signal", "notify", "ready", "time:", "log:", "tcp:", "http:", "exec:"];
    kinds.iter().any(|kind| part.trim_start().starts_with(kind))
}

fn rule(part: &str) -> Result<Rule, String> {
    let part = part.trim_start();
    let (text, tail) = split_tail(part);
    let when = condition(text)?;
    match when {
        Condition::Exit if tail.is_some() => Err("nothing goes on after the workload's end".into()),
        when => Ok(Rule { when, tail }),
    }
}

/// Parts a rule from its tail: the last `+`, when a time with units follows and no backslash stands before it.
fn split_tail(part: &str) -> (&str, Option<Duration>) {
    let split = part.rsplit_once('+').and_then(|(text, tail)| {
        let escaped = text.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 1;
        let tail = tail.trim_end();
        // `[0-9]+0` is an expression; nobody records for no time.
        if escaped || tail == "0" { None } else { Some((text, duration::parse(tail)?)) }
    });
    split.map_or((part, None), |(text, tail)| (text, Some(tail)))
}

fn condition(text: &str) -> Result<Condition, String> {
    if let Some(expression) = text.strip_prefix("log:") {
        // The one value in which spaces at the end may be meant.
        return match expression {
            "" => Err("expected log:REGEX".into()),
            _ => Regex::new(expression).map(Condition::Log).map_err(|error| error.to_string()),
        };
    }
    let text = text.trim_end();
    let (kind, value) = text.split_once(':').unwrap_or((text, ""));
    match kind {
        "exit" | "signal" | "notify" | "ready" if text.contains(':') => Err("takes no value".into()),
        "exit" => Ok(Condition::Exit),
        "signal" => Ok(Condition::Signal),
        "notify" => Ok(Condition::Notify),
        "ready" => Ok(Condition::Ready),
        "time" => time::seconds(value).map(Condition::Time).ok_or_else(|| "expected time:TIME".into()),
        "tcp" => match value.parse() {
            Ok(port) if port > 0 => Ok(Condition::Tcp(port)),
            _ => Err("expected tcp:PORT, perhaps with a tail that has a unit, as in tcp:80+5s".into()),
        },
        "http" => {
            let url = if value.starts_with("//") { text } else { value };
            let url = HttpUrl::parse(url).map(Condition::Http);
            url.ok_or_else(|| "expected http:http://HOST[:PORT]/PATH".into())
        }
        "exec" => words(value).map(Condition::Exec),
        _ => time::seconds(text).map(Condition::Time).ok_or_else(|| KINDS.into()),
    }
}

/// The words of a command: parted by white space; quotes and backslashes keep together, as in a shell, and nothing else
/// has a meaning.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                word.get_or_insert_default().push(chars.next().ok_or("ends with a backslash")?);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    words.extend(word);
    if words.first().is_none_or(String::is_empty) { Err("expected exec:CMD".into()) } else { Ok(words) }
}

#[cfg(test)]
mod tests;
