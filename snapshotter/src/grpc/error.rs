//! Errors of the snapshot room as gRPC statuses. containerd reads the codes; people read the messages.

use soci_core::error::chain;
use tonic::{Code, Status};

use crate::snapshot::{Error, FilterError};

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NotFound(_) => Code::NotFound,
            Error::AlreadyExists(_) => Code::AlreadyExists,
            Error::FailedPrecondition(_) => Code::FailedPrecondition,
            Error::InvalidArgument(_) => Code::InvalidArgument,
            Error::Unavailable(_) => Code::Unavailable,
            Error::Database(_) | Error::Record { .. } | Error::Io { .. } => Code::Internal,
        };
        let message = chain(&error);
        if code == Code::Internal {
            tracing::error!(error = message, "request failed");
        }
        Self::new(code, message)
    }
}

impl From<FilterError> for Error {
    fn from(error: FilterError) -> Self {
        Self::InvalidArgument(error.to_string())
    }
}
