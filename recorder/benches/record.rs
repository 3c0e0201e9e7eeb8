//! What recording with eBPF costs: the workload's CPU with and without the tracer, and the tracer's own CPU, memory and
//! set-up time. Run by `cargo xtask bench record`, as root.
//!
//! The workload's CPU is that of its cgroup (`cpu.stat`), so nothing of this process is in it. With and without take
//! turns within a round; figures are medians. Owns a temporary directory and one cgroup.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use recorder::capture::{Capture, Ebpf, Reads, Settings, Way};
use recorder::workload::Cgroup;
use rustix::time::{ClockId, clock_gettime};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const SMALL_FILES: usize = 40_000;
const MANY_FILES: usize = 100_000;
const FILES_PER_DIRECTORY: usize = 500;
const EVENTS: u64 = 1_000_000;

fn main() -> Result<()> {
    let rounds = std::env::args().skip_while(|arg| arg != "-n").nth(1).map_or(Ok(7), |n| n.parse())?;
    let dir = tempfile::tempdir()?;
    let reads = std::env::args().skip_while(|arg| arg != "--reads").nth(1);
    let reads = match reads.as_deref() {
        None => Reads::Best,
        Some("functions") => Reads::Only(Way::Functions),
        Some("calls") => Reads::Only(Way::Calls),
        Some("pages") => Reads::Only(Way::Pages),
        Some(other) => return Err(format!("--reads functions, calls or pages, and not {other}").into()),
    };
    let cgroup = Cgroup::new(&make(dir.path(), "cgroup")?)?;
    let bench = Bench { cgroup, dir: dir.path().to_owned(), reads };
    bench.set_up_time()?;
    let small = bench.tree("small", SMALL_FILES)?;
    bench.cost(
        "find + cat of 40 k files",
        rounds,
        std::slice::from_ref(&small),
        &format!("find {} -type f -print0 | xargs -0 cat >/dev/null", small.display()),
    )?;
    let python = python_library()?;
    let imports = "for i in 1 2 3 4 5 6; do python3 -c 'import asyncio, email, http.server, json, sqlite3, ssl, \
        unittest, urllib.request, xml.dom.minidom, logging.config, multiprocessing, concurrent.futures'; done";
    bench.cost("python imports, six times", rounds, &[python], imports)?;
    bench.memory()
}

/// What all measurements need.
struct Bench {
    cgroup: Cgroup,
    dir: PathBuf,
    reads: Reads,
}

/// One run of a workload.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    workload_cpu: f64,
    wall: f64,
    tracer_cpu: f64,
    events: u64,
    dropped: u64,
}

impl Bench {
    /// A directory of `count` files of one page each.
    fn tree(&self, name: &str, count: usize) -> Result<PathBuf> {
        let root = make(&self.dir, name)?;
        for number in 0..count {
            let dir = root.join((number / FILES_PER_DIRECTORY).to_string());
            if number % FILES_PER_DIRECTORY == 0 {
                fs::create_dir(&dir)?;
            }
            fs::write(dir.join(number.to_string()), [b'x'; 4096])?;
        }
        Command::new("sync").arg("-f").arg(&root).status()?;
        Ok(root)
    }

    fn attach(&self, layers: &[PathBuf]) -> Result<Ebpf> {
        let settings = Settings { reads: self.reads, ..Settings::default() };
        Ok(Ebpf::attach(&self.cgroup, layers, &self.dir, &self.dir, &settings)?)
    }

