//! What a client says of its brokers, kept for whoever must tell an operator.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::context;

/// The last trouble of one client, in its own words.
#[derive(Debug, Default)]
pub(crate) struct ClientErrors {
    last: Mutex<Option<String>>,
}

impl ClientErrors {
    /// Keeps what the client says.
    pub(crate) fn note(&self, error: &KafkaError, reason: &str) {
        let mut last = self.last.lock();
        // That all brokers are down says less than what was said of each of them.
        let all_down = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        if last.is_none() || !all_down {
            *last = Some(reason.to_owned());
        }
    }

    /// The brokers answer: what was said is over.
    pub(crate) fn forget(&self) {
        *self.last.lock() = None;
    }

    /// An error together with what the client said before.
    pub(crate) fn explain(&self, error: &KafkaError) -> String {
        let code = error
            .rdkafka_error_code()
            .map_or_else(|| error.to_string(), |code| code.to_string());
        match &*self.last.lock() {
            Some(words) => format!("{words} ({code})"),
            None => code,
        }
    }
}

impl ClientContext for ClientErrors {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the Kafka client says");
        self.note(&error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }
}

impl ConsumerContext for ClientErrors {}
