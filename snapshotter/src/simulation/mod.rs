//! Spans and their engine in a simulation: a seed decides what servers, disks, readers and packs do, and in which order tasks run.
//!
//! Only in tests. Real are the spans, the cache and its files, the engine, and the registry client down to one HTTP exchange; tokio's
//! clock stands still and jumps when nothing else can go on. The same seed is the same run. What must always hold is in [`world`],
//! [`requests`], [`lies`] and [`node`]; docs/design/0010 says why it is made so.

mod actors;
mod chance;
mod fixture;
mod lies;
mod network;
mod node;
mod plan;
mod requests;
mod scheduler;
mod tests;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::doors::{self, staged};
use crate::telemetry::stats::Stats;
use node::Node;
use scheduler::Scheduler;
use staged::{Planted, Stage};
use world::World;

/// Time of the simulation in which a run must have ended.
const LONGEST: Duration = Duration::from_hours(6);

/// What has come of a seed.
#[derive(Debug)]
struct Outcome {
    seed: u64,
    /// All that happened, as a number.
    story: u64,
    steps: u64,
    /// Time that has passed in the simulation.
    took: Duration,
    reached: Reached,
    /// What was wrong, with the last lines of the log.
    wrong: Option<(String, Vec<String>)>,
}

/// How often what is seldom has happened.
type Reached = [(&'static str, u64); 12];

fn reached(stats: &Stats) -> Reached {
    [
        ("spans for readers", stats.demand_spans.get()),
        ("spans for prefetch", stats.prefetch_spans.get()),
        ("spans for the background", stats.background_spans.get()),
        ("reads that asked again", stats.reads_retried.get()),
        ("fetches that failed", stats.span_failures.get()),
        ("spans that could not be written", stats.spans_not_written.get()),
        ("wrong bytes from servers", stats.span_digest_mismatches.get()),
        ("first uses of what prefetch has brought", stats.prefetch_hits.get()),
        ("reads of what packs have brought", stats.pack_hits.get()),
        ("packs that were found out", stats.pack_mismatches.get()),
        ("bytes given back", stats.cache_given_back_bytes.get()),
        ("requests", stats.fetch_requests.get()),
    ]
}

/// Runs a seed, with a bug in the product if one is planted.
fn run(seed: u64, planted: Option<Planted>) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    // Not sent over threads: the doors are the thread's.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(tokio::task::unconstrained(async move { stage(seed, planted).await }))
    }));
    outcome.unwrap_or_else(|panic| {
        // Its tasks cannot be dropped without their runtime.
        std::mem::forget(staged::set(None, None));
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&said| said.to_owned()));
        let wrong = Some((format!("panic: {}", said.unwrap_or_default()), Vec::new()));
        Outcome { seed, story: 0, steps: 0, took: Duration::ZERO, reached: reached(&Stats::default()), wrong }
    })
}

async fn stage(seed: u64, planted: Option<Planted>) -> Outcome {
    let world = World::new(seed);
    let scheduler = Rc::new(Scheduler::new(Arc::clone(&world)));
    let _ = staged::set(Some(Rc::clone(&scheduler) as Rc<dyn Stage>), planted);
    let node = Node::new(&world);
    world.log(|| format!("{:?}", world.plan));
    let stats = Arc::clone(&node.stats);
    scheduler.spawn(Box::pin(everything(node)));
    if timeout(LONGEST, scheduler.run()).await.is_err() {
        world.wrong(format!("{} tasks do not end", scheduler.left()));
    }
    drop(staged::set(None, None));
    let (steps, took) = (scheduler.steps(), world.elapsed());
    scheduler.clear();
    let (story, lines) = world.story();
    let wrong = world.what_is_wrong().map(|wrong| (wrong, lines));
    Outcome { seed, story, steps, took, reached: reached(&stats), wrong }
}

/// All that happens on a node.
async fn everything(node: Arc<Node>) {
    let plan = &node.world.plan;
    let mut acts = Vec::new();
    for place in 0..plan.layers.len() {
        acts.push(act(&node, Node::layer_lives(Arc::clone(&node), place)));
    }
    for number in 0..plan.readers {
        acts.push(act(&node, Node::reader(Arc::clone(&node), number)));
    }
    for _ in 0..plan.packs {
        acts.push(act(&node, Node::pack(Arc::clone(&node))));
    }
    acts.push(act(&node, Node::holds(Arc::clone(&node))));
    acts.push(act(&node, Node::gives_back(Arc::clone(&node))));
    for act in acts {
        let _ = act.await;
    }
    node.end().await;
}

fn act(node: &Node, act: impl Future<Output = ()> + Send + 'static) -> oneshot::Receiver<()> {
    let (told, over) = oneshot::channel();
    doors::spawn(node.engine.runtime(), async move {
        act.await;
        let _ = told.send(());
    });
    over
}
