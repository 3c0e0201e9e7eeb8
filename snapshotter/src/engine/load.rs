//! What is out and what waits at one moment, for those who look at the daemon. Plain data.

/// The engine's load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Spans that artifacts have named and that wait for their turn.
    pub prefetch: usize,
    /// Layers that the background class has not completed.
    pub background: usize,
    /// Packs on their way.
    pub packs: usize,
    /// By registry host.
    pub hosts: Vec<HostLoad>,
}

/// What is out at one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLoad {
    /// The host, with its port if it has one.
    pub host: String,
    /// Readers' requests that wait for their first byte.
    pub demand_waiting: usize,
    /// Readers' requests whose bodies are arriving.
    pub demand_receiving: usize,
    /// Requests ahead of readers.
    pub ahead: usize,
    /// Readers' requests that may still be started.
    pub free: usize,
}
