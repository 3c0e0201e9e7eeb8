//! The word beside an index or a pack that says that a full pull of the image is faster. Holds no state.
//!
//! It is a hint of whoever may push: at worst a layer comes whole that could have come in parts.

use std::collections::BTreeMap;

use crate::media_type::{ADVICE_WHOLE, START_ADVICE};

/// Whether these annotations, of a SOCI index or a pack, advise a full pull.
pub fn is_advised_whole(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(START_ADVICE).is_some_and(|advice| advice == ADVICE_WHOLE)
}

/// The annotation that says it, if it is to be said.
pub(crate) fn advice(advised_whole: bool) -> Option<(String, String)> {
    advised_whole.then(|| (START_ADVICE.to_owned(), ADVICE_WHOLE.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_advises_and_others_say_nothing() {
        let with = |value: &str| [(START_ADVICE.to_owned(), value.to_owned())].into();
        assert!(is_advised_whole(&advice(true).into_iter().collect()));
        assert_eq!(advice(false), None);
        for value in ["", "WHOLE", "whole ", "parts"] {
            assert!(!is_advised_whole(&with(value)), "{value:?}");
        }
    }
}
