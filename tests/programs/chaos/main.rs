//! Chaos and soak: a daemon that dies, ends, is replaced and meets bad registries while containers read, and one that pulls,
//! runs and removes for hours. What `cargo xtask chaos` and `cargo xtask soak` run; needs root.
//!
//! `chaos SECONDS SEED WAY [without-containerd|in-guest]`, `versions WAY` and `soak CYCLES WAY`, where WAY is `erofs` or `fuse`. The last line is a JSON object of the
//! figures. It exits 1 when anything was wrong: an error of a read, a wrong byte, a process that cannot die, something left behind, a slope.

mod disk;
mod elsewhere;
mod events;
mod puller;
mod readers;
mod real;
mod run;
mod soak;
mod versions;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use run::Place;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u64>().ok();
    let wrong = match words[..] {
        ["chaos", seconds, seed, way, ref rest @ ..] => {
            let place = match *rest {
                [] => Some(Place::Containerd),
                ["without-containerd"] => Some(Place::Bare),
                ["in-guest"] => Some(Place::Guest),
                _ => None,
            };
            match (number(seconds), number(seed), place) {
                (Some(seconds), Some(seed), Some(place)) => {
                    run::run(Duration::from_secs(seconds), seed, way, place)
                }
                _ => return usage(),
            }
        }
        ["versions", way] => versions::run(way),
        ["soak", cycles, way] => match number(cycles) {
            Some(cycles) => soak::run(cycles, way),
            None => return usage(),
        },
        _ => return usage(),
    };
    for reason in &wrong {
        eprintln!("WRONG: {reason}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    eprintln!(
        "chaos SECONDS SEED erofs|fuse [without-containerd|in-guest], or versions erofs|fuse, or soak CYCLES erofs|fuse"
    );
    ExitCode::from(2)
}