    fn set_up_time(&self) -> Result<()> {
        let none = make(&self.dir, "none")?;
        let many = self.tree("many", MANY_FILES)?;
        let time = |layers: &[PathBuf]| -> Result<f64> {
            let begun = Instant::now();
            let tracer = self.attach(layers)?;
            let seconds = begun.elapsed().as_secs_f64();
            drop(tracer);
            Ok(seconds * 1e3)
        };
        let (mut empty, mut full) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            empty.push(time(std::slice::from_ref(&none))?);
            full.push(time(std::slice::from_ref(&many))?);
        }
        let (empty, full) = (median(&empty), median(&full));
        say(&format!("load and attach: {empty:.0} ms (wanted: at most 150)"))?;
        say(&format!("identity of 100 k files: {:.0} ms (wanted: at most 1000)", full - empty))?;
        fs::remove_dir_all(many)?;
        Ok(())
    }

    /// The price of being recorded, and of recording.
    fn cost(&self, name: &str, rounds: usize, layers: &[PathBuf], script: &str) -> Result<()> {
        self.run(script, None)?; // warms the page cache
        let (mut plain, mut traced) = (Vec::new(), Vec::new());
        for _ in 0..rounds.max(1) {
            plain.push(self.run(script, None)?);
            let mut tracer = self.attach(layers)?;
            traced.push(self.run(script, Some(&mut tracer))?);
        }
        let of =
            |runs: &[Cost], figure: fn(&Cost) -> f64| median(&runs.iter().map(figure).collect::<Vec<_>>());
        let (without, with) = (of(&plain, |run| run.workload_cpu), of(&traced, |run| run.workload_cpu));
        let core = of(&traced, |run| run.tracer_cpu / run.wall);
        let events = of(&traced, |run| run.events as f64);
        let dropped: u64 = traced.iter().map(|run| run.dropped).sum();
        say(&format!(
            "{name}: workload's CPU {without:.3} s without, {with:.3} s with: {:.3}x (wanted: at most 1.05); \
             wall {:.3} s, {:.3} s; tracer {:.1} % of a core (wanted: at most 10); {events:.0} events, {dropped} lost",
            with / without,
            of(&plain, |run| run.wall),
            of(&traced, |run| run.wall),
            core * 100.0
        ))
    }

    /// Runs a script in the cgroup, reading the tracer meanwhile.
    fn run(&self, script: &str, tracer: Option<&mut Ebpf>) -> Result<Cost> {
        let (before, own) = (self.cgroup_cpu()?, process_cpu());
        let begun = Instant::now();
        let procs = self.cgroup.dir().join("cgroup.procs");
        let mut child = Command::new("sh")
            .args(["-c", &format!("echo 0 >'{}' && {script}", procs.display())])
            .stdin(Stdio::null())
            .spawn()?;
        let over = AtomicBool::new(false);
        let (status, counts) = std::thread::scope(|scope| -> Result<_> {
            let reader = tracer.map(|tracer| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        tracer.next(Duration::from_millis(20));
                    }
                    while tracer.next(Duration::ZERO).is_some() {}
                    tracer.counts()
                })
            });
            let status = child.wait()?;
            over.store(true, Ordering::Relaxed);
            let counts =
                reader.map(|reader| reader.join().expect("the reader does not panic")).transpose()?;
            Ok((status, counts.unwrap_or_default()))
        })?;
        if !status.success() {
            return Err(format!("the workload ended with {status}").into());
        }
        Ok(Cost {
            workload_cpu: self.cgroup_cpu()? - before,
            wall: begun.elapsed().as_secs_f64(),
            tracer_cpu: process_cpu() - own,
            events: counts.emitted,
            dropped: counts.dropped,
        })
    }

    /// Seconds of CPU that the cgroup's tasks have used.
    fn cgroup_cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(self.cgroup.dir().join("cpu.stat"))?;
        let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(usage.ok_or("cpu.stat has no usage_usec")?.parse::<f64>()? / 1e6)
    }

    /// Peak memory after a million events on as many pages, in this process.
    fn memory(&self) -> Result<()> {
        let layer = make(&self.dir, "large")?;
        let file = layer.join("sparse");
        fs::File::create(&file)?.set_len(EVENTS * 4096)?;
        fs::write("/proc/self/clear_refs", "5")?; // the peak counts from here (proc_pid_clear_refs(5))
        let mut tracer = self.attach(std::slice::from_ref(&layer))?;
        let script = format!("dd if='{}' of=/dev/null bs=4096 status=none", file.display());
        let cost = self.run(&script, Some(&mut tracer))?;
        let status = fs::read_to_string("/proc/self/status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
        let peak: f64 = peak.ok_or("no VmHWM in /proc/self/status")?.parse()?;
        say(&format!(
            "memory after {} events ({} lost): {:.1} MB at its peak, ring buffer included (wanted: at most 64)",
            cost.events,
            cost.dropped,
            peak / 1e3
        ))
    }
}

fn make(parent: &Path, name: &str) -> io::Result<PathBuf> {
    let dir = parent.join(name);
    fs::create_dir(&dir)?;
    Ok(dir)
}

/// Where this machine's Python keeps its standard library.
fn python_library() -> Result<PathBuf> {
    let script = "import os; print(os.path.dirname(os.__file__))";
    let output = Command::new("python3").args(["-c", script]).output()?;
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// Seconds of CPU that this process has used.
fn process_cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
