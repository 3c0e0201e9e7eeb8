//! The first process of a workload's namespaces, up to the moment it becomes the command.
//!
//! It runs in a fresh process (the program executed itself with a hidden subcommand) which is already process 1 of its
//! pid namespace. Conversation on the socket: a length and a JSON [`Spec`] come in, [`READY`] goes out when everything
//! is prepared, [`GO`] comes in, and then either the socket closes (the command runs) or a message goes out.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit, setsid, umask,
};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use super::namespace::{Namespace, leave};
use super::{Isolation, Net, Spec, WorkloadError, cgroup, host, mounts, streams};

/// Everything is prepared.
pub(super) const READY: u8 = b'R';
/// Execute the command now.
pub(super) const GO: u8 = b'G';
/// The command could not be executed: one byte of exit code and a message follow.
pub(super) const EXEC_FAILED: u8 = b'E';
/// The preparation failed: a message follows.
pub(super) const SETUP_FAILED: u8 = b'S';
/// A specification larger than this is refused.
const MAX_SPEC: u32 = 16 << 20;

/// Open files that a process of a container may have without asking for more, and at most: what service managers give
/// to containerd, from which containers inherit it.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// The capabilities that OCI runtimes leave to a container by default.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// Prepares the namespaces and becomes the command. Returns only on failure, which the parent has been told then.
///
/// `socket` is the path that [`super::Workload::start`] gave to the hidden subcommand.
pub fn run(socket: &Path) -> Result<Infallible, WorkloadError> {
    let mut parent = UnixStream::connect(socket).map_err(WorkloadError::system("connect to the parent"))?;
    let spec = match receive(&mut parent).and_then(|spec| prepare(&spec).map(|()| spec)) {
        Ok(spec) => spec,
        Err(message) => return Err(refuse(&mut parent, SETUP_FAILED, None, message)),
    };
    let mut answer = [0];
    parent
        .write_all(&[READY])
        .and_then(|()| parent.read_exact(&mut answer))
        .map_err(WorkloadError::system("wait for the parent"))?;
    if answer != [GO] {
        return Err(WorkloadError::Setup("the parent changed its mind".into()));
    }
    let (message, code) = execute(&spec);
    Err(refuse(&mut parent, EXEC_FAILED, Some(code), message))
}

fn receive(parent: &mut UnixStream) -> Result<Spec, String> {
    let read = |parent: &mut UnixStream| -> io::Result<Spec> {
        let mut length = [0; 4];
        parent.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_SPEC {
            return Err(io::Error::other("too long"));
        }
        let mut bytes = vec![0; length as usize];
        parent.read_exact(&mut bytes)?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    };
    read(parent).map_err(|error| format!("read the specification: {error}"))
}

fn refuse(parent: &mut UnixStream, kind: u8, code: Option<u8>, message: String) -> WorkloadError {
    let mut bytes = vec![kind];
    bytes.extend(code);
    bytes.extend_from_slice(message.as_bytes());
    let _ = parent.write_all(&bytes); // a parent that is gone needs no reason
    WorkloadError::Setup(message)
}

fn prepare(spec: &Spec) -> Result<(), String> {
    // A terminal's signals reach the recorder alone, which passes them on: once, and when that is right.
    setsid().map_err(|errno| format!("begin a session: {errno}"))?;
    // First, while its directory is still in sight: everything from here on is the workload's.
    if let Some(dir) = &spec.cgroup {
        cgroup::enter(dir).map_err(|error| format!("enter the cgroup {}: {error}", dir.display()))?;
    }
    match spec.isolation {
        Isolation::Container => contain(spec)?,
        Isolation::Host => {
            let parent = rustix::process::getppid().ok_or("the parent is gone")?;
            host::join(parent.as_raw_nonzero().get().unsigned_abs())
                .map_err(|error| format!("see what the recorder sees: {error}"))?;
            if !spec.process.cwd.is_empty() {
                std::env::set_current_dir(&spec.process.cwd)
                    .map_err(|error| format!("enter {}: {error}", spec.process.cwd))?;
            }
        }
    }
    // After the change of user, which clears it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|errno| format!("tie to the parent: {errno}"))
}

