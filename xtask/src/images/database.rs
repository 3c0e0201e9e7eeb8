//! `redis` and `postgres`: servers from Debian's packages, READY when a client got an answer.

use super::recipe::{Layer, Recipe, Step, app, apt_install};

/// A small image: one server, one client, a few shared libraries.
pub(crate) fn redis() -> Recipe {
    Recipe {
        name: "redis",
        parent: Some("base"),
        layers: vec![
            Layer { title: "redis", steps: vec![apt_install("redis-server redis-tools")] },
            app([("app/redis.sh", 0o755, include_str!("../../images/app/redis.sh"))]),
        ],
        cmd: &["/bin/bash", "/app/redis.sh"],
        env: &[],
        workdir: "/app",
    }
}

/// A database with its cluster inside the image: the workload reads data files as well as code.
pub(crate) fn postgres() -> Recipe {
    let initdb = "rm -rf /var/lib/postgresql/15\n\
        mkdir -p /data && chown postgres /data && chmod 700 /data\n\
        su postgres -c '/usr/lib/postgresql/15/bin/initdb -D /data -E UTF8 --no-locale -A trust >/dev/null'";
    Recipe {
        name: "postgres",
        parent: Some("base"),
        layers: vec![
            Layer { title: "postgresql", steps: vec![apt_install("postgresql-15 locales-all-")] },
            Layer { title: "initdb", steps: vec![Step::Chroot(initdb.to_owned())] },
            app([("app/postgres.sh", 0o755, include_str!("../../images/app/postgres.sh"))]),
        ],
        cmd: &["/bin/bash", "/app/postgres.sh"],
        env: &[],
        workdir: "/app",
    }
}
