//! What the user said about registries: which have no TLS, which have mirrors, where the `hosts.toml` files are.
//!
//! Plain values. [`HostPolicy::servers`] puts them together for one registry: mirrors listed here first, then the hosts
//! of its `hosts.toml`, then the registry itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::address::host_part;
use super::file::{self, HostsError};
use super::server::{Capabilities, Server, Tls};

/// Where containerd and docker have their descriptions of registries.
pub const HOSTS_DIRS: [&str; 2] = ["/etc/containerd/certs.d", "/etc/docker/certs.d"];

/// What the user said about registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPolicy {
    /// Registries (`host` or `host:port`) spoken to without TLS. Loopback hosts always are.
    pub plain_http: BTreeSet<String>,
    /// Directories with a `HOST/hosts.toml` for each registry, as containerd has them. The first that knows a registry
    /// counts.
    pub dirs: Vec<PathBuf>,
    /// Mirrors by registry, asked before those of the directories.
    pub mirrors: BTreeMap<String, Vec<Server>>,
    /// Certificates for registries, by `host` or `host:port`, beside those of the directories. A registry that is here is
    /// spoken to with TLS on loopback, too.
    pub tls: BTreeMap<String, Tls>,
}

impl HostPolicy {
    /// The servers of the registry `name`, which is at `host`, in the order in which they are asked.
    pub(super) fn servers(&self, name: &str, host: &str) -> Result<Vec<Server>, HostsError> {
        let mut servers = self.mirrors.get(name).cloned().unwrap_or_default();
        for server in &mut servers {
            server.can = Capabilities::PULL.with(Capabilities::RESOLVE);
        }
        let tls = [name, host].iter().find_map(|name| self.tls.get(*name));
        let mut itself = Server::named(host.to_owned());
        itself.plain &= tls.is_none();
        let stated = self.dirs.iter().find_map(|dir| file::read(dir, name, &itself).transpose());
        servers.extend(stated.transpose()?.unwrap_or_else(|| vec![itself]));
        for server in &mut servers {
            let names = [&server.host, host_part(&server.host)];
            let own = server.host == host;
            if let Some(tls) = tls.filter(|_| own) {
                server.tls.add(tls);
            }
            server.plain |= names.iter().any(|name| self.plain_http.contains(*name))
                || own && self.plain_http.contains(name);
        }
        Ok(servers)
    }
}
