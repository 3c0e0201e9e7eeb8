//! An error with its causes. Holds no state.

use std::{error::Error, iter::successors};

/// An error and its causes in one line. A cause that the line ends with already is not said again: some errors have the text
/// of their cause in their own.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    for cause in error.source().into_iter().flat_map(causes) {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line
}

/// An error, its cause, the cause of that, and so on.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Nested {
        #[error("open a")]
        Apart(#[source] Box<Nested>),
        #[error("read b: {0}")]
        Within(#[source] io::Error),
    }

    #[test]
    fn each_cause_is_said_once() {
        let error = Nested::Apart(Box::new(Nested::Within(io::Error::other("c"))));
        assert_eq!(chain(&error), "open a: read b: c");
        assert_eq!(causes(&error).count(), 3);
        assert!(causes(&error).last().is_some_and(<dyn Error>::is::<io::Error>));
    }
}
