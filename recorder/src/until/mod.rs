//! When a recording is over, or a started workload is useful.
//!
//! * [`grammar`](Until) reads the words of the user: lists of rules, each perhaps with a tail of its own.
//! * [`Rule`] is one of them; [`Ends`] turns the moments at which rules come true into readiness and end, and knows
//!   nothing of threads or processes.
//! * [`Watch`] owns the threads that try ports, URLs and commands and that listen for notifications.

mod ends;
mod exec;
mod grammar;
mod http;
mod notify;
mod probe;
mod rule;
mod time;

pub use ends::Ends;
pub use grammar::Until;
pub use http::HttpUrl;
pub use notify::Notify;
pub use probe::{Watch, already_true};
pub use rule::{Condition, Rule, RuleError};
