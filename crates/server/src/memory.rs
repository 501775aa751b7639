//! Budgets that bound the total memory of request bodies and of answers.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Unit of memory accounting, so that the count fits a semaphore.
const UNIT_BYTES: usize = 1024;

/// Buffers grow in multiples of this.
const STEP_BYTES: usize = 64 << 10;

/// Answers up to this size are not counted.
pub(crate) const UNCOUNTED_BYTES: usize = 64 << 10;

/// A number of bytes shared by all holders.
#[derive(Debug)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    units: usize,
}

/// A part of a budget, returned when dropped.
#[derive(Debug)]
pub(crate) struct Reserved(OwnedSemaphorePermit);

/// Memory held by an answer; the handler that reserved it attaches it to its response as an extension.
#[derive(Debug, Clone)]
pub(crate) struct HeldMemory {
    _reserved: Arc<Reserved>,
}

impl HeldMemory {
    pub(crate) fn new(reserved: Reserved) -> Self {
        Self {
            _reserved: Arc::new(reserved),
        }
    }
}

impl Budget {
    /// A budget of this many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(units)),
            units,
        }
    }

    /// Reserves a part of it; `None` where too little is free now.
    pub(crate) fn reserve(&self, bytes: usize) -> Option<Reserved> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.free).try_acquire_many_owned(units).ok()?;
        Some(Reserved(permit))
    }

    /// Bytes reserved now.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.units.saturating_sub(self.free.available_permits()) * UNIT_BYTES
    }
}

/// A byte buffer that grows within a budget.
pub(crate) struct Buffer<'a> {
    budget: &'a Budget,
    bytes: Vec<u8>,
    /// Doubling stops at this capacity. It is not a limit: the caller checks the size.
    most_bytes: usize,
    /// This many first bytes are not taken from the budget.
    uncounted_bytes: usize,
    reserved: Option<Reserved>,
}

impl<'a> Buffer<'a> {
    /// An empty buffer that doubles up to `most_bytes`. Its first `uncounted_bytes` are not taken from the budget.
    pub(crate) fn new(budget: &'a Budget, most_bytes: usize, uncounted_bytes: usize) -> Self {
        Self {
            budget,
            bytes: Vec::new(),
            most_bytes,
            uncounted_bytes,
            reserved: None,
        }
    }

    /// Number of bytes it contains.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes, for appending; see [`Buffer::make_room`].
    pub(crate) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Makes room for `more` bytes. The capacity at least doubles if the budget allows, so that bytes are copied only a
    /// few times. Returns false where the budget is exhausted; the buffer is then unchanged.
    pub(crate) fn make_room(&mut self, more: usize) -> bool {
        let needed = self.bytes.len() + more;
        let held = self.bytes.capacity();
        if needed <= held {
            return true;
        }
        let most = self.most_bytes.max(needed);
        let step = |bytes: usize| bytes.next_multiple_of(STEP_BYTES).min(most);
        // Doubling is optional: where the budget has no memory for it, one step may still fit.
        self.grow_to(step(needed.max(held.saturating_mul(2)))) || self.grow_to(step(needed))
    }

    fn grow_to(&mut self, capacity: usize) -> bool {
        let counted = |bytes: usize| bytes.saturating_sub(self.uncounted_bytes);
        let more = counted(capacity) - counted(self.bytes.capacity());
        if more > 0 {
            let Some(reserved) = self.budget.reserve(more) else {
                return false;
            };
            match &mut self.reserved {
                Some(held) => held.0.merge(reserved.0),
                None => self.reserved = Some(reserved),
            }
        }
        self.bytes.reserve_exact(capacity - self.bytes.len());
        true
    }

    /// The bytes, and the part of the budget that they hold.
    pub(crate) fn finish(self) -> (Vec<u8>, Option<Reserved>) {
        (self.bytes, self.reserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_holds_of_its_budget_what_it_may_grow_to() {
        let budget = Budget::new(256 << 10);
        let mut buffer = Buffer::new(&budget, 1 << 20, 0);
        assert!(buffer.make_room(1));
        assert_eq!(budget.reserved_bytes(), 64 << 10);
        buffer.bytes_mut().resize(64 << 10, 7);
        assert!(buffer.make_room(1));
        assert_eq!(budget.reserved_bytes(), 128 << 10);
        buffer.bytes_mut().resize(128 << 10, 7);
        let other = budget.reserve(64 << 10).unwrap();
        assert!(buffer.make_room(1), "a step fits where the double does not");
        buffer.bytes_mut().resize(192 << 10, 7);
        assert!(!buffer.make_room(1), "the budget is spent");
        drop(other);
        assert!(buffer.make_room(1));
        let (bytes, reserved) = buffer.finish();
        assert_eq!(bytes.len(), 192 << 10);
        drop(reserved);
        assert_eq!(budget.reserved_bytes(), 0);
    }

    #[test]
    fn the_first_bytes_of_an_answer_are_not_counted() {
        let budget = Budget::new(64 << 10);
        let mut buffer = Buffer::new(&budget, 1 << 20, 64 << 10);
        assert!(buffer.make_room(64 << 10));
        assert_eq!(budget.reserved_bytes(), 0);
        buffer.bytes_mut().resize(64 << 10, 7);
        assert!(buffer.make_room(1));
        buffer.bytes_mut().resize(128 << 10, 7);
        assert!(!buffer.make_room(1));
    }
}
