//! The hidden connection: its server is killed, stopped, replaced and held up while readers compare each byte. Needs root,
//! /dev/fuse and, for the image, a kernel that mounts EROFS from files.
//!
//! The server is a program of its own (`tests/programs/hidden_server.rs`). A [`Scene`] owns its processes and mounts.

mod scene;
mod witness;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::known_layer::KnownLayer;
use harness::patience::eventually;
use rustix::process::{Signal, getsid};
use scene::Scene;
use witness::Witnesses;

/// Kills of one test.
const KILLS: u64 = 40;

/// Numbers that look like chance, the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Readers go on over all kills; a quarter of them hits a server that is still starting.
fn survives_kills(flags: &[&str]) {
    let mut scene = Scene::new(flags);
    let mut server = scene.serve(&[]);
    server.expect("serving new");
    let witnesses = Witnesses::start(&scene, 0..2);
    let mut chance = Chance(0x5eed);
    let (mut resumed, mut slowest) = (0, Duration::ZERO);
    for _ in 0..KILLS {
        sleep(Duration::from_millis(chance.below(150)));
        server.kill();
        sleep(Duration::from_millis(chance.below(300)));
        let start = Instant::now();
        server = scene.serve(&[]);
        if chance.below(4) > 0 {
            server.expect("serving resumed");
            resumed += 1;
            slowest = slowest.max(start.elapsed());
        }
    }
    witnesses.expect_progress();
    let tally = witnesses.stop();
    server.signal(Signal::TERM);
    println!(
        "{KILLS} kills: {tally}; {resumed} successors served, the slowest after {slowest:?}; {}",
        server.rest()
    );
    tally.assert_clean();
    scene.assert_no_process_hangs();
}

#[test]
fn readers_do_not_notice_that_servers_are_killed() {
    survives_kills(&[]);
}

#[test]
fn readers_do_not_notice_it_on_kernels_that_cannot_send_requests_again() {
    survives_kills(&["--without-resend"]);
}

#[test]
fn an_upgrade_takes_over_while_the_old_server_ends() {
    let mut scene = Scene::new(&[]);
    let mut server = scene.serve(&[]);
    server.expect("serving new");
    let witnesses = Witnesses::start(&scene, 0..2);
    for _ in 0..8 {
        witnesses.expect_progress();
        let mut next = scene.serve(&[]);
        next.expect("waiting");
        server.signal(Signal::TERM);
        server.expect("left 0");
        next.expect("serving resumed");
        server = next;
    }
    witnesses.expect_progress();
    let tally = witnesses.stop();
    println!("8 upgrades: {tally}");
    tally.assert_clean();
}

#[test]
fn a_server_that_hangs_is_fenced() {
    let mut scene = Scene::new(&[]);
    let mut server = scene.serve(&[]);
    server.expect("serving new");
    let witnesses = Witnesses::start(&scene, 0..2);
    for _ in 0..3 {
        witnesses.expect_progress();
        server.signal(Signal::STOP);
        let mut next = scene.serve(&["--patience", "300"]);
        next.expect("serving resumed");
        assert!(server.was_killed(), "the old server had the lease taken away, and lives");
        server = next;
    }
    witnesses.expect_progress();
    let tally = witnesses.stop();
    println!("3 servers that hang: {tally}");
    tally.assert_clean();
}

#[test]
fn without_holder_and_server_readers_get_errors_at_once() {
    let mut scene = Scene::new(&[]);
    let mut server = scene.serve(&[]);
    server.expect("serving new");
    let witnesses = Witnesses::start(&scene, 0..2);
    witnesses.expect_progress();
    let start = Instant::now();
    scene.kill_holder();
    server.kill();
    witnesses.expect_errors();
    println!("errors after {:?}", start.elapsed());
    let tally = witnesses.stop();
    assert_eq!(tally.wrong, 0, "{tally}");
    scene.assert_no_process_hangs();
    // The mount of the dead connection is in the way of nobody.
    let mut server = scene.serve(&[]);
    server.expect("serving new");
}

#[test]
fn a_holder_is_for_root_alone_and_is_replaced_when_it_was_killed() {
    let mut scene = Scene::new(&[]);
    let mut server = scene.serve(&[]);
    server.expect("serving new");
    assert_eq!(fs::metadata(scene.socket()).unwrap().permissions().mode() & 0o7777, 0o600);
    let holder = scene.holder().expect("a holder runs");
    assert_eq!(getsid(Some(holder)), Ok(holder), "the holder has no session of its own");
    let witnesses = Witnesses::start(&scene, 0..2);
    witnesses.expect_progress();
    scene.kill_holder();
    server.tell("renew");
    server.expect("renewed");
    server.kill();
    let mut server = scene.serve(&[]);
    server.expect("serving resumed");
    witnesses.expect_progress();
    let tally = witnesses.stop();
    println!("a holder and then a server: {tally}");
    tally.assert_clean();
}

