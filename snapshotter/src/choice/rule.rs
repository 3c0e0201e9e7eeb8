//! A rule of the administrator: starts of these images, in this namespace, with these labels, are this workload's. Plain data.

use std::collections::BTreeMap;

use regex::Regex;

use super::Launch;

/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 1024;

/// One rule. A pattern that is empty matches everything.
#[derive(Debug, Clone)]
pub struct Rule {
    image: Option<Regex>,
    namespace: Option<Regex>,
    labels: BTreeMap<String, Regex>,
    /// The workload whose pack is used.
    pub(super) workload: String,
}

/// A pattern that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("pattern of {} bytes is too long: {MAX_PATTERN} is the limit", .0)]
pub struct PatternError(usize);

impl Rule {
    /// `*` in a pattern stands for any text, `?` for one character.
    ///
    /// # Errors
    /// When a pattern is longer than 1024 bytes.
    pub fn new(
        image: &str,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        workload: String,
    ) -> Result<Self, PatternError> {
        let labels = labels.iter().map(|(label, pattern)| Ok((label.clone(), compiled(pattern)?)));
        let optional = |text: &str| (!text.is_empty()).then(|| compiled(text)).transpose();
        Ok(Self {
            image: optional(image)?,
            namespace: optional(namespace)?,
            labels: labels.collect::<Result<_, _>>()?,
            workload,
        })
    }

    /// Whether all that the rule names is as it says.
    pub(super) fn matches(&self, launch: &Launch) -> bool {
        let fits = |pattern: &Option<Regex>, text: &str| pattern.as_ref().is_none_or(|it| it.is_match(text));
        fits(&self.image, &launch.image)
            && fits(&self.namespace, &launch.namespace)
            && self
                .labels
                .iter()
                .all(|(label, pattern)| launch.labels.get(label).is_some_and(|value| pattern.is_match(value)))
    }
}

fn compiled(glob: &str) -> Result<Regex, PatternError> {
    if glob.len() > MAX_PATTERN {
        return Err(PatternError(glob.len()));
    }
    let escaped = regex::escape(glob).replace(r"\*", ".*").replace(r"\?", ".");
    Regex::new(&format!("(?s)^{escaped}$")).map_err(|_| PatternError(glob.len()))
}

#[cfg(test)]
mod tests {
    use soci_core::digest::Digest;

    use super::*;

    #[test]
    fn a_rule_matches_what_it_names_and_nothing_else() {
        let launch = Launch {
            image: "registry.example/team/app:1.2".to_owned(),
            digest: Digest::of(b"x"),
            namespace: "k8s.io".to_owned(),
            labels: [("tier".to_owned(), "web".to_owned())].into(),
        };
        let rule = |image: &str, namespace: &str, labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            Rule::new(image, namespace, &labels, String::new()).unwrap().matches(&launch)
        };
        assert!(rule("", "", &[]) && rule("*", "*", &[("tier", "*")]));
        assert!(rule("registry.example/team/app:*", "k8s.io", &[("tier", "w?b")]));
        assert!(!rule("registry.example/team/app:", "", &[]), "all of the name");
        assert!(!rule("registry-example/*", "", &[]), "a dot is a dot");
        assert!(
            !rule("", "default", &[]) && !rule("", "", &[("tier", "job")]) && !rule("", "", &[("zone", "*")])
        );
        assert!(Rule::new(&"*".repeat(2000), "", &BTreeMap::new(), String::new()).is_err());
    }
}
