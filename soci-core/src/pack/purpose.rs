//! What a pack is for: what tells several packs of one image apart, and which of them fits a node best. Holds no state.

use std::{cmp::Reverse, collections::BTreeMap, str::FromStr};

use crate::media_type::{PACK_SELECTOR, PACK_WORKLOAD};

/// The workload name of a pack that is made of the recordings of several workloads: the one for a start of which nothing is known,
/// if there is none without a name.
pub const UNION: &str = "union";

/// Longest name and longest value of a selector, in bytes.
const MAX_SELECTOR: usize = 256;

/// The workload of a pack, and the nodes that it is for. Two packs of an image with the same purpose take each other's place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Purpose {
    /// Name of the workload.
    pub workload: Option<String>,
    /// Attributes that a node must have, each with this value.
    pub selectors: BTreeMap<String, String>,
}

/// One attribute of a node, as `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// Its name: letters, digits and `-._/`.
    pub name: String,
    /// Its value, not empty.
    pub value: String,
}

/// How well a pack fits; the largest is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    /// It is for the workload that was asked for.
    asked_for: bool,
    /// It is for no workload in particular.
    for_all: bool,
    /// It is for all workloads together.
    of_union: bool,
    /// So many attributes of the node are named.
    selectors: usize,
}

impl Purpose {
    /// What the annotations of a pack's manifest say.
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let selectors = annotations.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(PACK_SELECTOR)?;
            Some((name.to_owned(), value.clone()))
        });
        Self { workload: annotations.get(PACK_WORKLOAD).cloned(), selectors: selectors.collect() }
    }

    /// The annotations that say it.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let workload = self.workload.iter().map(|name| (PACK_WORKLOAD.to_owned(), name.clone()));
        let selectors = self.selectors.iter();
        workload
            .chain(selectors.map(|(name, value)| (format!("{PACK_SELECTOR}{name}"), value.clone())))
            .collect()
    }

    /// How well the pack fits a node with these attributes, where `workload` is asked for (empty: none in particular). `None`: the
    /// node lacks an attribute, or has it with another value.
    fn fit(&self, workload: &str, attributes: &BTreeMap<String, String>) -> Option<Fit> {
        let matches = |(name, value)| attributes.get(name) == Some(value);
        let own = self.workload.as_deref().unwrap_or_default();
        self.selectors.iter().all(matches).then_some(Fit {
            asked_for: !workload.is_empty() && own == workload,
            for_all: own.is_empty(),
            of_union: own == UNION,
            selectors: self.selectors.len(),
        })
    }

    /// The order in which packs are tried: that of the workload, one without a workload, that of [`UNION`], any other; of these
    /// those with most selectors first, and equals in the order in which they come. Gives the numbers of those that fit.
    pub fn order(purposes: &[Self], workload: &str, attributes: &BTreeMap<String, String>) -> Vec<usize> {
        let fits = purposes.iter().map(|purpose| purpose.fit(workload, attributes)).enumerate();
        let mut fits: Vec<_> = fits.filter_map(|(at, fit)| Some((at, fit?))).collect();
        fits.sort_by_key(|(_, fit)| Reverse(*fit));
        fits.into_iter().map(|(at, _)| at).collect()
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, value)) = text.split_once('=') else {
            return Err(format!("{text:?} is not NAME=VALUE"));
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
        if name.is_empty() || name.len() > MAX_SELECTOR || !name.chars().all(plain) {
            return Err(format!("{name:?} is no name of an attribute: letters, digits and -._/ are allowed"));
        }
        if value.is_empty() || value.len() > MAX_SELECTOR || value.chars().any(char::is_control) {
            return Err(format!("{value:?} is no value of an attribute: it has 1 to {MAX_SELECTOR} bytes"));
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purpose(workload: &str, selectors: &[&str]) -> Purpose {
        Purpose {
            workload: (!workload.is_empty()).then(|| workload.to_owned()),
            selectors: attributes(selectors),
        }
    }

    fn attributes(selectors: &[&str]) -> BTreeMap<String, String> {
        selectors.iter().map(|text| text.parse::<Selector>().unwrap()).map(|it| (it.name, it.value)).collect()
    }

    #[test]
    fn a_purpose_is_what_its_annotations_say() {
        for purpose in [purpose("", &[]), purpose("web", &[]), purpose("web", &["gpu=a100", "zone/x=1"])] {
            let mut annotations = purpose.annotations();
            assert_eq!(Purpose::of(&annotations), purpose);
            annotations.insert("other".into(), "note".into());
            assert_eq!(Purpose::of(&annotations), purpose);
        }
    }

    #[test]
    fn the_best_comes_first_and_what_is_for_other_nodes_never() {
        let packs = [
            purpose("job", &[]),
            purpose("", &[]),
            purpose("web", &["gpu=a100"]),
            purpose("web", &[]),
            purpose("", &["gpu=a100", "cpu=arm"]),
            purpose("", &["gpu=a100"]),
            purpose(UNION, &[]),
        ];
        for (workload, node, order) in [
            ("", &[][..], &[1, 6, 0, 3][..]),
            ("web", &[], &[3, 1, 6, 0]),
            ("web", &["gpu=a100"], &[2, 3, 5, 1, 6, 0]),
            ("", &["gpu=a100"], &[5, 1, 6, 2, 0, 3]),
            ("", &["gpu=a100", "cpu=arm", "more=x"], &[4, 5, 1, 6, 2, 0, 3]),
            ("job", &["gpu=b"], &[0, 1, 6, 3]),
        ] {
            assert_eq!(
                Purpose::order(&packs, workload, &attributes(node)),
                order,
                "{workload:?} on {node:?}"
            );
        }
    }

    #[test]
    fn selectors_are_read() {
        for text in ["a=b", "k8s.io/zone=eu-1", "a=b=c"] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(format!("{}={}", selector.name, selector.value), text);
        }
        for text in ["", "a", "=b", "a=", "a b=c", "a=\n", "ä=b"] {
            assert!(text.parse::<Selector>().is_err(), "{text:?}");
        }
    }
}
