//! Why the eBPF engine cannot be used here. Each says what is missing; the cause is kept.

use std::io;
use std::path::PathBuf;

use aya::maps::MapError;
use aya::programs::ProgramError;
use soci_core::error::causes;

use super::btf::BtfError;

/// Why the eBPF engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// The kernel gives no type information.
    #[error("cannot read {path}: the kernel must be built with CONFIG_DEBUG_INFO_BTF")]
    NoTypes {
        /// Where it would be.
        path: &'static str,
        /// Why it cannot be read.
        #[source]
        source: io::Error,
    },
    /// The kernel's type information cannot be understood.
    #[error("understand {path}: it should be the kernel's type information (BTF)")]
    Types {
        /// Where it is.
        path: &'static str,
        /// What is wrong with it.
        #[source]
        source: BtfError,
    },
    /// The kernel has another idea of its structures.
    #[error("this kernel has no member {member} in struct {structure}")]
    NoMember {
        /// Structure.
        structure: &'static str,
        /// Member.
        member: &'static str,
    },
    /// Calls cannot be watched on this machine.
    #[error("the system calls of this machine are not known: only those of x86-64 are")]
    Architecture,
    /// The kernel is too old, or built without tracepoints.
    #[error(
        "this kernel has no tracepoint {0}: eBPF recording needs Linux 6.12 or later, built with tracepoints"
    )]
    NoTracepoint(&'static str),
    /// The kernel has no such function, or it takes other arguments.
    #[error("this kernel has no function {0} with the arguments that are known")]
    NoFunction(&'static str),
    /// The kernel does not let anybody load such a program.
    #[error("this kernel lets nobody load the program {program}, whatever the capabilities")]
    Forbidden {
        /// Which program.
        program: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The object or one of its maps was refused.
    #[error("cannot load the eBPF object{}", hint(.0))]
    Object(#[source] Box<aya::EbpfError>),
    /// Processes have other numbers here than in the kernel.
    #[error("inside a pid namespace, where the kernel's numbers of processes are hidden")]
    PidNamespace,
    /// The object and this program do not belong together.
    #[error("the eBPF object has no {0}")]
    Incomplete(&'static str),
    /// The kernel does not let us load programs.
    #[error("the kernel refuses to load the program {program}: CAP_BPF and CAP_PERFMON are needed (root)")]
    Denied {
        /// Which program.
        program: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The verifier did not accept a program.
    #[error("the verifier refuses the program {program}; the end of its log:\n{log}")]
    Verifier {
        /// Which program.
        program: &'static str,
        /// The last lines of what it said.
        log: String,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// A program could not be loaded or attached for another reason.
    #[error("{action} the program {program}")]
    Program {
        /// What was being done.
        action: &'static str,
        /// Which program.
        program: &'static str,
        /// Why it failed.
        #[source]
        source: ProgramError,
    },
    /// A map of the object could not be used.
    #[error("use the map {name}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why not.
        #[source]
        source: MapError,
    },
    /// A layer directory could not be read.
    #[error("cannot read {path}")]
    Layer {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Files of this file system cannot be told from what the kernel reports.
    #[error("{path} is on {name}, where a file's device is not that of its page cache")]
    FileSystem {
        /// The directory.
        path: PathBuf,
        /// The file system.
        name: &'static str,
    },
}

/// What to do about a refused object, when that is known.
fn hint(error: &aya::EbpfError) -> &'static str {
    let refused = |cause: &io::Error| cause.kind() == io::ErrorKind::PermissionDenied;
    if causes(error).filter_map(|cause| cause.downcast_ref()).any(refused) {
        ": CAP_BPF and CAP_PERFMON are needed (root)"
    } else {
        ""
    }
}
