//! Runs tasks and blocking work one step at a time, in an order that comes from the seed.
//!
//! A [`Scheduler`] owns the tasks of one run and stands behind the doors of its thread. A step is one poll of a task that is ready, or
//! a piece of blocking work. Where the product says that another thread may do something ([`crate::doors::between`]), others go on
//! inside of the step. What must always hold: the choice depends on which tasks are ready, never on the order in which they became
//! so (tokio's primitives wake in an order of their own).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use soci_core::digest::Digest;
use tokio::time::Instant;

use super::chance::Chance;
use super::world::World;
use crate::doors::staged::{Begins, Holding, Stage};

/// A run has an end before so many steps.
const MAX_STEPS: u64 = 3_000_000;
/// Steps that go on inside of others.
const DEEPEST: usize = 4;

/// The tasks of one run.
pub(super) struct Scheduler {
    world: Arc<World>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    ready: Arc<Ready>,
    next: Cell<u64>,
    steps: Cell<u64>,
    /// The tasks that run now, the innermost last.
    running: RefCell<Vec<u64>>,
    /// Somebody holds the right to write.
    writing: Cell<bool>,
}

struct Task {
    /// `None` while it runs.
    future: Option<BoxFuture<'static, ()>>,
    is_work: bool,
    /// Of two that are ready the higher one runs, in runs that go by that.
    priority: u64,
}

#[derive(Default)]
struct Ready {
    tasks: Mutex<BTreeSet<u64>>,
    main: Mutex<Option<Waker>>,
}

struct Bell {
    task: u64,
    ready: Arc<Ready>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ready.tasks.lock().insert(self.task);
        if let Some(main) = self.ready.main.lock().take() {
            main.wake();
        }
    }
}

impl Scheduler {
    pub(super) fn new(world: Arc<World>) -> Self {
        Self {
            world,
            tasks: RefCell::default(),
            ready: Arc::default(),
            next: Cell::new(0),
            steps: Cell::new(0),
            running: RefCell::default(),
            writing: Cell::new(false),
        }
    }

    /// Runs until all tasks have ended or something is wrong. What only waits for time lets the stopped clock jump.
    pub(super) async fn run(&self) {
        poll_fn(|context| {
            loop {
                *self.ready.main.lock() = None;
                if self.world.is_wrong() || self.tasks.borrow().is_empty() {
                    return Poll::Ready(());
                }
                if self.steps.get() > MAX_STEPS {
                    self.world.wrong("the run does not end".into());
                    continue;
                }
                if self.step() {
                    self.world.after_step();
                    continue;
                }
                self.world.at_rest();
                *self.ready.main.lock() = Some(context.waker().clone());
                return Poll::Pending;
            }
        })
        .await;
    }

    /// Tasks that have not ended.
    pub(super) fn left(&self) -> usize {
        self.tasks.borrow().len()
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Gives all tasks up.
    pub(super) fn clear(&self) {
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
    }

    fn add(&self, future: BoxFuture<'static, ()>, is_work: bool) {
        let (number, priority) = (self.next.get(), self.world.chance(Chance::next));
        self.next.set(number + 1);
        self.tasks.borrow_mut().insert(number, Task { future: Some(future), is_work, priority });
        self.ready.tasks.lock().insert(number);
    }

    /// One step; false when none can be made.
    fn step(&self) -> bool {
        let Some(number) = self.choose() else { return false };
        self.steps.set(self.steps.get() + 1);
        self.ready.tasks.lock().remove(&number);
        let future = self.tasks.borrow_mut().get_mut(&number).and_then(|task| task.future.take());
        let Some(mut future) = future else { return true };
        self.world.log(|| format!("{:indent$}step {number}", "", indent = self.running.borrow().len()));
        self.running.borrow_mut().push(number);
        let before = self.world.runs_now(number);
        let waker = Waker::from(Arc::new(Bell { task: number, ready: Arc::clone(&self.ready) }));
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        self.running.borrow_mut().pop();
        self.world.runs_now(before);
        if done {
            drop(future);
            let task = self.tasks.borrow_mut().remove(&number);
            drop(task);
        } else if let Some(task) = self.tasks.borrow_mut().get_mut(&number) {
            task.future = Some(future);
        }
        true
    }

    fn choose(&self) -> Option<u64> {
        let tasks = self.tasks.borrow();
        let mut ready = self.ready.tasks.lock();
        ready.retain(|number| tasks.contains_key(number));
        let can = |number: &&u64| {
            let task = &tasks[*number];
            task.future.is_some() && !(task.is_work && self.writing.get())
        };
        let able: Vec<u64> = ready.iter().filter(can).copied().collect();
        if able.is_empty() {
            return None;
        }
        self.world.chance(|chance| {
            if self.world.plan.by_priority && !chance.one_in(16) {
                return able.into_iter().max_by_key(|number| tasks[number].priority);
            }
            Some(chance.pick(&able))
        })
    }
}

impl Stage for Scheduler {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.add(task, false);
    }

    fn work(&self, work: Box<dyn FnOnce() + Send>) {
        let delay = self.world.work_takes();
        self.add(
            Box::pin(async move {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                work();
            }),
            true,
        );
    }

    fn between(&self, holding: Holding) {
        let depth = self.running.borrow().len();
        if depth == 0 || depth >= DEEPEST || self.world.is_wrong() {
            return;
        }
        let before = self.writing.get();
        self.writing.set(before || holding == Holding::Writer);
        let steps = self
            .world
            .chance(|chance| if chance.one_in(self.world.plan.between_one_in) { chance.of(1..6) } else { 0 });
        for _ in 0..steps {
            if !self.step() {
                break;
            }
        }
        self.writing.set(before);
    }

    fn pauses(&self, pause: Duration) {
        self.world.pauses(Instant::now() + pause);
    }

    fn fault_of_write(&self, layer: &Digest, length: usize) -> Option<usize> {
        self.world.fault_of_write(layer, length)
    }

    fn begins(&self, request: &Begins<'_>) {
        self.world.begins(request);
    }
}
