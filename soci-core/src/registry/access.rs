//! Who is asked, and what for. Holds no state.

use std::sync::Arc;

use super::hosts::Endpoint;

/// What is wanted of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Pull,
    Push,
    Delete,
}

/// Who is asked, for what: decides which token is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    pub(crate) endpoint: Endpoint,
    pub(crate) repository: Arc<str>,
    pub(crate) action: Action,
}

impl Access {
    /// The repository with its registry, for error messages.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.endpoint.host, self.repository)
    }

    pub(super) fn scope(&self) -> String {
        let actions = match self.action {
            Action::Pull => "pull",
            Action::Push => "pull,push",
            Action::Delete => "pull,delete",
        };
        format!("repository:{}:{actions}", self.repository)
    }
}
