//! Background upkeep of a log: queries where its partitions end, and handles its clients' events.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use workspace_lifecycle::PartitionId;

use super::fetches::READERS;
use super::native::TopicHandle;
use super::queries::drain;
use super::topic_state::{PartitionState, TopicState};

/// Between two polls of the clients' events.
const POLL_PAUSE: Duration = Duration::from_millis(100);

/// Between two queries of where open partitions begin and end.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);

/// How long the brokers may take for one query: closing the log waits for it.
const UPKEEP_TIMEOUT: Duration = Duration::from_secs(1);

/// Handle of the upkeep thread; dropping it ends the thread.
pub(super) struct Upkeep {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    pub(super) fn start(
        topic: Arc<TopicState>,
        readers: [Arc<TopicHandle>; READERS],
    ) -> std::io::Result<Self> {
        let (stop, stopped) = crossbeam_channel::bounded(0);
        // A separate thread, because queries block.
        let thread = std::thread::Builder::new()
            .name("kafka-log".to_owned())
            .spawn(move || run(&topic, &readers, &stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the event log ended in a panic");
        }
    }
}

fn run(topic: &TopicState, readers: &[Arc<TopicHandle>; READERS], stopped: &Receiver<()>) {
    let mut refresh_at = Instant::now();
    loop {
        for reader in readers {
            drain(reader.client());
        }
        drain(&topic.queries.client);
        if Instant::now() >= refresh_at {
            refresh(topic);
            for part in &topic.partitions {
                // A locked partition is being read, so its fetches are in use.
                if let Some(mut fetches) = part.fetches.try_lock() {
                    fetches.stop_unused();
                }
            }
            refresh_at = Instant::now() + REFRESH_INTERVAL;
        }
        match stopped.recv_timeout(POLL_PAUSE) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn refresh(topic: &TopicState) {
    let mut partitions: Vec<PartitionId> = (0..)
        .map(PartitionId)
        .zip(&topic.partitions)
        .filter(|(_, part)| part.is_open())
        .map(|(id, _)| id)
        .collect();
    if partitions.is_empty() {
        // Queried although nothing is read, to learn whether the brokers answer.
        partitions.push(PartitionId(0));
    }
    if let Err(error_text) = topic.refresh(&partitions, UPKEEP_TIMEOUT) {
        tracing::debug!(error_text, "the brokers do not return where partitions end");
    } else if topic.queries.is_recreated(UPKEEP_TIMEOUT) {
        tracing::error!(topic = topic.name(), "the topic was deleted and recreated");
        topic.partitions.iter().for_each(PartitionState::replaced);
    }
}
