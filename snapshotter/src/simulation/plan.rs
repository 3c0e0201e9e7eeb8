//! What a seed decides before anything happens: how many there are of what, all settings, and when servers are bad.

use std::num::NonZeroU64;
use std::time::Duration;

use soci_core::registry::{RetryPolicy, Timeouts};

use super::chance::Chance;
use super::fixture;
use crate::engine::{BackgroundOptions, EngineOptions};
use crate::span::SpanOptions;

/// From then on all servers and the disk are good.
pub(super) const HEALS: Duration = Duration::from_secs(40);

/// How a server behaves for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Good,
    /// A few bytes a millisecond.
    Slow,
    /// Refuses with this status.
    Refuses(u16),
    /// Never answers.
    Silent,
    /// Bodies break off.
    Cuts,
    /// Bodies stand still.
    StandsStill,
    /// Bodies have a wrong byte.
    Lies,
    /// Gives the whole blob when asked for a part.
    GivesAll,
    /// Any of these, for each request anew.
    Mixed,
}

impl Mood {
    const BAD: [Self; 13] = [
        Self::Slow,
        Self::Refuses(401),
        Self::Refuses(403),
        Self::Refuses(404),
        Self::Refuses(429),
        Self::Refuses(503),
        Self::Silent,
        Self::Cuts,
        Self::StandsStill,
        Self::Lies,
        Self::GivesAll,
        Self::Mixed,
        Self::Mixed,
    ];

    /// What it is for one request.
    pub(super) fn now(self, chance: &mut Chance) -> Self {
        match self {
            Self::Mixed if chance.one_in(2) => Self::Good,
            Self::Mixed => chance.pick(&Self::BAD[..11]),
            other => other,
        }
    }
}

/// A server, and from when on it behaves how.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) moods: Vec<(Duration, Mood)>,
    pub(super) first_byte: Duration,
    /// Bytes a millisecond of one body.
    pub(super) rate: u64,
}

/// One run.
#[derive(Debug)]
pub(super) struct Plan {
    /// Registries. Those that have a mirror have it in `mirrors`.
    pub(super) servers: Vec<Server>,
    pub(super) mirrors: Vec<Option<Server>>,
    /// For each layer its fixture and the registries that have it.
    pub(super) layers: Vec<(usize, Vec<usize>)>,
    pub(super) readers: u64,
    pub(super) packs: u64,
    pub(super) lying_packs: bool,
    pub(super) engine: EngineOptions,
    pub(super) spans: SpanOptions,
    pub(super) retry: RetryPolicy,
    pub(super) timeouts: Timeouts,
    /// Reads never fail, since they wait longer than anything is bad.
    pub(super) patient: bool,
    /// When the disk is full.
    pub(super) full: Vec<(Duration, Duration)>,
    /// Once in so many writes fails; 0: none.
    pub(super) write_fails_one_in: u64,
    /// Work that blocks takes up to so long.
    pub(super) work_takes_ms: u64,
    /// Tasks run by priority, not by chance alone.
    pub(super) by_priority: bool,
    pub(super) between_one_in: u64,
    /// Pauses between what readers, layers and packs do are so many times shorter.
    pub(super) tempo: u32,
    /// How often disk is given back.
    pub(super) gives_back: u64,
    /// Nothing is named by artifacts.
    pub(super) no_artifacts: bool,
    /// Readers are near to each other.
    pub(super) crowded: bool,
    /// What may be kept in memory of what could not be written, bytes.
    pub(super) spare: usize,
}

