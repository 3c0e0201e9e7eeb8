//! Where checkpoints of a gzip layer are placed.
//!
//! [`Placement`] owns the position of the last checkpoint. Invariant: the default policy is upstream's rule.

/// Limit: checkpoints before the first plain byte. Upstream places one at each block boundary there, with 32 KiB of window for
/// an empty block of 5 bytes; gzip writers leave one such block at most.
const MAX_AT_START: u32 = 16;

/// Where checkpoints of a gzip layer are placed. A checkpoint can only lie between two deflate blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Checkpointing {
    /// Upstream's rule: at the first block boundary more than `span_size` bytes after the last checkpoint.
    #[default]
    EverySpanSize,
    /// In addition, at the first block boundary at or after each of these uncompressed offsets. A layout adapted
    /// to a trace; upstream reads it like any other.
    Boundaries(Vec<u64>),
}

/// Applies a policy during one build.
#[derive(Debug)]
pub(super) struct Placement {
    span_size: u64,
    policy: Checkpointing,
    /// Index of the first wanted boundary behind the last checkpoint.
    next_wanted: usize,
    last: Option<u64>,
    /// Checkpoints before the first plain byte.
    at_start: u32,
}

impl Placement {
    pub(super) fn new(span_size: u64, policy: &Checkpointing) -> Self {
        let mut policy = policy.clone();
        if let Checkpointing::Boundaries(wanted) = &mut policy {
            wanted.sort_unstable();
        }
        Self { span_size, policy, next_wanted: 0, last: None, at_start: 0 }
    }

    /// After `output` plain bytes: how many more are certain to hold no block boundary at which a checkpoint is due.
    pub(super) fn free(&self, output: u64) -> u64 {
        let Some(last) = self.last else { return 0 };
        let far = last.saturating_add(self.span_size);
        let until = match &self.policy {
            Checkpointing::EverySpanSize if output == 0 => 0,
            Checkpointing::EverySpanSize => far,
            Checkpointing::Boundaries(wanted) => {
                let next = wanted.get(self.next_wanted).copied().unwrap_or(u64::MAX);
                far.min(next.saturating_sub(1))
            }
        };
        until.saturating_sub(output)
    }

    /// Whether a checkpoint is due at a block boundary after `output` plain bytes; if so, it is placed.
    pub(super) fn place(&mut self, output: u64) -> bool {
        let far = output - self.last.unwrap_or(0) > self.span_size;
        let due = match &self.policy {
            // As upstream, every boundary before the first byte counts: an empty first block gives two checkpoints.
            Checkpointing::EverySpanSize => far || (output == 0 && self.at_start < MAX_AT_START),
            Checkpointing::Boundaries(wanted) => {
                let passed = wanted[self.next_wanted..].partition_point(|&offset| offset <= output);
                self.next_wanted += passed;
                self.last.is_none() || far || (passed > 0 && self.last != Some(output))
            }
        };
        if due {
            self.last = Some(output);
            self.at_start += u32::from(output == 0);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_rule_is_strictly_more_than_the_span_size() {
        let mut placement = Placement::new(100, &Checkpointing::EverySpanSize);
        let placed: Vec<u64> =
            [0, 0, 50, 100, 101, 201, 202].into_iter().filter(|&output| placement.place(output)).collect();
        assert_eq!(placed, [0, 0, 101, 202]);
    }

    #[test]
    fn empty_blocks_at_the_start_get_few_checkpoints() {
        let mut placement = Placement::new(100, &Checkpointing::EverySpanSize);
        assert_eq!((0..1000).filter(|_| placement.place(0)).count(), 16);
        assert!(!placement.place(100) && placement.place(101));
    }

    #[test]
    fn nothing_is_due_in_free_bytes() {
        for policy in [Checkpointing::EverySpanSize, Checkpointing::Boundaries(vec![0, 7, 60, 61, 300])] {
            for step in 1..40 {
                let mut placement = Placement::new(100, &policy);
                let (mut output, mut free_until) = (0, None);
                while output < 1000 {
                    let placed = placement.place(output);
                    assert!(
                        !(placed && free_until.is_some_and(|until| output <= until)),
                        "{output} was free"
                    );
                    free_until = Some(output + placement.free(output)).filter(|&until| until > output);
                    output += step;
                }
            }
        }
    }

    #[test]
    fn wanted_boundaries_come_on_top() {
        let mut placement = Placement::new(100, &Checkpointing::Boundaries(vec![75, 20, 0, 21]));
        let placed: Vec<u64> = [0, 0, 10, 30, 40, 75, 90, 176, 270, 277]
            .into_iter()
            .filter(|&output| placement.place(output))
            .collect();
        assert_eq!(placed, [0, 30, 75, 176, 277]);
    }
}
