//! Containers that containerd and runc run, on layers that containerd has pulled through the daemon.
//!
//! One runs all the time and checks all of its files, over and over. Others come and go: pulled while the daemon dies, programs
//! run in them by `ctr tasks exec` that nobody has read, their images removed while they run.
//! A [`Runtime`] owns the containerd and all of its containers: they end with it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use harness::containerd::Containerd;
use harness::image::{LayerSource, TarWriter, publish};
use soci_core::digest::Digest;
use tokio::runtime::Runtime as Async;

use crate::readers::Seen;
use crate::world::{BUSYBOX, Container, Dice, Image as Known, World};

/// How long containerd may take to get an image, or to start a container, while the daemon dies and comes back.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long to wait for the daemon to die once more before the next program is run.
const DEATH: Duration = Duration::from_secs(4);
/// Programs in each image that are run once.
const PROGRAMS: usize = 3;
/// Files in each image, and their bytes.
const FILES: usize = 6;
const BYTES: usize = 300_000;

/// What the container does that runs all the time. What it says is on a directory of the host.
const CHECK: &str = "while :; do /bin/busybox sha256sum -c /sums > /sync/said 2>&1 || /bin/busybox cp /sync/said /sync/wrong; \
    echo . >> /sync/rounds; /bin/busybox usleep 100000; done";

/// An image in the registry.
#[derive(Debug)]
struct Image {
    reference: String,
}

/// A containerd and what it runs.
#[derive(Debug)]
pub(crate) struct Runtime {
    containerd: Containerd,
    /// What the container that always runs sees as `/sync`.
    sync: PathBuf,
}

impl Runtime {
    /// Starts containerd.
    pub(crate) fn start(world: &World) -> Self {
        let containerd = Containerd::start(world.work(), &world.daemon.lock());
        let sync = world.work().join("sync");
        fs::create_dir(&sync).expect("a directory can be made");
        Self { containerd, sync }
    }

    /// A container that waits, for others to read.
    pub(crate) fn container(&self, of: Arc<Known>, name: &str, seen: &Seen) -> Container {
        let id = format!("chaos-{name}-{}", std::process::id());
        let image = Image { reference: of.published.reference.clone() };
        self.pull(&image, seen);
        assert!(self.run(&[], &image, &id, &["/bin/busybox", "sleep", "100000"], seen), "{id} runs");
        let task = format!("io.containerd.runtime.v2.task/k8s.io/{id}/rootfs");
        Container::of_runtime(of, self.containerd.state().join(task))
    }

    /// Starts the container that always runs, and the threads that deal with it and with others.
    pub(crate) fn threads(
        self: &Arc<Self>,
        world: &Arc<World>,
        seed: u64,
        seen: &Arc<Seen>,
    ) -> [JoinHandle<()>; 2] {
        let image = image(world, "steady", seed);
        let steady = format!("chaos-steady-{}", std::process::id());
        self.pull(&image, seen);
        let mount = format!("type=bind,src={},dst=/sync,options=rbind:rw", self.sync.display());
        self.run(&["--mount", &mount], &image, &steady, &["/bin/busybox", "sh", "-c", CHECK], seen);
        let (this, seen_by_it) = (Arc::clone(self), Arc::clone(seen));
        let executor = thread::spawn(move || {
            let mut dice = Dice::new(seed ^ 0xfeed);
            while !seen_by_it.is_over() {
                this.check(&steady, dice.below(FILES as u64) as usize, "/bin/busybox", &seen_by_it);
                thread::sleep(Duration::from_millis(dice.below(500)));
            }
        });
        let (this, world, seen) = (Arc::clone(self), Arc::clone(world), Arc::clone(seen));
        let others = thread::spawn(move || {
            let mut dice = Dice::new(seed ^ 0xcafe);
            for number in 0.. {
                if seen.is_over() {
                    return;
                }
                let _lies = world.of_successor.read();
                let name = format!("real{seed}-{number}");
                this.one(&image_of(&world, &name, seed ^ number), &name, &mut dice, &seen);
            }
        });
        [executor, others]
    }

