//! The system call that the current task is in: which one, its arguments, the file it reads. Of x86-64.
//!
//! Holds nothing. Registers keep the arguments from the entry of a call to its exit.

use core::mem::transmute;

use aya_ebpf::helpers::{bpf_probe_read_user, generated::bpf_get_current_task};
use recorder_ebpf::Field;

use crate::kernel;

/// `TS_COMPAT`: the call came by the 32-bit interface, whose numbers mean other calls.
const COMPAT: u32 = 2;
/// What a call's return value is as long as it runs.
const RUNNING: i64 = -38;
/// `S_IFMT` and `S_IFREG`.
const FILE_TYPE: u16 = 0o170_000;
const REGULAR: u16 = 0o100_000;

const READ: u64 = 0;
const OPEN: u64 = 2;
const IOCTL: u64 = 16;
const PREAD64: u64 = 17;
const READV: u64 = 19;
const SENDFILE: u64 = 40;
const CREAT: u64 = 85;
const OPENAT: u64 = 257;
const SPLICE: u64 = 275;
const PREADV: u64 = 295;
const COPY_FILE_RANGE: u64 = 326;
const PREADV2: u64 = 327;
const OPENAT2: u64 = 437;

/// `FICLONE` and `FICLONERANGE`: a file gets the blocks of another one, and nobody reads them.
const CLONE: u64 = 0x4004_9409;
const CLONE_RANGE: u64 = 0x4020_940d;

/// Registers of a call.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    regs: *const u8,
    number: u64,
}

impl Call {
    /// The call that these registers were saved for; they are an argument of a tracepoint.
    #[inline(always)]
    pub(crate) fn of(regs: *const u8) -> Self {
        Self { regs, number: kernel::typed(regs, Field::RegsCall) }
    }

    /// The call that the current task is inside of. What it does on its way back is not in it.
    #[inline(always)]
    pub(crate) fn running() -> Option<Self> {
        let regs = registers();
        let call = Self { regs, number: kernel::member(regs, Field::RegsCall)? };
        let result: i64 = kernel::member(regs, Field::RegsReturn)?;
        (result == RUNNING && !is_compat()).then_some(call)
    }

    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Does it open a file?
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        matches!(self.number, OPEN | OPENAT | OPENAT2 | CREAT)
    }

    /// Does it read bytes of a file?
    #[inline(always)]
    pub(crate) fn reads(&self) -> bool {
        matches!(
            self.number,
            READ | PREAD64 | READV | PREADV | PREADV2 | SENDFILE | SPLICE | COPY_FILE_RANGE
        )
    }

    /// Does it share a file's blocks?
    #[inline(always)]
    pub(crate) fn clones(&self) -> bool {
        self.number == IOCTL
            && matches!(kernel::member(self.regs, Field::RegsSecond), Some(CLONE | CLONE_RANGE))
    }

    /// The open file whose blocks it has shared, the first byte and their number; 0 is all that there are.
    #[inline(always)]
    pub(crate) fn shared(&self) -> Option<(*const u8, u64, u64)> {
        let argument: u64 = kernel::member(self.regs, Field::RegsThird)?;
        if kernel::member(self.regs, Field::RegsSecond) == Some(CLONE) {
            return Some((open_file(argument)?, 0, 0));
        }
        // SAFETY: the helper checks the address. `struct file_clone_range`: descriptor, offset, length, offset.
        let range: [u64; 3] = unsafe { bpf_probe_read_user(argument as *const [u64; 3]) }.ok()?;
        Some((open_file(range[0])?, range[1], range[2]))
    }

    /// The open file that it reads.
    #[inline(always)]
    pub(crate) fn source(&self) -> Option<*const u8> {
        let field = if self.number == SENDFILE { Field::RegsSecond } else { Field::RegsFirst };
        open_file(kernel::member(self.regs, field)?)
    }

    /// The first of the `count` bytes that it has read. `position` is that of its file before the call, if known.
    #[inline(always)]
    pub(crate) fn start(&self, count: u64, position: Option<u64>) -> Option<u64> {
        let pointer: u64 = match self.number {
            PREAD64 => return kernel::member(self.regs, Field::RegsFourth),
            PREADV | PREADV2 => {
                let given: u64 = kernel::member(self.regs, Field::RegsFourth)?;
                if given != u64::MAX {
                    return Some(given);
                }
                0
            }
            SENDFILE => kernel::member(self.regs, Field::RegsThird)?,
            SPLICE | COPY_FILE_RANGE => kernel::member(self.regs, Field::RegsSecond)?,
            _ => 0,
        };
        let behind: u64 = if pointer != 0 {
            // SAFETY: the helper checks the address.
            unsafe { bpf_probe_read_user(pointer as *const u64) }.ok()?
        } else if position.is_some() {
            return position;
        } else {
            kernel::member(self.source()?, Field::FilePosition)?
        };
        behind.checked_sub(count)
    }
}

/// The registers that the current task has saved on its way into the kernel.
#[inline(always)]
fn registers() -> *const u8 {
    /// `bpf_get_current_task_btf` and `bpf_task_pt_regs` of bpf.h. Not those of aya-ebpf: their types would bring the
    /// description of every structure of the kernel into the object.
    const CURRENT_TASK: usize = 158;
    const TASK_REGISTERS: usize = 175;
    // SAFETY: the numbers and signatures are part of the kernel's interface; the task is the current one.
    unsafe {
        let current_task: unsafe extern "C" fn() -> *mut u8 = transmute(CURRENT_TASK);
        let task_registers: unsafe extern "C" fn(*mut u8) -> *const u8 = transmute(TASK_REGISTERS);
        task_registers(current_task())
    }
}

/// The file behind a descriptor of the current task.
#[inline(always)]
pub(crate) fn open_file(descriptor: u64) -> Option<*const u8> {
    let descriptor = descriptor as u32;
    // SAFETY: the helper has no conditions.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let files: *const u8 = kernel::member(task, Field::TaskFiles)?;
    let table: *const u8 = kernel::member(files, Field::FilesTable)?;
    let size: u32 = kernel::member(table, Field::TableSize)?;
    if descriptor >= size {
        return None;
    }
    let entries: *const u8 = kernel::member(table, Field::TableEntries)?;
    let file: *const u8 = kernel::read(entries.wrapping_add(descriptor as usize * size_of::<*const u8>()))?;
    (!file.is_null()).then_some(file)
}

/// The inode of an open file that is no pipe, socket, directory or device.
#[inline(always)]
pub(crate) fn regular(file: *const u8) -> Option<*const u8> {
    let inode: *const u8 = kernel::member(file, Field::FileInode)?;
    let mode: u16 = kernel::member(inode, Field::InodeMode)?;
    (mode & FILE_TYPE == REGULAR).then_some(inode)
}

/// Did the current call come by the 32-bit interface?
#[inline(always)]
pub(crate) fn is_compat() -> bool {
    // SAFETY: the helper has no conditions.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let info = task.wrapping_add(kernel::offset(Field::TaskThreadInfo) as usize);
    let status: u32 = kernel::member(info, Field::ThreadInfoStatus).unwrap_or(COMPAT);
    status & COMPAT != 0
}
