//! A naive implementation: a lock over a map, a lock over each status, deep copies,
//! counts by counting. Only the benches use it, for comparison.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime};

use workspace_status::State;

#[derive(Clone)]
pub(crate) struct NaiveTransition {
    pub(crate) from: State,
    pub(crate) to: State,
    pub(crate) timestamp: SystemTime,
    pub(crate) message: String,
}

#[derive(Clone)]
pub(crate) enum NaiveValue {
    Text(String),
    Number(u64),
}

#[derive(Clone)]
pub(crate) struct NaiveSnapshot {
    pub(crate) id: String,
    pub(crate) state: State,
    pub(crate) message: String,
    pub(crate) error: Option<String>,
    pub(crate) entered: SystemTime,
    pub(crate) entered_monotonic: Instant,
    pub(crate) updated: SystemTime,
    pub(crate) metadata: HashMap<String, NaiveValue>,
    pub(crate) history: Vec<NaiveTransition>,
    pub(crate) done: u64,
}

pub(crate) struct NaiveStatus(RwLock<NaiveSnapshot>);

#[derive(Default)]
pub(crate) struct NaiveTracker(RwLock<HashMap<String, Arc<NaiveStatus>>>);

impl NaiveStatus {
    pub(crate) fn set_state(&self, state: State, message: &str) {
        let mut status = self.0.write().unwrap();
        let now = SystemTime::now();
        if status.state != state {
            let transition = NaiveTransition {
                from: status.state,
                to: state,
                timestamp: now,
                message: message.to_owned(),
            };
            if status.history.len() == 20 {
                status.history.remove(0);
            }
            status.history.push(transition);
            status.state = state;
            status.entered = now;
            status.entered_monotonic = Instant::now();
        }
        status.error = (state == State::Error).then(|| message.to_owned());
        status.message = String::from(message);
        status.updated = now;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.0.read().unwrap().state == State::Ready
    }

    pub(crate) fn tick(&self) {
        self.0.write().unwrap().done += 1;
    }

    pub(crate) fn update_metadata(&self, key: &str, value: &str) {
        let mut status = self.0.write().unwrap();
        let value = NaiveValue::Text(value.to_owned());
        status.metadata.insert(key.to_owned(), value);
        status.updated = SystemTime::now();
    }

    pub(crate) fn update_metadata_number(&self, key: &str, number: u64) {
        let mut status = self.0.write().unwrap();
        status.set_number(key, number);
        status.updated = SystemTime::now();
    }

    /// A lock and a map alone.
    pub(crate) fn set_metadata_number(&self, key: &str, number: u64) {
        self.0.write().unwrap().set_number(key, number);
    }

    pub(crate) fn snapshot(&self) -> NaiveSnapshot {
        self.0.read().unwrap().clone()
    }

    pub(crate) fn time_in_current_state(&self) -> Duration {
        self.0.read().unwrap().entered_monotonic.elapsed()
    }
}

impl NaiveSnapshot {
    fn set_number(&mut self, key: &str, number: u64) {
        let value = NaiveValue::Number(number);
        if let Some(held) = self.metadata.get_mut(key) {
            *held = value;
        } else {
            self.metadata.insert(key.to_owned(), value);
        }
    }
}

impl NaiveTracker {
    pub(crate) fn get_or_create(&self, id: &str) -> Arc<NaiveStatus> {
        let mut map = self.0.write().unwrap();
        let new = || {
            Arc::new(NaiveStatus(RwLock::new(NaiveSnapshot {
                id: id.to_owned(),
                state: State::Initializing,
                message: String::new(),
                error: None,
                entered: SystemTime::now(),
                entered_monotonic: Instant::now(),
                updated: SystemTime::now(),
                metadata: HashMap::new(),
                history: Vec::new(),
                done: 0,
            })))
        };
        Arc::clone(map.entry(id.to_owned()).or_insert_with(new))
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<NaiveStatus>> {
        self.0.read().unwrap().get(id).cloned()
    }

    pub(crate) fn list_all(&self) -> Vec<NaiveSnapshot> {
        let map = self.0.read().unwrap();
        map.values().map(|status| status.snapshot()).collect()
    }

    pub(crate) fn count_by_state(&self) -> [usize; 10] {
        let mut counts = [0; 10];
        for status in self.0.read().unwrap().values() {
            counts[status.0.read().unwrap().state.index()] += 1;
        }
        counts
    }
}
