//! What the traced processes have open, as far as their calls tell.
//!
//! Owns the processes, their descriptor tables and the open files behind them. What must always hold: descriptors made by
//! `dup` or inherited share one position, as in the kernel; tables are shared by threads and copied by forks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Most descriptors that are remembered of a table: more than any limit lets a process open by default.
const MAX_DESCRIPTORS: usize = 1 << 20;

/// An open file: path and position.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) path: Arc<[u8]>,
    pub(super) position: u64,
}

#[derive(Debug, Clone, Default)]
struct Table {
    /// Descriptor -> (open file, closed by exec).
    descriptors: BTreeMap<u32, (usize, bool)>,
    directory: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(super) struct Process {
    table: usize,
    pub(super) comm: Arc<[u8]>,
    /// A call that has not returned yet: its text and when it began.
    pub(super) unfinished: Option<(Vec<u8>, u64)>,
}

/// All processes.
#[derive(Debug)]
pub(super) struct State {
    processes: HashMap<u32, Process>,
    tables: Vec<Table>,
    opens: Vec<Open>,
    working_dir: Vec<u8>,
    /// Who was the last to begin a fork that has not been seen to return, and whether the child shares descriptors.
    forking: Option<(u32, bool)>,
    /// Processes that strace says are new.
    announced: HashSet<u32>,
    /// Who the last line without a number was about.
    last: u32,
}

/// The number of a process whose lines carry none.
pub(super) const UNNAMED: u32 = 0;

impl State {
    pub(super) fn new(working_dir: &str) -> Self {
        let working_dir = if working_dir.is_empty() { "/" } else { working_dir };
        Self {
            processes: HashMap::new(),
            tables: Vec::new(),
            opens: Vec::new(),
            working_dir: working_dir.as_bytes().to_vec(),
            forking: None,
            announced: HashSet::new(),
            last: UNNAMED,
        }
    }

    /// The process that a line is about. Without `-o`, strace names processes only while there are several: a line
    /// without a number is about the only one there is, and a number that was never met may be the first one's.
    pub(super) fn who(&mut self, pid: Option<u32>, resumes: bool) -> u32 {
        let named = pid.is_some();
        let pid = match pid {
            Some(pid) => pid,
            None if self.processes.len() == 1 => *self.processes.keys().next().unwrap_or(&UNNAMED),
            // A child that was made has no part in this until strace has seen it.
            None if self.processes.contains_key(&self.last) => self.last,
            None => UNNAMED,
        };
        if !named {
            self.last = pid;
        }
        if self.processes.contains_key(&pid) {
            return pid;
        }
        let is_first = self.processes.get(&UNNAMED).is_some_and(|first| {
            if self.announced.is_empty() {
                resumes == first.unfinished.is_some() && (resumes || self.forking.is_none())
            } else {
                !self.announced.contains(&pid)
            }
        });
        if is_first {
            let first = self.processes.remove(&UNNAMED);
            self.processes.extend(first.map(|first| (pid, first)));
            if self.last == UNNAMED {
                self.last = pid;
            }
            if let Some((parent @ UNNAMED, _)) = &mut self.forking {
                *parent = pid;
            }
        } else {
            let shares = self.forking.is_some_and(|(_, shares)| shares);
            self.born(pid, self.forking.map(|(parent, _)| parent), shares);
        }
        pid
    }

    /// Takes note of a new process that has not done anything yet.
    pub(super) fn announce(&mut self, pid: u32) {
        self.announced.insert(pid);
    }

    /// A process begins, with what its parent has.
    pub(super) fn born(&mut self, pid: u32, parent: Option<u32>, shares: bool) {
        if self.processes.contains_key(&pid) {
            return;
        }
        let parent = parent.and_then(|parent| self.processes.get(&parent)).cloned();
        let (table, comm) = match parent {
            Some(parent) if shares => (parent.table, parent.comm),
            Some(parent) => {
                self.tables.push(self.tables[parent.table].clone());
                (self.tables.len() - 1, parent.comm)
            }
            None => {
                let directory = self.working_dir.clone();
                self.tables.push(Table { descriptors: BTreeMap::new(), directory });
                (self.tables.len() - 1, Arc::from(&b""[..]))
            }
        };
        self.processes.insert(pid, Process { table, comm, unfinished: None });
    }

    pub(super) fn exited(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }

    pub(super) fn process(&mut self, pid: u32) -> Option<&mut Process> {
        self.processes.get_mut(&pid)
    }

    pub(super) fn set_forking(&mut self, forking: Option<(u32, bool)>) {
        self.forking = forking;
    }

    fn table(&mut self, pid: u32) -> Option<&mut Table> {
        let table = self.processes.get(&pid)?.table;
        self.tables.get_mut(table)
    }

    pub(super) fn open(&mut self, pid: u32, descriptor: u32, path: Arc<[u8]>, on_exec: bool) {
        self.opens.push(Open { path, position: 0 });
        let open = self.opens.len() - 1;
        if let Some(table) = self.table(pid)
            && table.descriptors.len() < MAX_DESCRIPTORS
        {
            table.descriptors.insert(descriptor, (open, on_exec));
        }
    }

    pub(super) fn file(&mut self, pid: u32, descriptor: u32) -> Option<&mut Open> {
        let (open, _) = *self.table(pid)?.descriptors.get(&descriptor)?;
        self.opens.get_mut(open)
    }

    pub(super) fn dup(&mut self, pid: u32, from: u32, to: u32, on_exec: bool) {
        let Some(table) = self.table(pid) else { return };
        match table.descriptors.get(&from).copied() {
            Some((open, _)) => table.descriptors.insert(to, (open, on_exec)),
            None => table.descriptors.remove(&to),
        };
    }

    pub(super) fn close(&mut self, pid: u32, first: u32, last: u32) {
        if let Some(table) = self.table(pid) {
            if first == last {
                table.descriptors.remove(&first);
            } else {
                table.descriptors.retain(|&descriptor, _| descriptor < first || descriptor > last);
            }
        }
    }

    /// Another program: descriptors that do not live through it are closed.
    pub(super) fn exec(&mut self, pid: u32, comm: Arc<[u8]>) {
        if let Some(table) = self.table(pid) {
            table.descriptors.retain(|_, (_, on_exec)| !*on_exec);
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            process.comm = comm;
        }
    }

    pub(super) fn change_directory(&mut self, pid: u32, path: Vec<u8>) {
        if let Some(table) = self.table(pid) {
            table.directory = path;
        }
    }

    /// The absolute form of a path; `base` is the directory descriptor's path if that is what it is relative to.
    pub(super) fn absolute(&mut self, pid: u32, base: Option<Arc<[u8]>>, path: &[u8]) -> Vec<u8> {
        if path.starts_with(b"/") {
            return path.to_vec();
        }
        let base = match base {
            Some(base) => base.to_vec(),
            None => self.table(pid).map_or_else(Vec::new, |table| table.directory.clone()),
        };
        [&base, &b"/"[..], path].concat()
    }
}
