//! Open files: raises the limit of the process, and adapts the settings that need many files to it.
//!
//! A database that cannot open a file in the middle of a flush accepts no more writes, so connections must
//! never use up the files that it needs.

use super::connection_permits::RESERVED_CONNECTIONS;
use crate::config::ServeConfig;
use tracing::{info, warn};

/// Files in addition to connections and the database's tables: journals and the tables that a flush or a
/// compaction writes, files of the file store, event loops, standard streams.
const RESERVED_FILES: u64 = 160;

/// Sockets of the Kafka clients to all brokers.
const KAFKA_FILES: u64 = 256;

/// Tables that the database keeps open if the limit allows it.
const DATABASE_FILES_DEFAULT: usize = 900;

/// The database accepts no smaller number.
const MIN_DATABASE_FILES: usize = 16;

/// Keeps a probe and an operator served, however low the limit is.
const MIN_CONNECTIONS: usize = 8;

/// The number of files that each part may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shares {
    connections: usize,
    database_files: usize,
}

/// Raises the limit and adapts the configuration to it. Logs each setting that had to be reduced.
pub(super) fn fit(config: &ServeConfig) -> ServeConfig {
    let limit = raise();
    let shares = shares(
        limit,
        config.http.max_connections,
        config.engine.kafka.is_some(),
    );
    let mut fitted = config.clone();
    fitted.engine.database_files = shares.database_files;
    if shares.connections < config.http.max_connections {
        warn!(
            max_connections = config.http.max_connections,
            connections = shares.connections,
            open_files = limit,
            "the limit of open files is too low for max-connections: fewer are accepted at a time; raise the hard \
             limit (ulimit -Hn, LimitNOFILE)"
        );
        fitted.http.max_connections = shares.connections;
    }
    if shares.database_files < DATABASE_FILES_DEFAULT {
        warn!(
            default = DATABASE_FILES_DEFAULT,
            tables = shares.database_files,
            open_files = limit,
            "the limit of open files is low: the database keeps fewer tables open, and reads are slower"
        );
    }
    fitted
}

/// Divides the limit among the parts; without a limit, each gets what it requests.
fn shares(limit: Option<u64>, connections: usize, kafka: bool) -> Shares {
    let Some(limit) = limit else {
        return Shares {
            connections,
            database_files: DATABASE_FILES_DEFAULT,
        };
    };
    let reserved = RESERVED_FILES + if kafka { KAFKA_FILES } else { 0 };
    let left = usize::try_from(limit.saturating_sub(reserved)).unwrap_or(usize::MAX);
    let left = left.saturating_sub(RESERVED_CONNECTIONS);
    // Connections have priority, but the database gets at least a quarter: more files only make it faster.
    let database_files = left
        .saturating_sub(connections)
        .max(left / 4)
        .clamp(MIN_DATABASE_FILES, DATABASE_FILES_DEFAULT);
    let for_connections = left.saturating_sub(database_files).max(MIN_CONNECTIONS);
    Shares {
        connections: connections.min(for_connections),
        database_files,
    }
}

/// Raises the soft limit of open files to the hard limit, and returns it; `None` where there is no limit.
#[cfg(target_os = "linux")]
fn raise() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    if before.current == before.maximum {
        return before.current;
    }
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => {
            info!(
                from = before.current,
                to = before.maximum,
                "the soft limit of open files is raised to the hard one"
            );
            before.maximum
        }
        Err(error) => {
            warn!(%error, limit = before.current, "the limit of open files cannot be raised");
            before.current
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn raise() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_tables_share_what_the_reserve_leaves() {
        let check = |limit, connections, kafka, expected: (usize, usize)| {
            let found = shares(limit, connections, kafka);
            assert_eq!(
                (found.connections, found.database_files),
                expected,
                "{limit:?}"
            );
        };
        check(None, 1_024, false, (1_024, 900));
        check(Some(1 << 20), 1_024, true, (1_024, 900));
        check(Some(4_096), 1_024, false, (1_024, 900));
        check(Some(1_024), 1_024, false, (600, 200));
        check(Some(1_024), 100, false, (100, 700));
        check(Some(1_024), 1_024, true, (408, 136));
        check(Some(256), 1_024, false, (16, 16));
        check(Some(64), 1_024, false, (8, 16));
        check(Some(0), 1, false, (1, 16));
    }

    #[test]
    fn no_limit_that_has_room_for_the_reserve_is_exceeded() {
        for limit in 200..6_000 {
            for kafka in [false, true] {
                let Shares {
                    connections,
                    database_files,
                } = shares(Some(limit), 1_024, kafka);
                let reserved = 64 + RESERVED_FILES + if kafka { KAFKA_FILES } else { 0 };
                let used = u64::try_from(connections + database_files).unwrap() + reserved;
                assert!(limit < reserved + 24 || used <= limit, "{limit} {kafka}");
            }
        }
    }
}
