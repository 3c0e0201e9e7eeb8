//! `cargo xtask codegen [--check]`: containerd's .proto files -> the committed Rust in `soci-core/src/containerd/gen`.
//!
//! The generators (protox, tonic-prost-build) are behind xtask's feature `codegen`, so that every other task builds
//! without them: without the feature, [`run`] starts `cargo run --features codegen` on itself. The output depends on the
//! .proto files and the locked generator versions only.

use std::path::{Path, PathBuf};

/// Rebuild generated code, or check that it is up to date.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail when the committed files differ from what would be generated.
    #[arg(long)]
    check: bool,
}

/// Generates, or with `--check` compares.
#[cfg(not(feature = "codegen"))]
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.current_dir(workspace()).args([
        "run",
        "--quiet",
        "--package",
        "xtask",
        "--features",
        "codegen",
        "--",
        "codegen",
    ]);
    if args.check {
        cargo.arg("--check");
    }
    let status = cargo.status()?;
    anyhow::ensure!(status.success(), "codegen ended with {status}");
    Ok(())
}

/// Generates, or with `--check` compares.
#[cfg(feature = "codegen")]
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let committed = containerd().join("gen");
    if !args.check {
        std::fs::create_dir_all(&committed)?;
        return generate(&committed);
    }
    let fresh = tempfile::tempdir()?;
    generate(fresh.path())?;
    let differing = differences(fresh.path(), &committed)?;
    anyhow::ensure!(differing.is_empty(), "out of date, run `cargo xtask codegen`: {}", differing.join(", "));
    Ok(())
}

/// Writes the Rust modules and their `mod.rs` into `out`.
#[cfg(feature = "codegen")]
fn generate(out: &Path) -> anyhow::Result<()> {
    let protos = containerd().join("protos");
    let api = "github.com/containerd/containerd/api";
    let services =
        ["containers", "content", "diff", "events", "images", "leases", "snapshots", "tasks", "version"];
    let mut files = services.map(|name| format!("{api}/services/{name}/v1/{name}.proto")).to_vec();
    files.push(format!("{api}/services/namespaces/v1/namespace.proto"));
    files.push(format!("{api}/events/task.proto"));
    let descriptors = protox::compile(files, [&protos])?;
    tonic_prost_build::configure().out_dir(out).include_file("mod.rs").compile_fds(descriptors)?;
    Ok(())
}

/// Names of files that are not the same in both directories.
#[cfg(feature = "codegen")]
fn differences(fresh: &Path, committed: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = std::collections::BTreeSet::new();
    for dir in [fresh, committed] {
        for entry in std::fs::read_dir(dir)? {
            names.insert(entry?.file_name().to_string_lossy().into_owned());
        }
    }
    let read = |dir: &Path, name: &str| std::fs::read(dir.join(name)).ok();
    names.retain(|name| read(fresh, name) != read(committed, name));
    Ok(names.into_iter().collect())
}

/// The room of the generated code and its sources.
#[cfg(feature = "codegen")]
fn containerd() -> PathBuf {
    workspace().join("soci-core/src/containerd")
}

/// The root of the workspace, from where this crate was built.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
