//! An upgrade to a build that mounts layers with another layout, and the way back: what containers see, and what they are promised.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use harness::daemon::Daemon;
use harness::machine::mounts_mentioning;
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::events::builds;
use crate::run::config;
use crate::world::{Container, World};

const LAYERS: usize = 2;
/// How soon a reader of what no daemon serves gets its error.
const AT_ONCE: Duration = Duration::from_secs(30);
/// What the daemon logs when it finds mounts that it cannot answer for.
const ANOTHER: &str = "another version has mounted the layer";

/// Goes there and back. What was wrong.
pub(crate) fn run(way: &str) -> Vec<String> {
    let config = config(way);
    let world = World::new(&config);
    let runtime = Runtime::new().expect("a runtime");
    let [ours, successor] = builds();
    let mut wrong = Vec::new();
    let container = |name: &str| {
        let image = world.image(name, LAYERS, 6, 600_000);
        runtime.block_on(world.run(&image, name)).expect("the daemon serves")
    };
    let replace = |daemon: &mut Daemon, program: &Path| {
        daemon.stop(Signal::TERM);
        daemon.use_program(program.to_owned());
        daemon.restart(&config);
    };
    let mounts = || mounts_mentioning(&world.root.join("snapshotter").to_string_lossy()).len();

    let old = container("old");
    wrong.extend(read("before", &old, 2));
    replace(&mut world.daemon.lock(), &successor);
    // What nobody has read, too, and after a death of the new build as well.
    wrong.extend(read("after the upgrade", &old, 4));
    let new = container("new");
    wrong.extend(read("of the new layout", &new, 4));
    world.daemon.lock().kill();
    world.daemon.lock().restart(&config);
    wrong.extend(read("of the old layout, after a death", &old, 8));
    wrong.extend(read("of the new layout, after a death", &new, 8));
    let before = mounts();
    if world.daemon.lock().log().contains(ANOTHER) {
        wrong.push("the upgrade mounts layers anew".to_owned());
    }

    replace(&mut world.daemon.lock(), &ours);
    let begun = Instant::now();
    while world.daemon.lock().log().matches(ANOTHER).count() < LAYERS {
        if begun.elapsed() > AT_ONCE {
            wrong.push("the earlier build does not see what it cannot serve".to_owned());
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    wrong.extend(read("of the old layout, on the way back", &old, usize::MAX));
    let again = runtime.block_on(world.run(&new.image, "again")).expect("the daemon serves");
    wrong.extend(read("of a new container", &again, usize::MAX));
    // What the earlier build cannot answer is an error, and soon; it is no wrong byte, and nobody waits for ever.
    let begun = Instant::now();
    let (path, wanted) = new.image.files.last().expect("there are files");
    match fs::read(new.rootfs.join(path)) {
        Err(error) => println!("{way}: who reads what the earlier build does not know gets: {error}"),
        Ok(bytes) if bytes == *wanted => {
            wrong.push("the earlier build answers for what it does not know".to_owned());
        }
        Ok(_) => wrong.push("wrong bytes of what nobody serves".to_owned()),
    }
    if begun.elapsed() > AT_ONCE {
        wrong.push(format!("who reads it waits for {:?}", begun.elapsed()));
    }
    if mounts() < before {
        wrong.push("mounts were lost".to_owned());
    }
    println!("{{\"way\":\"{way}\",\"versions\":true,\"wrong\":{}}}", wrong.len());
    wrong
}

/// What is wrong with the first files of a container.
fn read(when: &str, container: &Container, files: usize) -> Vec<String> {
    let wrong = |(path, wanted): &(String, Vec<u8>)| match fs::read(container.rootfs.join(path)) {
        Ok(bytes) if bytes == *wanted => None,
        Ok(_) => Some(format!("{when}: wrong bytes in {path}")),
        Err(error) => Some(format!("{when}: {path}: {error}")),
    };
    container.image.files.iter().take(files).filter_map(wrong).collect()
}
