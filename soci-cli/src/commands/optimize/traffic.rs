//! What a start asks the registry for, before and after: predicted of what was made, or measured by starting it. Holds no state.
//!
//! The time until the workload is ready has its place in [`Prediction`], beside bytes and requests: a model of the link and of the
//! processors has to say it, which this module is not.

use anyhow::{Result, bail};
use serde::Serialize;
use tokio::runtime::Handle;

use super::Args;
use super::deliver::Made;
use super::target::{Target, plain};
use crate::commands::run::{self, Mode, Report};
use crate::commands::stop::Stop;
use crate::global::Global;

/// Requests of a start with a pack: image manifest and configuration, the list of referrers, the manifests of SOCI index, fine index
/// and pack, the tables of the fine index, and the pack. Each refused or redirected one is one more.
const WITH_A_PACK: u64 = 8;

/// What one start takes, as far as it is known. The keys are an interface.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Start {
    pub(super) bytes: Option<u64>,
    pub(super) requests: Option<u64>,
    /// Seconds; only measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ready_s: Option<f64>,
}

/// A start that pulls the whole image first, and one with what was made.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Prediction {
    pub(super) full: Start,
    pub(super) optimized: Start,
}

/// What follows from the sizes of what was made.
pub(super) fn predict(layers: u64, made: &Made) -> Prediction {
    let start = |bytes, requests| Start { bytes: Some(bytes), requests: Some(requests), ready_s: None };
    let image: u64 = made.built.plans.iter().map(|plan| plan.image_size).sum();
    let pack: u64 = made.built.packs.iter().map(|pack| pack.size).sum();
    Prediction {
        full: start(image, layers + 2),
        optimized: start(pack.saturating_add(made.built.fine_tables), WITH_A_PACK),
    }
}

/// Starts the image twice from cold, each time in a directory of its own.
pub(super) fn measure(
    args: &Args,
    global: &Global,
    target: &Target,
    stop: &mut Stop,
    runtime: &Handle,
) -> Result<Prediction> {
    let mut global = global.clone();
    global.root = None; // a temporary one: the start is cold
    let mut start = |image: &str, mode: Mode, workload: Option<String>| -> Result<Start> {
        let cold = run::Args::cold(image, args.workload.clone(), args.registry.clone(), mode, workload)?;
        stop.renew(&global);
        let ended = run::started(&cold, &global, stop, runtime)?;
        match ended.report {
            Some(report) if ended.code == 0 => Ok(of(&report)),
            _ => bail!("the start of {image} ended with code {}", ended.code),
        }
    };
    let before = plain(&args.image);
    let full = start(before, Mode::Full, None)?;
    let optimized = start(target.started_as(before).unwrap_or(before), Mode::Pack, args.name.clone())?;
    Ok(Prediction { full, optimized })
}

fn of(report: &Report) -> Start {
    let ready_s = Some(report.ready_s.unwrap_or(report.exit_s));
    Start { bytes: report.bytes, requests: report.requests, ready_s }
}
