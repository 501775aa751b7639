//! What the clients log beside their answers. The clients restore broken connections themselves, and there are dozens
//! of them, so an outage would fill the log. The components that an outage holds up report it once, with a message.

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

/// Forwards a client's log line to `tracing`.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    let is_about_connections = matches!(facility, "FAIL" | "ERROR" | "GETPID");
    match level {
        _ if is_about_connections => tracing::debug!(facility, message, "the Kafka client logs"),
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => tracing::error!(facility, message, "the Kafka client logs"),
        RDKafkaLogLevel::Warning => tracing::warn!(facility, message, "the Kafka client logs"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(facility, message, "the Kafka client logs");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(facility, message, "the Kafka client logs"),
    }
}

/// Context of a client whose answers contain all that its callers need.
pub(crate) struct Plain;

impl ClientContext for Plain {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the Kafka client reports an error");
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }
}

impl ConsumerContext for Plain {}
