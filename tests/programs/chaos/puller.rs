//! A thread that pulls, runs, reads and removes images that nobody has read before, by the daemon's own requests.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tonic::Code;

use crate::readers::{Seen, read_once};
use crate::world::{Container, Dice, World};

/// How long no pull may succeed, while others work: a guest without KVM needs a minute for each start of the daemon.
const PATIENCE: Duration = Duration::from_mins(10);

/// Pulls, runs, reads and removes images that nobody has read before.
pub(crate) fn puller(world: Arc<World>, seed: u64, seen: Arc<Seen>) -> JoinHandle<()> {
    thread::spawn(move || {
        let runtime = Runtime::new().expect("a runtime");
        let mut dice = Dice::new(seed ^ 0xbeef);
        'images: for number in 0u64.. {
            if seen.is_over() {
                return;
            }
            let _lies = world.of_successor.read();
            let image = world.image(&format!("fresh{seed}-{number}"), 2, 4, 400_000);
            let key = format!("fresh{number}");
            let begun = Instant::now();
            let container = loop {
                match runtime.block_on(world.run(&image, &key)) {
                    Ok(container) => break container,
                    // The registry has refused: for a minute the image is containerd's to pull.
                    Err(status) if status.code() == Code::Aborted => continue 'images,
                    Err(status) if begun.elapsed() > PATIENCE => {
                        seen.wrong(format!("no pull: {status}"));
                        return;
                    }
                    // The daemon is away, or the registry is bad: whoever pulls tries again.
                    Err(_) => thread::sleep(Duration::from_millis(100)),
                }
                if seen.is_over() {
                    return;
                }
            };
            read_all(&container, &mut dice, &seen);
            if let Err(reason) = runtime.block_on(world.remove_in_use(&container)) {
                seen.wrong(reason);
            }
            read_all(&container, &mut dice, &seen);
            while !seen.is_over() && runtime.block_on(world.remove(&container)).is_err() {
                thread::sleep(Duration::from_millis(100));
            }
        }
    })
}

fn read_all(container: &Container, dice: &mut Dice, seen: &Seen) {
    for _ in 0..30 {
        read_once(container, dice, seen);
    }
    if let Err(error) = container.exec() {
        seen.wrong(error);
    }
}
