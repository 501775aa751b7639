//! What the clients tell beside their answers. Connections that break are made again by the clients themselves, and there
//! are dozens of them: an outage would fill the log. Those parts that are held up by it tell it once, in words.

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

/// Takes over what a client logs.
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

/// Of a client whose callers are told all they need by its answers.
pub(crate) struct Plain;

impl ClientContext for Plain {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the Kafka client says");
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }
}

impl ConsumerContext for Plain {}