#[test]
fn readers_get_errors_when_no_server_comes_back() {
    let mut scene = Scene::new(&["--abort-after", "700"]);
    let mut server = scene.serve(&["--hold-layer", "0"]);
    server.expect("serving new");
    let mut reader = scene.read("layer0.tree/big", 1 << 20);
    server.expect("held");
    server.kill();
    let start = Instant::now();
    reader.expect("error");
    let waited = start.elapsed();
    println!("error after {waited:?}");
    assert!(waited >= Duration::from_millis(600), "the connection ended after {waited:?} already");
    eventually("the holder has ended", || scene.holder().is_none());
    let mut server = scene.serve(&[]);
    server.expect("serving new");
    let known = KnownLayer::new(0);
    let (index, path, size) = known.files()[0];
    let bytes = fs::read(scene.hidden().join("layer0.tree").join(path)).unwrap();
    assert!(bytes == known.content(index, 0, size as usize), "wrong bytes on the new connection");
}

#[test]
fn a_layer_whose_bytes_do_not_come_holds_back_no_other() {
    let mut scene = Scene::new(&[]);
    let mut server = scene.serve(&["--hold-layer", "1"]);
    server.expect("serving new");
    // More than there are threads that read requests, by far.
    let mut stuck: Vec<_> = (1..=40).map(|at| scene.read("layer1.tree/big", at << 16)).collect();
    for _ in &stuck {
        server.expect("held");
    }
    let witnesses = Witnesses::start(&scene, 0..1);
    for _ in 0..20 {
        witnesses.expect_progress();
    }
    let tally = witnesses.stop();
    println!("beside 40 readers that wait: {tally}");
    tally.assert_clean();
    server.tell("release");
    for reader in &mut stuck {
        reader.expect("read 4096");
    }
}

#[test]
fn a_reader_that_waits_for_a_byte_can_be_killed_and_is_not_disturbed_by_signals() {
    let mut scene = Scene::new(&[]);
    let mut server = scene.serve(&["--hold-layer", "0"]);
    server.expect("serving new");
    let mut kept = Vec::new();
    for direct in [false, true] {
        let mut readers = [1u64, 2, 3].map(|at| {
            let offset = (at << 20) + (u64::from(direct) << 19);
            let path = "layer0.tree/big";
            let reader = if direct { scene.read_directly(path, offset) } else { scene.read(path, offset) };
            server.expect("held");
            reader
        });
        for reader in &mut readers {
            // A signal for which there is a handler is for later. The read goes on.
            reader.signal(Signal::USR1);
            reader.expect_deaf();
        }
        let [mut killed, mut ended, other] = readers;
        let start = Instant::now();
        killed.signal(Signal::KILL);
        ended.signal(Signal::TERM);
        assert!(killed.was_killed() && ended.was_ended_by(Signal::TERM));
        println!("direct: {direct}; readers ended {:?} after their signals", start.elapsed());
        kept.push(other);
    }
    // The same after the server that had read the request was killed. Who is killed before the holder has sent the request
    // again waits for the next server.
    let mut orphan = scene.read_directly("layer0.tree/big", 4 << 20);
    server.expect("held");
    server.kill();
    orphan.signal(Signal::KILL);
    let mut server = scene.serve(&["--hold-layer", "0"]);
    server.expect("serving resumed");
    assert!(orphan.was_killed());
    // Those that live get what they wait for.
    for reader in &mut kept {
        server.expect("held");
        reader.signal(Signal::USR1);
        reader.expect_deaf();
    }
    server.tell("release");
    for reader in &mut kept {
        reader.expect("read 4096");
    }
}

#[test]
fn a_new_server_waits_for_layers_that_are_not_attached_yet() {
    let mut scene = Scene::new(&[]);
    let mut server = scene.serve(&[]);
    server.expect("serving new");
    let file = File::open(scene.hidden().join("layer1.tree/big")).unwrap();
    server.kill();
    // The successor attaches its layers only when it is told to.
    let mut server = scene.serve(&["--attach-later"]);
    server.expect("serving resumed");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut page = vec![0; 4096];
            file.read_exact_at(&mut page, 3 << 20).map(|()| page)
        });
        server.expect("awaited 4 waiting 1");
        server.tell("attach");
        let known = KnownLayer::new(1);
        let page = reader.join().unwrap().unwrap();
        assert!(page == known.content(2, 3 << 20, 4096), "wrong bytes");
    });
}

#[test]
fn a_layer_says_for_itself_alone_that_it_has_no_attributes() {
    let mut scene = Scene::new(&[]);
    let mut server = scene.serve(&[]);
    server.expect("serving new");
    let value = |path: &str| {
        let mut value = vec![0; 64];
        let path = scene.hidden().join(path);
        let length = rustix::fs::getxattr(&path, "user.index", &mut value)?;
        value.truncate(length);
        Ok::<_, rustix::io::Errno>(value)
    };
    assert_eq!(value("layer0.img"), Err(rustix::io::Errno::NODATA));
    assert_eq!(value("layer0.tree/big").as_deref(), Ok(&b"2"[..]));
    let listed = fs::read_dir(scene.hidden()).unwrap();
    let mut names: Vec<_> = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["layer0.img", "layer0.tree", "layer1.img", "layer1.tree"]);
}
