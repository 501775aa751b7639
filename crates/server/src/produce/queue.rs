//! The open batch between the reading and the sending thread.

use super::batch::Batch;
use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// How an input ended.
#[derive(Debug)]
pub(super) enum InputEnd {
    Finished,
    BadLine { number: u64, reason: String },
    Failed(io::Error),
}

/// Holds at most one batch, so that two batches are in memory: the one being sent and the one that grows.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    most_events: usize,
    most_bytes: usize,
}

/// What the two threads share.
#[derive(Debug, Default)]
struct QueueState {
    open: Batch,
    end: Option<InputEnd>,
    abandoned: bool,
}

impl Queue {
    pub(super) fn new(most_events: usize, most_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            most_events,
            most_bytes,
        }
    }

    /// Adds a line, once there is room for it; returns false after [`Queue::abandon`].
    pub(super) fn push(&self, number: u64, text: &[u8], read_bytes: u64) -> bool {
        let mut state = self.lock();
        while !state.abandoned
            && !state
                .open
                .has_room(text.len(), self.most_events, self.most_bytes)
        {
            state = self.wait(state);
        }
        if state.abandoned {
            return false;
        }
        let was_empty = state.open.is_empty();
        state.open.push(number, text, read_bytes);
        drop(state);
        if was_empty {
            self.changed.notify_all();
        }
        true
    }

    /// Marks the end of the input.
    pub(super) fn end(&self, end: InputEnd) {
        self.lock().end = Some(end);
        self.changed.notify_all();
    }

    /// Marks that no more batches will be taken.
    pub(super) fn abandon(&self) {
        self.lock().abandoned = true;
        self.changed.notify_all();
    }

    /// Waits for lines and takes all that were added since the last call; after them, returns how the input ended.
    pub(super) fn take(&self) -> Result<Batch, InputEnd> {
        let mut state = self.lock();
        loop {
            if !state.open.is_empty() {
                let batch = std::mem::take(&mut state.open);
                drop(state);
                self.changed.notify_all();
                return Ok(batch);
            }
            if let Some(end) = state.end.take() {
                return Err(end);
            }
            state = self.wait(state);
        }
    }

    // A thread that panicked with the lock held left a complete batch: `push` cannot fail half-way.
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, QueueState>) -> MutexGuard<'a, QueueState> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, thread};

    #[test]
    fn every_line_comes_out_once_and_in_order_and_the_end_comes_last() {
        let queue = Arc::new(Queue::new(3, 1000));
        let reader = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                for number in 1..=1000 {
                    assert!(queue.push(number, number.to_string().as_bytes(), number));
                }
                queue.end(InputEnd::Finished);
            })
        };
        let mut text = Vec::new();
        while let Ok(batch) = queue.take() {
            assert!(batch.events() <= 3);
            text.extend_from_slice(batch.body());
        }
        reader.join().unwrap();
        let text = String::from_utf8(text).unwrap();
        let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers, (1..=1000).collect::<Vec<u64>>());
    }

    #[test]
    fn a_reader_does_not_wait_for_a_sender_that_has_ended() {
        let queue = Queue::new(1, 1000);
        assert!(queue.push(1, b"a", 1));
        queue.abandon();
        assert!(!queue.push(2, b"b", 2));
    }
}