    /// Pulls an image, runs a container of it, and programs in that; removes both.
    fn one(&self, image: &Image, name: &str, dice: &mut Dice, seen: &Seen) {
        if !self.pull(image, seen) {
            return;
        }
        let id = format!("chaos-{name}-{}", std::process::id());
        if self.run(&[], image, &id, &["/bin/busybox", "sleep", "100000"], seen) {
            let in_use = dice.below(2) == 0;
            for program in 0..PROGRAMS {
                let deaths = seen.deaths.load(Ordering::Relaxed);
                let begun = Instant::now();
                while deaths == seen.deaths.load(Ordering::Relaxed)
                    && begun.elapsed() < DEATH
                    && !seen.is_over()
                {
                    thread::sleep(Duration::from_millis(10));
                }
                let own = format!("/bin/busybox-{program}");
                self.check(&id, 2 * program, &own, seen);
                seen.real.first_execs.fetch_add(1, Ordering::Relaxed);
                self.check(&id, 2 * program + 1, "/bin/busybox", seen);
                if in_use && program == 0 {
                    self.remove_image(image);
                    seen.real.removals.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.end(&id);
        self.remove_image(image);
    }

    /// Runs a program in a container that compares a file with what it should be. Its code says so: of its output, `ctr` of
    /// containerd 1.6 may lose the end.
    fn check(&self, id: &str, file: usize, program: &str, seen: &Seen) {
        let begun = Instant::now();
        let output = self.containerd.exec(id, &[program, "sha256sum", "-c", &format!("/sums-{file}")]);
        if !output.status.success() {
            seen.wrong(format!("exec of {program} in {id} on file {file}: {output:?}"));
        }
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        seen.real.longest_exec.fetch_max(took, Ordering::Relaxed);
        seen.real.execs.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the image was pulled before the end of all.
    fn pull(&self, image: &Image, seen: &Seen) -> bool {
        let runtime = Async::new().expect("a runtime");
        let begun = Instant::now();
        loop {
            match runtime.block_on(self.containerd.cri_pull(&image.reference)) {
                Ok(_) => break,
                Err(_) if seen.is_over() => return false,
                // The daemon is away: whoever pulls tries again.
                Err(status) if begun.elapsed() > PATIENCE => {
                    seen.wrong(format!("containerd does not get an image: {status}"));
                    return false;
                }
                Err(_) => thread::sleep(Duration::from_millis(200)),
            }
        }
        seen.real.pulls.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Whether the container runs before the end of all.
    fn run(&self, flags: &[&str], image: &Image, id: &str, words: &[&str], seen: &Seen) -> bool {
        let begun = Instant::now();
        loop {
            let run = ["run", "--detach", "--snapshotter", "soci"];
            let output = self.containerd.ctr(&[&run, flags, &[&image.reference, id], words].concat());
            if output.status.success() {
                return true;
            }
            // A container that was begun is in the way of the next one.
            self.end(id);
            if seen.is_over() {
                return false;
            }
            if begun.elapsed() > PATIENCE {
                seen.wrong(format!(
                    "containerd does not run {id}: {}",
                    String::from_utf8_lossy(&output.stderr)
                ));
                return false;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ends and removes a container, as far as there is one.
    fn end(&self, id: &str) {
        let begun = Instant::now();
        let is_there = |words: &[&str]| {
            let listed = self.containerd.ctr(words);
            !listed.status.success() || String::from_utf8_lossy(&listed.stdout).lines().any(|line| line == id)
        };
        while is_there(&["tasks", "ls", "-q"]) && begun.elapsed() < PATIENCE {
            self.containerd.ctr(&["tasks", "kill", "--signal", "KILL", id]);
            self.containerd.ctr(&["tasks", "rm", id]);
        }
        while is_there(&["containers", "ls", "-q"]) && begun.elapsed() < PATIENCE {
            self.containerd.ctr(&["containers", "rm", id]);
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Removes all names of an image. What is used stays; the rest goes with the next collection of garbage.
    fn remove_image(&self, image: &Image) {
        let (name, _tag) = image.reference.rsplit_once(':').expect("it has a tag");
        let listed = self.containerd.ctr(&["images", "ls"]);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let lines: Vec<Vec<_>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        let is_of = |line: &&Vec<&str>| {
            line.len() > 2 && line[0].strip_prefix(name).is_some_and(|rest| rest.starts_with([':', '@']))
        };
        let Some(digest) = lines.iter().find(is_of).map(|line| line[2]) else { return };
        // One of its names is its id, as CRI has it.
        for line in lines.iter().filter(|line| line.len() > 2 && line[2] == digest) {
            self.containerd.ctr(&["images", "rm", "--sync", line[0]]);
        }
    }

    /// Whether the container that always runs has found what it should.
    pub(crate) fn look_back(&self, seen: &Seen) {
        if let Ok(wrong) = fs::read_to_string(self.sync.join("wrong")) {
            seen.wrong(format!("a container's own check: {wrong}"));
        }
        let rounds = fs::read_to_string(self.sync.join("rounds")).unwrap_or_default().lines().count();
        println!("{{\"rounds_of_the_container_that_checks_itself\":{rounds}}}");
        if rounds < 3 {
            seen.wrong(format!("a container has gone round {rounds} times only"));
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let listed = self.containerd.ctr(&["containers", "ls", "-q"]);
        for id in String::from_utf8_lossy(&listed.stdout).lines() {
            self.end(id);
        }
    }
}

/// The image of the container that always runs.
fn image(world: &World, name: &str, seed: u64) -> Image {
    image_of(world, name, seed ^ 0x5eed)
}

/// An image of two layers: the program that all have, and programs and files that no other image has.
fn image_of(world: &World, name: &str, seed: u64) -> Image {
    let busybox = fs::read(BUSYBOX).expect("busybox is installed");
    let mut below = TarWriter::default();
    for directory in ["bin", "data", "dev", "proc", "sys", "sync", "tmp", "etc"] {
        below.entry(&format!("{directory}/"), b'5', "", b"");
    }
    below.program("bin/busybox", &busybox);
    let mut above = TarWriter::default();
    for program in 0..PROGRAMS {
        // What is behind the program's end nobody runs; it makes each program another one.
        let own = [&busybox[..], format!("{name} {program}").as_bytes()].concat();
        above.program(&format!("bin/busybox-{program}"), &own);
    }
    let (mut dice, mut sums) = (Dice::new(seed), String::new());
    for file in 0..FILES {
        let content: Vec<u8> = (0..BYTES / 8).flat_map(|_| dice.next().to_le_bytes()).collect();
        let line = format!("{}  /data/{file}\n", Digest::of(&content).hex());
        above.file(&format!("data/{file}"), &content).file(&format!("sums-{file}"), line.as_bytes());
        sums.push_str(&line);
    }
    above.file("sums", sums.as_bytes());
    let sources = [below.finish(), above.finish()].map(|tar| LayerSource::of_tar(&tar));
    Image { reference: publish(&world.registry, name, &sources, 256 << 10).reference }
}
