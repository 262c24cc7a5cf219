//! A bound on work, since there is no clock here: what is spent is counted in steps, and a hostile file can ask for any
//! number of them.

/// What all stacks of one dump may cost together; a frame of an honest program costs some hundreds.
const MAX_FUEL: u64 = 1 << 30;

/// Work that may still be done.
#[derive(Debug)]
pub(super) struct Fuel(u64);

impl Fuel {
    /// Returns as much as there may be.
    pub(super) fn full() -> Self {
        Self(MAX_FUEL)
    }

    /// Spends some; none if there is not enough.
    pub(super) fn spend(&mut self, cost: u64) -> Option<()> {
        self.0 = self.0.checked_sub(cost)?;
        Some(())
    }

    /// Tells whether nothing more can be done.
    pub(super) fn is_empty(&self) -> bool {
        self.0 < 1 << 16
    }
}
