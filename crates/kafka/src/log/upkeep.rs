//! Background upkeep of a log: queries where its partitions end, and handles its clients' events.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use workspace_lifecycle::PartitionId;

use super::cluster::{Asked, Cluster, Part, drain};
use super::native::Topic;
use super::reader::READERS;

/// Between two polls of the clients' events.
const LOOK: Duration = Duration::from_millis(100);

/// Between two queries of the topic's id and of the ends of its open partitions.
const REFRESH: Duration = Duration::from_millis(500);

/// Between two queries of where they begin.
const REFRESH_BEGINNINGS: Duration = Duration::from_secs(5);

/// Between two queries of the topic's id, if the brokers do not return one.
const IDENTIFY_AGAIN: Duration = Duration::from_secs(10);

/// How long the brokers may take for one query: closing the log waits for it.
const UPKEEP_TIMEOUT: Duration = Duration::from_secs(1);

/// Handle of the upkeep thread; dropping it ends the thread.
pub(super) struct Upkeep {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    pub(super) fn start(
        cluster: Arc<Cluster>,
        readers: [Arc<Topic>; READERS],
    ) -> std::io::Result<Self> {
        let (stop, stopped) = crossbeam_channel::bounded(0);
        // A separate thread, because queries block.
        let thread = std::thread::Builder::new()
            .name("kafka-log".to_owned())
            .spawn(move || run(&cluster, &readers, &stopped))?;
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

fn run(cluster: &Cluster, readers: &[Arc<Topic>; READERS], stopped: &Receiver<()>) {
    let mut refresh_at = Instant::now();
    let mut beginnings_at = Instant::now();
    let mut identify_at = Instant::now();
    loop {
        for topic in readers {
            drain(topic.client());
        }
        drain(&cluster.client);
        let now = Instant::now();
        if now >= refresh_at {
            let asked = if now >= beginnings_at {
                beginnings_at = now + REFRESH_BEGINNINGS;
                Asked::Both
            } else {
                Asked::End
            };
            refresh(cluster, asked);
            if now >= identify_at && cluster.answers() && !cluster.identify(UPKEEP_TIMEOUT) {
                identify_at = now + IDENTIFY_AGAIN;
            }
            for part in &cluster.parts {
                // A locked partition is being read, so its fetches are in use.
                if let Some(mut place) = part.place.try_lock() {
                    place.rest();
                }
            }
            refresh_at = Instant::now() + REFRESH;
        }
        match stopped.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn refresh(cluster: &Cluster, asked: Asked) {
    let open = |part: &Part| part.is_open();
    let mut partitions: Vec<PartitionId> = (0..)
        .map(PartitionId)
        .zip(&cluster.parts)
        .filter(|(_, part)| open(part))
        .map(|(id, _)| id)
        .collect();
    if partitions.is_empty() {
        // Queried although nothing is read, to learn whether the cluster answers.
        partitions.push(PartitionId(0));
    }
    if let Err(error_text) = cluster.refresh(&partitions, asked, UPKEEP_TIMEOUT) {
        tracing::debug!(error_text, "the brokers do not tell where partitions end");
    }
}
