//! The last error that a client reported about its brokers, kept for messages to the operator.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::context;

/// The last error text of one client.
#[derive(Debug, Default)]
pub(crate) struct ClientErrors {
    last: Mutex<Option<String>>,
}

impl ClientErrors {
    /// Clears the error, because the brokers answer.
    pub(crate) fn forget(&self) {
        *self.last.lock() = None;
    }

    /// The text of an error together with the client's last error.
    pub(crate) fn explain(&self, error: &KafkaError) -> String {
        let code = error
            .rdkafka_error_code()
            .map_or_else(|| error.to_string(), |code| code.to_string());
        match &*self.last.lock() {
            Some(error_text) => format!("{error_text} ({code})"),
            None => code,
        }
    }
}

impl ClientContext for ClientErrors {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the Kafka client reports an error");
        // "All brokers are down" says less than the errors of the single brokers.
        let all_down = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        let mut last = self.last.lock();
        if last.is_none() || !all_down {
            *last = Some(reason.to_owned());
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }
}

impl ConsumerContext for ClientErrors {}
