//! Load permits: which workspaces may load now, and which wait.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use workspace_lifecycle::{Admission, AdmissionLimits, Input, Slot, Urgency};
use workspace_status::WorkspaceId;

use crate::assignment::Assignment;
use crate::memory::Memory;
use crate::message::Message;

/// A request for a load permit, by a workspace of one assignment.
pub(crate) struct Permit {
    pub(crate) assignment: Arc<Assignment>,
    pub(crate) slot: Slot,
    pub(crate) id: WorkspaceId,
}

impl PartialEq for Permit {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.assignment, &other.assignment) && self.slot == other.slot
    }
}

impl Eq for Permit {}

impl Hash for Permit {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.assignment).hash(state);
        self.slot.hash(state);
    }
}

impl Clone for Permit {
    fn clone(&self) -> Self {
        Self {
            assignment: Arc::clone(&self.assignment),
            id: self.id.clone(),
            slot: self.slot,
        }
    }
}

/// The permits of all partitions.
pub(crate) struct Permits {
    admission: Mutex<Admission<Permit>>,
    memory: Arc<Memory>,
}

impl Permits {
    pub(crate) fn new(limits: AdmissionLimits, memory: Arc<Memory>) -> Self {
        Self {
            admission: Mutex::new(Admission::new(limits)),
            memory,
        }
    }

    /// Requests a permit, or makes a pending request urgent. The assignment gets `PermitGranted`.
    pub(crate) fn request(&self, permit: Permit, urgency: Urgency) {
        self.admission.lock().request(permit, urgency);
        self.grant();
    }

    pub(crate) fn cancel(&self, permit: &Permit) {
        self.admission.lock().cancel(permit);
    }

    pub(crate) fn release(&self) {
        self.admission.lock().release();
        self.grant();
    }

    /// Grants the free permits; while memory is short, not to ordinary loads.
    pub(crate) fn grant(&self) {
        loop {
            let least = if self.memory.excess() == 0 {
                Urgency::Ordinary
            } else {
                Urgency::Due
            };
            if !self.grant_one(least) {
                return;
            }
        }
    }

    /// Grants at most one permit, to a load that is as urgent as `least`; false where none is granted.
    pub(crate) fn grant_one(&self, least: Urgency) -> bool {
        let granted = self.admission.lock().grant(least);
        let Some(Permit {
            assignment, slot, ..
        }) = granted
        else {
            return false;
        };
        let sent = assignment.send(Message::Input(Input::PermitGranted { slot }));
        if sent.is_err() {
            self.admission.lock().release();
        }
        true
    }

    /// Permits in use, and how many workspaces wait for one.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let admission = self.admission.lock();
        (admission.held(), admission.queued())
    }

    /// The first workspaces that wait for a permit, in the order of service.
    pub(crate) fn queue(&self, limit: usize) -> Vec<WorkspaceId> {
        let admission = self.admission.lock();
        let waiting = admission.waiting().take(limit);
        waiting.map(|permit| permit.id.clone()).collect()
    }

    /// How many workspaces wait before this one; `None` if it does not wait.
    pub(crate) fn position(&self, id: &WorkspaceId) -> Option<usize> {
        let admission = self.admission.lock();
        admission.waiting().position(|permit| permit.id == *id)
    }
}
