//! What may be done after an error of a transaction.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The same call may be repeated.
pub(super) fn is_retriable(error: &KafkaError) -> bool {
    if let KafkaError::Transaction(error) = error {
        return error.is_retriable();
    }
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut)
}

/// The transaction must be aborted; the producer can be used again.
pub(super) fn requires_abort(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.txn_requires_abort())
}

/// The producer cannot be used any more.
pub(super) fn is_fatal(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_fatal())
}