/// Makes the process what an OCI runtime makes of one.
fn contain(spec: &Spec) -> Result<(), String> {
    let mut namespaces = vec![Namespace::Mount, Namespace::Uts, Namespace::Ipc, Namespace::Cgroup];
    if spec.net == Net::None {
        namespaces.push(Namespace::Net);
    }
    leave(&namespaces).map_err(|error| format!("make namespaces: {error}"))?;
    rustix::system::sethostname(spec.hostname.as_bytes())
        .map_err(|errno| format!("set host name: {errno}"))?;
    umask(rustix::fs::Mode::from(0o022));
    mounts::enter(spec).map_err(|error| error.to_string())?;
    fs::create_dir_all(&spec.process.cwd).map_err(|error| format!("make {}: {error}", spec.process.cwd))?;
    limit_open_files().map_err(|errno| format!("limit open files: {errno}"))?;
    streams::give_to(spec.user.uid).map_err(|errno| format!("give away the standard streams: {errno}"))?;
    become_user(spec).map_err(|errno| format!("become user {}: {errno}", spec.user.uid))?;
    std::env::set_current_dir(&spec.process.cwd)
        .map_err(|error| format!("enter {}: {error}", spec.process.cwd))
}

fn limit_open_files() -> rustix::io::Result<()> {
    let (soft, hard) = OPEN_FILES;
    let hard = getrlimit(Resource::Nofile).maximum.map_or(hard, |ours| ours.min(hard));
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft.min(hard)), maximum: Some(hard) })
}

/// Gives up what the workload must not have, for the calling thread only.
pub(super) fn become_user(spec: &Spec) -> rustix::io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if KEPT.contains(capability) {
            continue;
        }
        // Out of the bounding set, and so out of every program executed from here on.
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break, // no capability has this or a higher number
            Err(errno) => return Err(errno),
        }
    }
    let groups: Vec<_> = spec.user.groups.iter().map(|&group| rustix::fs::Gid::from_raw(group)).collect();
    let (uid, gid) = (rustix::fs::Uid::from_raw(spec.user.uid), rustix::fs::Gid::from_raw(spec.user.gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Becomes the command; returns the reason and a shell's exit code when that fails.
fn execute(spec: &Spec) -> (String, u8) {
    let failed = |program: &Path, error: &io::Error| {
        let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        (format!("{}: {}", program.display(), reason(error)), code)
    };
    if spec.isolation == Isolation::Host {
        return match command(spec) {
            Ok(mut command) => {
                let error = command.exec();
                failed(Path::new(command.get_program()), &error)
            }
            Err(failure) => failure,
        };
    }
    let program = match program(spec) {
        Ok(program) => program,
        Err(failure) => return failure,
    };
    // Not by the standard library, which gives what the kernel cannot execute to a shell: no runtime does.
    let text = |text: &str| CString::new(text).map_err(io::Error::from);
    let execute = || -> io::Result<Infallible> {
        let args = spec.process.args.iter().map(|arg| text(arg)).collect::<io::Result<Vec<_>>>()?;
        let env = spec.process.env.iter().map(|entry| text(entry)).collect::<io::Result<Vec<_>>>()?;
        let path = CString::new(program.as_os_str().as_bytes()).map_err(io::Error::from)?;
        Ok(nix::unistd::execve(&path, &args, &env)?)
    };
    match execute() {
        Ok(never) => match never {},
        Err(error) => failed(&program, &error),
    }
}

/// Why a program cannot be executed, in the words that runtimes use for it.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOEXEC) => {
            "exec format error (a script needs a first line such as #!/bin/sh)".into()
        }
        _ => error.to_string(),
    }
}

/// The file of the command, looked up on its own path.
fn program(spec: &Spec) -> Result<PathBuf, (String, u8)> {
    let name = spec.process.args.first().ok_or_else(|| ("no command".to_owned(), 127))?;
    find(name, spec.process.var("PATH").unwrap_or(""))
}

/// The command with its environment, looked up on its own path (of the machine: by the standard library); else the reason and a shell's exit code.
pub(super) fn command(spec: &Spec) -> Result<Command, (String, u8)> {
    let process = &spec.process;
    let (name, args) = process.args.split_first().ok_or_else(|| ("no command".to_owned(), 127))?;
    let env = process.env.iter().filter_map(|entry| entry.split_once('='));
    if spec.isolation == Isolation::Host {
        let mut command = Command::new(name); // which looks on the path itself
        command.args(args).envs(env);
        return Ok(command);
    }
    let mut command = Command::new(program(spec)?);
    command.arg0(name).args(args).env_clear().envs(env);
    Ok(command)
}

/// The file that a name means: itself when it has a slash, else the first executable of that name on the path.
fn find(name: &str, path: &str) -> Result<PathBuf, (String, u8)> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let executable = |file: &PathBuf| {
        fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    path.split(':')
        .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name))
        .find(executable)
        .ok_or_else(|| (format!("{name}: no such program on the path {path}"), 127))
}
