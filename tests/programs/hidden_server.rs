//! A server of the hidden connection that tests may kill: two layers of known bytes, each as a tree and as an image.
//!
//! `hold SOCKET MILLISECONDS [without-resend]`, `help`, `mount-image IMAGE MOUNTPOINT`, `serve DIRECTORY [FLAG...]` and `read FILE OFFSET [direct]` are its processes. What it
//! says on stdout is what the tests wait for. It has no state but what the connection has.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, stdin};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use harness::known_layer::{Kind, KnownLayer, mode};
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;
use snapshotter::hidden::helper::{self, Program, Work};
use snapshotter::hidden::holder::{self, Holder};
use snapshotter::hidden::{Attr, Connection, Helpers, Name, Options, Reply, Terms, Timeouts, Totals, Tree};
use tokio::signal::unix::{SignalKind, signal};

/// An answer that is given later.
type Answer = Box<dyn FnOnce() + Send>;

/// A layer as a tree, or as one file.
struct Layer {
    known: Arc<KnownLayer>,
    image: bool,
    pace: Pace,
}

/// When reads are answered.
#[derive(Clone)]
enum Pace {
    /// After 0 to 3 ms.
    Soon(Sender<(Duration, Answer)>),
    /// When the test says so. `None`: it has said so.
    Held(Arc<Mutex<Option<Vec<Answer>>>>),
}

impl Layer {
    fn attr_of(&self, index: u32) -> Result<Attr, Errno> {
        if self.image {
            return if index == 1 { Ok(Attr::file(1, self.known.image_size())) } else { Err(Errno::NOENT) };
        }
        let node = self.known.node(index).ok_or(Errno::NOENT)?;
        let (mode, nlink) = mode(&node.kind);
        let size = match &node.kind {
            Kind::Directory(_) => 0,
            Kind::File(size) => *size,
            Kind::Link(target) => target.len() as u64,
        };
        Ok(Attr { mode, nlink, size, ..Attr::directory(index) })
    }
}

impl Tree for Layer {
    fn attr(&self, index: u32) -> Result<Attr, Errno> {
        self.attr_of(index)
    }

    fn lookup(&self, directory: u32, name: &[u8]) -> Result<Attr, Errno> {
        let node = self.known.node(directory).filter(|_| !self.image).ok_or(Errno::NOTDIR)?;
        let Kind::Directory(names) = &node.kind else { return Err(Errno::NOTDIR) };
        let name = std::str::from_utf8(name).map_err(|_| Errno::NOENT)?;
        self.attr_of(*names.get(name).ok_or(Errno::NOENT)?)
    }

    fn readlink(&self, index: u32) -> Result<Cow<'_, [u8]>, Errno> {
        match self.known.node(index).map(|node| &node.kind) {
            Some(Kind::Link(target)) => Ok(target.as_bytes().into()),
            _ => Err(Errno::INVAL),
        }
    }

    fn list(&self, index: u32, from: u64, add: &mut dyn FnMut(Name<'_>) -> bool) -> Result<(), Errno> {
        let node = self.known.node(index).filter(|_| !self.image).ok_or(Errno::NOTDIR)?;
        let Kind::Directory(names) = &node.kind else { return Err(Errno::NOTDIR) };
        let dots = [(".", index), ("..", node.parent)];
        let all = dots.into_iter().chain(names.iter().map(|(name, index)| (&**name, *index)));
        for (next, (name, index)) in (1..).zip(all).skip(from as usize) {
            if !add(Name { name: name.as_bytes(), attr: self.attr_of(index)?, next }) {
                break;
            }
        }
        Ok(())
    }

    fn xattr(&self, index: u32, name: &[u8]) -> Result<Cow<'_, [u8]>, Errno> {
        // The image says that it has none at all, which must not be believed of the trees.
        match (self.image, name) {
            (true, _) => Err(Errno::NOSYS),
            (false, b"user.index") => Ok(index.to_string().into_bytes().into()),
            (false, _) => Err(Errno::NODATA),
        }
    }

    fn xattr_names(&self, _index: u32) -> Result<Cow<'_, [u8]>, Errno> {
        if self.image { Err(Errno::NOSYS) } else { Ok(b"user.index\0"[..].into()) }
    }

    fn totals(&self) -> Totals {
        Totals { used: self.known.image_size(), free: 0, inodes: self.known.nodes().count() as u64 }
    }

    fn read(&self, index: u32, offset: u64, size: u32, reply: Reply) {
        let (known, image) = (Arc::clone(&self.known), self.image);
        let answer: Answer = Box::new(move || {
            let size = size as usize;
            reply.fresh(if image { known.image(offset, size) } else { known.content(index, offset, size) });
        });
        // Metadata of an image are always here, as they are of a real layer.
        if image && offset < 64 << 10 {
            return answer();
        }
        match &self.pace {
            Pace::Soon(later) => {
                let wait = Duration::from_micros(offset.wrapping_mul(2_654_435_761) % 3000);
                later.send((wait, answer)).expect("the timer runs");
            }
            Pace::Held(held) => {
                let mut held = held.lock();
                if let Some(answers) = &mut *held {
                    answers.push(answer);
                    println!("held");
                } else {
                    drop(held);
                    answer();
                }
            }
        }
    }
}

/// Runs what is due, one after the other.
fn timer(due: Receiver<(Duration, Answer)>) {
    for (wait, run) in due {
        thread::sleep(wait);
        run();
    }
}

fn helpers() -> Helpers {
    Helpers::new(Program { path: program(), words: vec!["help".into()], name: "hidden-server".into() })
}

