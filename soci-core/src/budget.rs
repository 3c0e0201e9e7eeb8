//! Budgets: how much a decoder may take for the input that it was given.
//!
//! [`Budget`] owns what is left of one limit. What must always hold: a decoder spends before it allocates or works, so no
//! input costs more memory than [`Budget::memory`] of its length, and none more steps than a multiple of it. Each limit has
//! a name, which its error shows; docs/threat-model.md lists the names with their reasons.

/// Bytes of memory that a decoder may take for each byte of its input.
pub const MEMORY_RATIO: u64 = 16;

/// Bytes of memory that a decoder may take for however small an input.
pub const MEMORY_FREE: u64 = 64 << 20;

/// An input that needs more than a limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is over the limit `{limit}`, which is {most} here")]
pub struct OverLimit {
    /// Name of the limit.
    pub limit: &'static str,
    /// The most that it allows.
    pub most: u64,
}

/// What is left of one limit.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    limit: &'static str,
    most: u64,
    left: u64,
}

impl Budget {
    /// A budget of `most`, whatever its unit.
    pub const fn new(limit: &'static str, most: u64) -> Self {
        Self { limit, most, left: most }
    }

    /// The memory for an input of `length` bytes.
    pub const fn memory(limit: &'static str, length: u64) -> Self {
        Self::new(limit, length.saturating_mul(MEMORY_RATIO).saturating_add(MEMORY_FREE))
    }

    /// Takes `amount`.
    ///
    /// # Errors
    /// When less is left.
    pub const fn spend(&mut self, amount: u64) -> Result<(), OverLimit> {
        match self.left.checked_sub(amount) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(OverLimit { limit: self.limit, most: self.most }),
        }
    }

    /// Takes `each` for every one of `count`.
    ///
    /// # Errors
    /// When less is left.
    pub const fn spend_each(&mut self, count: usize, each: u64) -> Result<(), OverLimit> {
        self.spend((count as u64).saturating_mul(each))
    }

    /// Lets more be spent: the input was longer than what was known of it.
    pub const fn add(&mut self, amount: u64) {
        self.most = self.most.saturating_add(amount);
        self.left = self.left.saturating_add(amount);
    }

    /// What was taken.
    pub const fn spent(&self) -> u64 {
        self.most - self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_never_less_than_nothing() {
        let mut budget = Budget::new("things", 10);
        budget.spend_each(2, 3).unwrap();
        assert_eq!(budget.spend(5), Err(OverLimit { limit: "things", most: 10 }));
        assert_eq!((budget.spend(4), budget.spent()), (Ok(()), 10));
        assert!(budget.spend_each(usize::MAX, u64::MAX).is_err());
        budget.add(1);
        assert_eq!((budget.spend(1), budget.spend(0)), (Ok(()), Ok(())));
        assert_eq!(
            budget.spend(1).unwrap_err().to_string(),
            "it is over the limit `things`, which is 11 here"
        );
    }
}