impl Plan {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let calm = chance.one_in(8);
        let registries = chance.of(1..4) as usize;
        let mut servers: Vec<_> = (0..registries).map(|_| server(chance, calm)).collect();
        let mirrors = (0..registries).map(|_| chance.one_in(4).then(|| server(chance, calm))).collect();
        if !calm && chance.one_in(2) {
            servers[0].moods = vec![(Duration::ZERO, Mood::Mixed), (HEALS, Mood::Good)];
        }
        let mut fixtures: Vec<usize> = (0..fixture::ALL.len()).collect();
        let layers = (0..chance.of(1..4)).map(|_| {
            let at = chance.of(0..fixtures.len() as u64) as usize;
            let mut from = vec![chance.of(0..registries as u64) as usize];
            let other = chance.of(0..registries as u64) as usize;
            if chance.one_in(3) && other != from[0] {
                from.push(other);
            }
            (fixtures.swap_remove(at), from)
        });
        let layers = layers.collect();
        let patient = !chance.one_in(3);
        let times = if calm { 0 } else { chance.of(0..3) };
        let full = |_| {
            let from = chance.ms(0..20_000);
            (from, from + chance.ms(0..8000))
        };
        let full = (0..times).map(full).collect();
        Self {
            servers,
            mirrors,
            layers,
            readers: chance.of(1..10),
            packs: chance.of(0..5),
            lying_packs: chance.one_in(2),
            engine: engine(chance),
            spans: spans(chance, patient),
            retry: RetryPolicy {
                max_retries: chance.of(0..4) as u32,
                min_wait: Duration::from_millis(30),
                max_wait: Duration::from_secs(2),
            },
            timeouts: Timeouts { stall: Duration::from_secs(3), ..Timeouts::default() },
            patient,
            full,
            write_fails_one_in: if calm { 0 } else { chance.pick(&[0, 0, 20, 200]) },
            work_takes_ms: chance.pick(&[0, 1, 20, 300]),
            by_priority: chance.one_in(2),
            between_one_in: chance.pick(&[1, 2, 5, 20]),
            tempo: chance.pick(&[1, 5, 40]),
            gives_back: chance.pick(&[0, 20, 100]),
            no_artifacts: chance.one_in(3),
            crowded: chance.one_in(2),
            spare: chance.pick(&[200 << 10, 64 << 20]),
        }
    }
}

fn server(chance: &mut Chance, calm: bool) -> Server {
    let mut moods = vec![(Duration::ZERO, Mood::Good)];
    if !calm {
        for _ in 0..chance.of(0..4) {
            let from = chance.ms(0..HEALS.as_millis() as u64);
            moods.push((from, chance.pick(&Mood::BAD)));
            moods.push((from + chance.ms(1..10_000), Mood::Good));
        }
    }
    moods.sort_by_key(|(from, _)| *from);
    moods.retain(|(from, mood)| *from < HEALS || *mood == Mood::Good);
    moods.push((HEALS, Mood::Good));
    Server { moods, first_byte: chance.ms(0..120), rate: chance.pick(&[5, 20, 100, 2000]) }
}

fn engine(chance: &mut Chance) -> EngineOptions {
    let background = BackgroundOptions { silence: chance.ms(0..1000), period: chance.ms(1..200) };
    EngineOptions {
        demand_requests: chance.of(1..5) as usize,
        prefetch_requests: chance.of(1..5) as usize,
        prefetch_layers: chance.of(0..3) as usize,
        join_bytes: chance.of(1..200_000),
        buffer_bytes: chance.of(20_000..300_000),
        inflate_threads: chance.of(1..4) as usize,
        max_bandwidth: if chance.one_in(4) { NonZeroU64::new(chance.of(40_000..3_000_000)) } else { None },
        background: chance.one_in(2).then_some(background),
    }
}

fn spans(chance: &mut Chance, patient: bool) -> SpanOptions {
    let (read_timeout, retry_for) = if patient {
        (Duration::from_mins(5), Duration::from_secs(270))
    } else {
        (chance.ms(1000..20_000), chance.ms(0..15_000))
    };
    SpanOptions {
        read_timeout,
        retry_for,
        verification_retries: chance.of(0..3) as u32,
        read_ahead: chance.pick(&[0, 30_000, 4 << 20]),
        pack_patience: chance.ms(0..1500),
    }
}
