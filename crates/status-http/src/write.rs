//! Hand-written serialisation of a status document, because it is the most frequent answer.
//!
//! [`StatusDocument`] defines the document, for the schema and the tests. Its derived serializer
//! checks every member name for characters to escape and takes about three times as long.
//! Invariant: both write the same bytes (see the tests).

use serde::Serialize;
use workspace_status::{Metadata, Snapshot, Value};

use crate::document::{
    ErrorDocument, LastKnownDocument, ProgressDocument, StatusDocument, StatusesDocument,
    TransitionDocument,
};
use crate::time::{Calendar, Elapsed, Time};

/// Most documents of one status are smaller than this.
const STATUS_BYTES: usize = 2048;

/// The JSON document of a status, as in the answer of the route.
pub fn status_document(snapshot: &Snapshot) -> Vec<u8> {
    status(&StatusDocument::new(snapshot))
}

/// The bytes of one status.
pub(crate) fn status(document: &StatusDocument<'_>) -> Vec<u8> {
    let mut json = Json::with_capacity(STATUS_BYTES);
    json.status(document);
    json.bytes
}

/// The bytes of a page of statuses.
pub(crate) fn statuses(document: &StatusesDocument<'_>) -> Vec<u8> {
    let snapshots = document.workspaces.0;
    let mut json = Json::with_capacity(STATUS_BYTES * (snapshots.len() + 1));
    json.raw(r#"{"workspaces":["#);
    for (number, snapshot) in snapshots.iter().enumerate() {
        if number > 0 {
            json.raw(",");
        }
        json.status(&StatusDocument::new(snapshot));
    }
    json.raw(r#"],"totalCount":"#);
    json.scalar(&document.total_count);
    json.raw(r#","stateCounts":"#);
    json.scalar(&document.state_counts);
    json.raw(r#","nextCursor":"#);
    json.scalar(&document.next_cursor);
    json.raw("}");
    json.bytes
}

struct Json {
    bytes: Vec<u8>,
    calendar: Calendar,
}

impl Json {
    fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            calendar: Calendar::default(),
        }
    }

    #[inline]
    fn raw(&mut self, json: &str) {
        self.bytes.extend_from_slice(json.as_bytes());
    }

    /// Writes a value that is not a text, or is rarely present. Writing to memory cannot fail, nor
    /// can a value that is a number, a text or a flat map of those.
    fn scalar(&mut self, value: &impl Serialize) {
        let _ = serde_json::to_writer(&mut self.bytes, value);
    }

    /// A percentage is mostly a whole number, and formatting a fraction costs as much as formatting
    /// two instants.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "seen to lose nothing, but for the sign of a zero"
    )]
    fn float(&mut self, value: f64) {
        let whole = value as u32;
        if f64::from(whole).to_bits() == value.to_bits() {
            self.scalar(&whole);
            self.raw(".0");
        } else {
            self.scalar(&value);
        }
    }

    fn text(&mut self, text: &str) {
        if needs_escape(text) {
            return self.scalar(&text);
        }
        self.name(text);
    }

    /// Writes a text of this project's own, which needs no escape.
    #[inline]
    fn name(&mut self, name: &str) {
        self.raw("\"");
        self.raw(name);
        self.raw("\"");
    }

    /// Writes the value, or null.
    #[inline]
    fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => write(self, value),
            None => self.raw("null"),
        }
    }

    #[inline]
    fn time(&mut self, time: Time) {
        let quoted = time.quoted(&mut self.calendar);
        self.bytes.extend_from_slice(&quoted);
    }

    fn elapsed(&mut self, elapsed: Elapsed) {
        elapsed.with_text(|text| self.name(text));
    }

    fn flag(&mut self, value: bool) {
        self.raw(if value { "true" } else { "false" });
    }

    fn status(&mut self, document: &StatusDocument<'_>) {
        self.raw(r#"{"workspaceId":"#);
        self.text(document.workspace_id);
        self.raw(r#","state":"#);
        self.name(document.state.as_str());
        self.raw(r#","healthy":"#);
        self.flag(document.healthy);
        self.raw(r#","message":"#);
        self.text(document.message);
        self.raw(r#","stateEntered":"#);
        self.optional(document.state_entered, Self::time);
        self.raw(r#","lastUpdated":"#);
        self.optional(document.last_updated, Self::time);
        self.raw(r#","timeInState":"#);
        self.optional(document.time_in_state, Self::elapsed);
        self.raw(r#","errorMessage":"#);
        self.optional(document.error_message, Self::text);
        self.raw(r#","error":"#);
        self.optional(document.error.as_ref(), Self::error);
        self.raw(r#","progress":"#);
        self.optional(document.progress.as_ref(), Self::progress);
        self.raw(r#","metadata":{"#);
        if let Some(metadata) = document.metadata.0 {
            self.metadata(metadata);
        }
        self.raw(r#"},"recentHistory":["#);
        for (number, transition) in document.recent_history.iter().enumerate() {
            self.transition(&transition, number > 0);
        }
        self.raw(r#"],"epoch":"#);
        self.optional(document.epoch, |json, epoch| json.scalar(&epoch));
        self.raw(r#","owner":"#);
        self.optional(document.owner, Self::text);
        self.raw(r#","observedAt":"#);
        self.time(document.observed_at);
        self.raw(r#","lastProgressAt":"#);
        self.optional(document.last_progress_at, Self::time);
        self.raw(r#","reason":"#);
        self.optional(document.reason, Self::name);
        self.raw(r#","lastKnown":"#);
        self.optional(document.last_known.as_ref(), Self::last_known);
        if let Some(timed_out) = document.timed_out {
            self.raw(r#","timedOut":"#);
            self.flag(timed_out);
        }
        self.raw("}");
    }

    fn last_known(&mut self, known: &LastKnownDocument<'_>) {
        self.raw(r#"{"state":"#);
        self.name(known.state.as_str());
        self.raw(r#","at":"#);
        self.time(known.at);
        self.raw(r#","epoch":"#);
        self.scalar(&known.epoch);
        self.raw(r#","owner":"#);
        self.optional(known.owner, Self::text);
        self.raw("}");
    }

    fn metadata(&mut self, metadata: &Metadata) {
        for (number, (key, value)) in metadata.iter().enumerate() {
            if number > 0 {
                self.raw(",");
            }
            self.text(key);
            self.raw(":");
            match value {
                Value::String(text) => self.text(text.as_str()),
                Value::Unsigned(number) => self.scalar(number),
                Value::Integer(number) => self.scalar(number),
                Value::Float(number) => self.float(*number),
                Value::Bool(truth) => self.flag(*truth),
            }
        }
    }

    fn transition(&mut self, transition: &TransitionDocument<'_>, is_next: bool) {
        self.raw(if is_next {
            r#",{"fromState":""#
        } else {
            r#"{"fromState":""#
        });
        self.raw(transition.from_state.as_str());
        self.raw(r#"","toState":""#);
        self.raw(transition.to_state.as_str());
        self.raw(r#"","timestamp":"#);
        self.time(transition.timestamp);
        self.raw(r#","message":"#);
        self.text(transition.message);
        self.raw("}");
    }

    fn error(&mut self, error: &ErrorDocument) {
        self.scalar(error);
    }

    fn progress(&mut self, progress: &ProgressDocument) {
        self.raw(r#"{"phase":"#);
        self.name(progress.phase.as_str());
        self.raw(r#","done":"#);
        self.scalar(&progress.done);
        self.raw(r#","total":"#);
        self.optional(progress.total, |json, total| json.scalar(&total));
        self.raw(r#","unit":"#);
        self.name(progress.unit);
        self.raw(r#","percent":"#);
        self.optional(progress.percent, Self::float);
        self.raw(r#","ratePerSecond":"#);
        self.optional(progress.rate_per_second, Self::float);
        self.raw(r#","eta":"#);
        self.optional(progress.eta.as_ref(), |json, eta| {
            json.raw(r#"{"low":"#);
            json.time(eta.low);
            json.raw(r#","high":"#);
            json.time(eta.high);
            json.raw(r#","basis":"#);
            json.name(eta.basis);
            json.raw("}");
        });
        self.raw("}");
    }
}

/// Whether a text may hold a control character, a quotation mark or a backslash.
fn needs_escape(text: &str) -> bool {
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    words
        .iter()
        .any(|word| may_need_escape(u64::from_le_bytes(*word)))
        || rest
            .iter()
            .any(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\')
}

/// The same for eight bytes at once, by <https://graphics.stanford.edu/~seander/bithacks.html>
/// (whether a word has a byte less than n, or equal to n). It may be a false positive if a lower
/// byte of the word borrows, but never a false negative.
fn may_need_escape(word: u64) -> bool {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGHS;
    let control = below(word, 0x20);
    let quotation = below(word ^ (ONES * u64::from(b'"')), 1);
    let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
    (control | quotation | backslash) != 0
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use workspace_status::{
        Absence, AbsentStatus, Epoch, LastKnown, ManualClock, PageQuery, State, Tracker, Unit,
    };

    use super::*;
    use crate::document::{Counts, StatusList};

    const TEXTS: [&str; 9] = [
        "",
        "plain",
        "a text of more than eight bytes, ä€𝄞",
        "eight by",
        "\"quoted\"",
        "a\\b and more",
        "line\nline and\ttab",
        "\u{0}\u{1f}\u{7f}",
        "1234567\"",
    ];

    /// A workspace for each text, with as many transitions and everything that a status can have,
    /// and a snapshot of each right after its progress moved.
    fn tracker() -> (Tracker, Vec<Snapshot>) {
        let mut snapshots = Vec::new();
        let clock = ManualClock::new();
        let tracker = Tracker::builder()
            .clock(clock.clone())
            .owner("no\"de")
            .build();
        for (number, text) in TEXTS.into_iter().enumerate() {
            let status = tracker.get_or_create(&format!("t-{number}"));
            for state in State::ALL.into_iter().cycle().skip(2).take(number) {
                clock.advance(Duration::from_millis(123_456));
                status.set_state(state, text);
            }
            status.update_metadata("text", text).unwrap();
            status.update_metadata("negative", -1).unwrap();
            status.update_metadata("large", u64::MAX).unwrap();
            for (key, float) in [
                ("fraction", 0.1),
                ("zero", 0.0),
                ("minus zero", -0.0),
                ("minus one", -1.0),
                ("percent", 100.0),
                ("beyond 32 bits", 4_294_967_296.0),
                ("large float", 1e300),
            ] {
                status.update_metadata(key, float).unwrap();
            }
            status.update_metadata("truth", true).unwrap();
            match number % 4 {
                0 => status.set_retrying(text, 2, Duration::from_secs(1)),
                1 => status.set_parked(text),
                _ => {
                    let total = (number % 4 == 2).then_some(1_000);
                    let progress = status.start_progress(State::Ready, Unit::Bytes, total);
                    for _ in 0..40 {
                        clock.advance(Duration::from_millis(250));
                        progress.add(3);
                        tracker.sample_progress();
                    }
                }
            }
            snapshots.push(status.snapshot());
        }
        (tracker, snapshots)
    }

    #[test]
    fn by_hand_is_written_what_the_type_says() {
        let clock = std::time::SystemTime::UNIX_EPOCH;
        let check = |document: &StatusDocument<'_>| {
            let written = String::from_utf8(status(document)).unwrap();
            assert_eq!(written, serde_json::to_string(document).unwrap());
        };
        let (_, snapshots) = tracker();
        assert!(snapshots.iter().any(|snapshot| {
            let progress = snapshot.progress();
            progress.is_some_and(|report| report.eta().is_some())
        }));
        for snapshot in &snapshots {
            check(&StatusDocument::new(snapshot));
            check(&StatusDocument::new(snapshot).timed_out(false));
        }
        for last_known in [None, Some("node \"1\"")] {
            let absent = absent_snapshot(clock, last_known);
            check(&StatusDocument::new(&absent));
        }
        check(&StatusDocument::unknown("nobody", "not here", clock));
        check(&StatusDocument::unknown("nobody", "not here", clock).timed_out(true));
    }

    #[test]
    fn by_hand_is_written_the_page_that_the_type_says() {
        let (tracker, _) = tracker();
        for limit in [1, 3, 100] {
            let page = tracker.page(&PageQuery {
                limit,
                ..PageQuery::default()
            });
            let counts = tracker.count_by_state();
            let document = StatusesDocument {
                workspaces: StatusList(&page.snapshots),
                total_count: counts.total(),
                state_counts: Counts(counts),
                next_cursor: page.next.map(|id| id.to_string()),
            };
            let written = String::from_utf8(statuses(&document)).unwrap();
            assert_eq!(written, serde_json::to_string(&document).unwrap());
        }
    }

    #[test]
    fn every_byte_that_needs_an_escape_is_seen_wherever_it_stands() {
        for byte in 0..=0x7f_u8 {
            for place in 0..17 {
                let mut text = [b'x'; 17];
                text[place] = byte;
                let text = str::from_utf8(&text).unwrap();
                let is_escaped = serde_json::to_string(text).unwrap().len() != text.len() + 2;
                assert!(needs_escape(text) || !is_escaped, "{byte} at {place}");
            }
        }
    }

    fn absent_snapshot(at: SystemTime, owner: Option<&str>) -> Snapshot {
        Tracker::new().absent_snapshot(&AbsentStatus {
            id: "w".parse().unwrap(),
            reason: Absence::OwnedElsewhere,
            message: "it is elsewhere".into(),
            since: at,
            owner: owner.map(Into::into),
            metadata: vec![("partition", 7.into())],
            last_known: owner.map(|owner| LastKnown {
                state: State::Ready,
                at,
                epoch: Epoch::new(3),
                owner: Some(owner.into()),
            }),
        })
    }
}