fn program() -> PathBuf {
    std::env::current_exe().expect("a running program has a path")
}

fn serve(directory: &Path, flags: &[String]) -> ExitCode {
    let has = |flag: &str| flags.iter().any(|given| given == flag);
    let number = |flag: &str| {
        let at = flags.iter().position(|given| given == flag)?;
        flags.get(at + 1)?.parse::<u64>().ok()
    };
    let socket = directory.join("hold.sock");
    let abort_after = number("--abort-after").unwrap_or(600_000).to_string();
    let without_resend = has("--without-resend");
    let keeper = move || {
        let mut hold = Command::new(program());
        hold.arg("hold").arg(&socket).arg(&abort_after).args(without_resend.then_some("without-resend"));
        Box::new(Holder::connect_or_start(&socket, &mut hold).expect("a holder"))
    };
    let timeout = Duration::from_millis(50);
    let options = Options {
        mountpoint: directory.join("hidden"),
        helpers: Arc::new(helpers()),
        readers: 3,
        patience: Duration::from_millis(number("--patience").unwrap_or(60_000)),
        terms: Terms::default(),
        timeouts: Timeouts { attr: timeout, entry: timeout, negative: timeout },
        without_resend,
    };
    println!("waiting");
    let connection = Arc::new(Connection::open(keeper(), options).expect("a connection"));
    let held = Arc::new(Mutex::new(Some(Vec::<Answer>::new())));
    let kind = if connection.is_resumed() { "resumed" } else { "new" };
    let hold = number("--hold-layer");
    if has("--attach-later") {
        println!("serving {kind}");
        while connection.waiting() == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        println!("awaited {} waiting {}", connection.awaited().len(), connection.waiting());
        let mut line = String::new();
        stdin().read_line(&mut line).expect("stdin can be read");
        attach(&connection, hold, &held);
    } else {
        attach(&connection, hold, &held);
        println!("serving {kind}");
    }
    let told = Arc::clone(&connection);
    thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            if line == "release" {
                let answers = held.lock().take().unwrap_or_default();
                for answer in answers {
                    answer();
                }
            } else if line == "renew" {
                while told.is_kept() {
                    thread::sleep(Duration::from_millis(1));
                }
                told.renew(keeper()).expect("another holder keeps");
                println!("renewed");
            }
        }
    });
    wait_for(SignalKind::terminate());
    let taken = connection.taken_over();
    let left = connection.leave(Duration::from_secs(10));
    println!("left {left} taken {taken}");
    ExitCode::SUCCESS
}

/// Attaches both layers, each as a tree and as an image. Reads of layer `hold` are put into `held`.
fn attach(connection: &Connection, hold: Option<u64>, held: &Arc<Mutex<Option<Vec<Answer>>>>) {
    for layer in 0..2 {
        let known = Arc::new(KnownLayer::new(layer));
        for image in [false, true] {
            let pace = if hold == Some(layer) {
                Pace::Held(Arc::clone(held))
            } else {
                let (later, due) = channel();
                thread::spawn(move || timer(due));
                Pace::Soon(later)
            };
            let name = format!("layer{layer}.{}", if image { "img" } else { "tree" });
            let tree = Arc::new(Layer { known: Arc::clone(&known), image, pace });
            connection.attach(&name, tree).expect("a slot");
        }
    }
}

/// Waits for a signal.
fn wait_for(kind: SignalKind) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        signal(kind).expect("a signal").recv().await;
    });
}

/// Reads one page by one system call, while it has a handler for SIGUSR1. With `direct`, not through the page cache: the kernel
/// then says INTERRUPT for each signal.
fn read(path: &Path, offset: u64, direct: bool) -> ExitCode {
    let (ready, is_ready) = channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut handler = signal(SignalKind::user_defined1()).expect("a signal");
            ready.send(()).expect("the reader waits");
            while handler.recv().await.is_some() {}
        });
    });
    is_ready.recv().expect("the handler is there");
    let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
    let file =
        File::options().read(true).custom_flags(flags.bits() as i32).open(path).expect("the file is there");
    let mut page = vec![0; 4096];
    match file.read_at(&mut page, offset) {
        Ok(length) => println!("read {length}"),
        Err(error) => println!("error {error}"),
    }
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let verb = words.next().unwrap_or_default();
    let rest: Vec<OsString> = words.collect();
    let text = |at: usize| rest.get(at).map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    match verb.to_str() {
        Some("hold") => {
            let abort_after = Duration::from_millis(text(1).parse().expect("milliseconds"));
            let without_resend = text(2) == "without-resend";
            let options = holder::Options { socket: text(0).into(), abort_after, without_resend };
            match holder::run(&options, || println!("ready")) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error}");
                    ExitCode::FAILURE
                }
            }
        }
        Some("help") => {
            helper::serve();
            ExitCode::SUCCESS
        }
        Some("mount-image") => {
            let (image, mountpoint) = (text(0).into(), text(1).into());
            let work = Work::MountImage { image, mountpoint, read_ahead: 4096 };
            match helpers().run(&work, Duration::from_mins(1)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error:?}");
                    ExitCode::FAILURE
                }
            }
        }
        Some("serve") => {
            let flags: Vec<_> = (1..rest.len()).map(text).collect();
            serve(Path::new(&text(0)), &flags)
        }
        Some("read") => read(Path::new(&text(0)), text(1).parse().expect("an offset"), text(2) == "direct"),
        _ => ExitCode::FAILURE,
    }
}
