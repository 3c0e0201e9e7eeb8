//! `node`: an HTTP service with a real dependency tree, READY when it answered its own request.

use super::recipe::{Layer, Recipe, Step, app, apt_install};

/// Many small files in deep folders, and a layer that deletes part of them.
pub(crate) fn node() -> Recipe {
    let npm = "cd $M/app && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error \
        --cache $DOWNLOADS/npm && rm -f node_modules/.package-lock.json";
    let prune = "cd /app/node_modules\n\
        find . -name '*.md' -delete\n\
        find . -name '*.map' -delete\n\
        find . -depth -type d \\( -name test -o -name tests -o -name docs \\) -prune -exec rm -rf {} +";
    let packages = [
        ("app/package.json", include_str!("../../images/app/package.json")),
        ("app/package-lock.json", include_str!("../../images/app/package-lock.json")),
    ];
    let mut steps: Vec<Step> =
        packages.map(|(path, contents)| Step::File { path, mode: 0o644, contents }).into();
    steps.push(Step::Host(npm.to_owned()));
    Recipe {
        name: "node",
        parent: Some("base"),
        layers: vec![
            Layer { title: "nodejs", steps: vec![apt_install("nodejs ca-certificates")] },
            Layer { title: "npm ci", steps },
            Layer { title: "prune (whiteouts)", steps: vec![Step::Chroot(prune.to_owned())] },
            app([
                ("app/server.js", 0o644, include_str!("../../images/app/server.js")),
                ("app/hello.ts", 0o644, include_str!("../../images/app/hello.ts")),
            ]),
        ],
        cmd: &["/usr/bin/node", "/app/server.js"],
        env: &["NODE_ENV=production"],
        workdir: "/app",
    }
}
