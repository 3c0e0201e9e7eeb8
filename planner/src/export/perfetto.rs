//! A timeline: trace events in the JSON form that Perfetto and Chrome read.
//!
//! Each access is a complete event ("X") as long as the process waited, in a lane of its process in which it overlaps
//! no other: readers nest overlapping events of one lane. Owns the lanes' ends. Times are microseconds.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;

use serde_json::{Value, json};
use soci_core::trace::{Access, Outcome, Process, Tail, TraceReader};

use super::{ExportError, Exported, kind_name, phase_name};
use soci_core::escape::escape;

/// Thread ids of lanes after the first are this far apart: the kernel's largest pid.
const LANE: u64 = 1 << 22;
/// Most lanes of a process; what comes after goes to the last one.
const MAX_LANES: usize = 512;

pub(super) fn write(trace: &mut TraceReader, out: &mut dyn Write) -> Result<Exported, ExportError> {
    let header = trace.header();
    let layers = header.layers.clone();
    let about = json!({
        "image": header.image, "manifest": header.manifest.map(|manifest| manifest.to_string()), "engine": header.engine,
        "command": header.argv, "started_at": header.started_at,
    });
    write!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{about},\"traceEvents\":[")?;
    let mut events = Events { out, first: true };
    let mut named: HashSet<Arc<Process>> = HashSet::new();
    let mut lanes: HashMap<u32, Vec<u64>> = HashMap::new();
    let mut exported = Exported::default();
    for access in trace.by_ref() {
        let access = access?;
        let process = &access.process;
        if !named.contains(process) {
            named.insert(Arc::clone(process));
            events.put(&json!({
                "ph": "M", "name": "process_name", "pid": process.pid, "tid": process.pid,
                "args": { "name": escape(&process.comm) },
            }))?;
        }
        let lane = lane(lanes.entry(process.pid).or_default(), &access);
        let layer = access.layer.and_then(|at| layers.get(at as usize)).map(|layer| layer.digest.to_string());
        events.put(&json!({
            "ph": "X", "name": format!("/{}", escape(&access.path)), "cat": kind_name(access.kind),
            "pid": process.pid, "tid": u64::from(process.pid) + lane as u64 * LANE,
            "ts": microseconds(access.t_ns), "dur": microseconds(access.wait_ns),
            "args": {
                "offset": access.offset, "length": access.len, "layer": layer,
                "phase": phase_name(access.phase),
            },
        }))?;
        exported.written += 1;
    }
    if let Some(Tail::Sealed(end)) = trace.tail() {
        let instant = |name: &str, ns| json!({ "ph": "i", "s": "g", "name": name, "pid": 0, "tid": 0, "ts": microseconds(ns) });
        if let Some(ready) = end.ready_ns {
            events.put(&instant("ready", ready))?;
        }
        events.put(&instant(outcome_name(end.outcome), end.ended_ns))?;
    }
    events.out.write_all(b"\n]}\n")?;
    Ok(exported)
}

/// The first lane that is free when the access begins; it is taken until its end.
fn lane(lanes: &mut Vec<u64>, access: &Access) -> usize {
    let end = access.t_ns.saturating_add(access.wait_ns);
    let free = lanes.iter().position(|&taken| taken <= access.t_ns);
    let lane = free.unwrap_or_else(|| {
        if lanes.len() < MAX_LANES {
            lanes.push(0);
        }
        lanes.len() - 1
    });
    lanes[lane] = end;
    lane
}

fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ready => "stopped after ready",
        Outcome::Exited => "exited",
        Outcome::TimedOut => "timed out",
        Outcome::Interrupted => "interrupted",
    }
}

struct Events<'a> {
    out: &'a mut dyn Write,
    first: bool,
}

impl Events<'_> {
    fn put(&mut self, event: &Value) -> Result<(), ExportError> {
        self.out.write_all(if self.first { b"\n" } else { b",\n" })?;
        self.first = false;
        serde_json::to_writer(&mut *self.out, event)?;
        Ok(())
    }
}
