//! The settings of `serve`: one table from which flags, variables, file keys and the example are generated.

/// One setting.
#[derive(Debug)]
pub(crate) struct Key {
    /// Name in the file; `--name` is its flag, `WORKSPACE_ENGINE_NAME` its variable.
    pub(crate) name: &'static str,
    /// Form of its value, for the help.
    pub(crate) value_name: &'static str,
    /// Its default value.
    pub(crate) default: &'static str,
    /// What it does, in one or two sentences.
    pub(crate) help: &'static str,
}

impl Key {
    /// Name of its environment variable.
    pub(crate) fn variable(&self) -> String {
        let mut name = String::from(VARIABLE_PREFIX);
        name.extend(self.name.chars().map(|character| match character {
            '-' => '_',
            other => other.to_ascii_uppercase(),
        }));
        name
    }

    /// Whether its flag without a value means `true`.
    pub(crate) fn is_switch(&self) -> bool {
        self.value_name == SWITCH
    }

    /// The setting of this name.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The name of the setting that is most similar to `name`, if any is similar.
    pub(crate) fn nearest(name: &str) -> Option<&'static str> {
        let asked = name.to_ascii_lowercase().replace('_', "-");
        KEYS.iter()
            .map(|key| (strsim::jaro_winkler(key.name, &asked), key.name))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|(one, _), (other, _)| one.total_cmp(other))
            .map(|(_, name)| name)
    }
}

/// Prefix of the variables.
pub(crate) const VARIABLE_PREFIX: &str = "WORKSPACE_ENGINE_";

/// Value that switches a setting off.
pub(crate) const OFF: &str = "off";

/// Value of a setting that is determined at startup.
pub(crate) const AUTO: &str = "auto";

/// Form of the value of a boolean setting; its flag may omit the value.
const SWITCH: &str = "true|false";

/// Every setting, in the order of help and example.
pub(crate) static KEYS: [Key; 46] = [
    Key {
        name: "listen",
        value_name: "ADDR:PORT",
        default: "127.0.0.1:8081",
        help: "Address of the HTTP server; port 0 takes a free one and prints it",
    },
    Key {
        name: "tokens",
        value_name: "FILE",
        default: OFF,
        help: "TOML file of the callers with their roles, a line each as `workspace-engine token` prints it; a change is taken over within two seconds",
    },
    Key {
        name: "anonymous",
        value_name: "none|viewer|reader|producer|operator|admin",
        default: AUTO,
        help: "Role of a caller without a token or a client certificate; auto is admin on a loopback address and none elsewhere",
    },
    Key {
        name: "allowed-host",
        value_name: "HOST,...",
        default: OFF,
        help: "Names of the engine that requests may have in Host and Origin besides its addresses and localhost, such as that of a proxy. Without a port, Host may have any and Origin that of Host or of its scheme. On a loopback address all other hosts are refused; elsewhere where this is set, or where --anonymous gives callers without a token a role",
    },
    Key {
        name: "tls-cert",
        value_name: "FILE",
        default: OFF,
        help: "PEM file of the server's certificate with its chain: the engine serves https alone; a change is taken over within two seconds",
    },
    Key {
        name: "tls-key",
        value_name: "FILE",
        default: OFF,
        help: "PEM file of the private key of --tls-cert",
    },
    Key {
        name: "tls-client-ca",
        value_name: "FILE",
        default: OFF,
        help: "PEM file of the authorities that sign client certificates; the common name is the caller's name, its role is that of the name in --tokens, or the organizational unit `workspace-engine:ROLE`",
    },
    Key {
        name: "data-dir",
        value_name: "DIR",
        default: "workspace-engine-data",
        help: "Directory of the event log and the store; made where it is missing. One engine at a time may use it",
    },
    Key {
        name: "store",
        value_name: "lsm|file|memory",
        default: "lsm",
        help: "Where workspaces are kept: an embedded database, readable JSON lines, or nowhere but the log; with --kafka a changelog topic, of which the database is a copy",
    },
    Key {
        name: "partitions",
        value_name: "N",
        default: "12",
        help: "Partitions of the embedded event log, 1 to 256; fixed when the data directory is made",
    },
    Key {
        name: "kafka",
        value_name: "BROKERS",
        default: OFF,
        help: "Brokers (HOST:PORT,...) of the Kafka cluster whose topic is the event log, shared with the other engines of the group; off keeps the log in the data directory",
    },
    Key {
        name: "topic",
        value_name: "TOPIC",
        default: "workspace-events",
        help: "Kafka topic of the events; their key is the workspace id",
    },
    Key {
        name: "partitioner",
        value_name: "murmur2_random|consistent_random|fnv1a_random",
        default: "murmur2_random",
        help: "How the producers of the Kafka topic choose the partition of a key: murmur2_random (Java, kafkajs, franz-go), consistent_random (librdkafka, and so Python, Go, Node, .NET and Ruby by default) or fnv1a_random (Sarama); the same for all engines of a group, which keeps it",
    },
    Key {
        name: "group",
        value_name: "GROUP",
        default: "workspace-engine",
        help: "Consumer group of the engines that share the topic",
    },
    Key {
        name: "group-protocol",
        value_name: "classic|consumer",
        default: "classic",
        help: "How the group shares its partitions: cooperative-sticky among its members, or by the broker (KIP-848, Kafka 4)",
    },
    Key {
        name: "group-instance-id",
        value_name: "NAME",
        default: OFF,
        help: "Name that stays when this engine restarts (static membership): it gets its partitions back without a rebalance, and others take them over only after the session timeout",
    },
    Key {
        name: "session-timeout",
        value_name: "DURATION",
        default: "10s",
        help: "An engine that the group has not heard of for this long has lost its partitions (classic protocol; else the brokers say). With both, an engine whose coordinator does not answer for this long gives its partitions up",
    },
    Key {
        name: "create-topic",
        value_name: "N",
        default: OFF,
        help: "Creates the topic with this many partitions where it does not exist",
    },
    Key {
        name: "topic-replication",
        value_name: "N",
        default: AUTO,
        help: "Replicas of the topics that the engine creates; auto is the cluster's default",
    },
    Key {
        name: "accept-loss",
        value_name: SWITCH,
        default: "false",
        help: "Serves a partition of the cluster although its changelog, or who committed the offset of the group, is missing, and begins with what is there; without it such a partition is refused and says what is missing",
    },
    Key {
        name: "kafka-config",
        value_name: "FILE",
        default: OFF,
        help: "File of properties of librdkafka, name=value a line, such as those of TLS and SASL; its values are never logged",
    },
    Key {
        name: "owner",
        value_name: "NAME",
        default: AUTO,
        help: "Name under which this engine owns its workspaces; auto is the host's name and the process id",
    },
    Key {
        name: "permits",
        value_name: "N",
        default: "8",
        help: "Workspaces that load at the same time",
    },
    Key {
        name: "urgent-queue",
        value_name: "N",
        default: "64",
        help: "Workspaces that may wait before all others because somebody asks for them; further ones wait with the others",
    },
    Key {
        name: "load-timeout",
        value_name: "DURATION",
        default: "5m",
        help: "A load that makes no progress for this long is abandoned and retried; the next load takes its place",
    },
    Key {
        name: "command-timeout",
        value_name: "DURATION",
        default: "30s",
        help: "How long a request waits for an operator's command (unload, skip, reset, delete) before it is answered with 504; the command goes on",
    },
    Key {
        name: "save-every-events",
        value_name: "N",
        default: "10000",
        help: "A partition that does not replay is saved after this many events at the latest",
    },
    Key {
        name: "save-interval",
        value_name: "DURATION",
        default: "1s",
        help: "A changed workspace of a partition that does not replay is saved after this time at the latest",
    },
    Key {
        name: "replay-save-interval",
        value_name: "DURATION",
        default: "30s",
        help: "The same while it replays; of an entity that is set many times meanwhile only the last value is written",
    },
    Key {
        name: "retention-bytes",
        value_name: "SIZE",
        default: OFF,
        help: "The log of a partition forgets its oldest events above this size, but never one that the store does not hold; off keeps all",
    },
    Key {
        name: "retention-age",
        value_name: "DURATION",
        default: OFF,
        help: "The log forgets events older than this, but never one that the store does not hold; off keeps all",
    },
    Key {
        name: "populate-dir",
        value_name: "DIR",
        default: OFF,
        help: "Directory of WORKSPACE.ndjson files with the first entities of workspaces that the store does not know",
    },
    Key {
        name: "cold-read-timeout",
        value_name: "DURATION",
        default: "5s",
        help: "How long a read of a workspace that is not in memory waits for its load before it is answered with 503",
    },
    Key {
        name: "max-body",
        value_name: "SIZE",
        default: "16MiB",
        help: "Largest body of a request",
    },
    Key {
        name: "max-connections",
        value_name: "N",
        default: "1024",
        help: "Connections at the same time. A request with the right to what it asks takes the place of one that was idle for a second, or whose client has no right; 64 more are accepted for probes, and any other request there is answered with 503 and Retry-After. Fewer where the limit of open files (ulimit -n) leaves no room for them",
    },
    Key {
        name: "header-timeout",
        value_name: "DURATION",
        default: "10s",
        help: "A connection that has not sent the head of a request after this time is closed; also one that stays idle for longer",
    },
    Key {
        name: "body-timeout",
        value_name: "DURATION",
        default: "60s",
        help: "A request whose body is not there as a whole after this time is refused with 408",
    },
    Key {
        name: "write-timeout",
        value_name: "DURATION",
        default: "30s",
        help: "A connection that takes nothing of its answer for this time is closed",
    },
    Key {
        name: "event-memory",
        value_name: "SIZE",
        default: "256MiB",
        help: "Memory for the bodies of event requests under way, taken as they come; when it is full, a body that still comes is answered with 503 and Retry-After",
    },
    Key {
        name: "answer-memory",
        value_name: "SIZE",
        default: "256MiB",
        help: "Memory for answers under way of more than 64KiB, until the client has taken them; when it is full, a page of entities is shorter and other large answers are 503 with Retry-After",
    },
    Key {
        name: "shutdown-timeout",
        value_name: "DURATION",
        default: "30s",
        help: "Time for a stop to finish requests, save and unload; after it the engine ends all the same",
    },
    Key {
        name: "http-threads",
        value_name: "N",
        default: AUTO,
        help: "Threads that answer requests; auto is one a core, at least two",
    },
    Key {
        name: "engine-nice",
        value_name: "0..19",
        default: "5",
        help: "How far threads that load, replay and save stand behind those that answer requests (Linux; see nice(1))",
    },
    Key {
        name: "log-format",
        value_name: "human|json",
        default: "human",
        help: "Form of the log on standard error",
    },
    Key {
        name: "log-level",
        value_name: "LEVEL",
        default: "info",
        help: "error, warn, info, debug or trace, also by part: info,workspace_engine_core=debug",
    },
    Key {
        name: "log-colour",
        value_name: "auto|always|never",
        default: AUTO,
        help: "Colours in the human log; auto is on a terminal without NO_COLOR",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_setting_is_found_where_one_is_near() {
        for (name, expected) in [
            ("listn", Some("listen")),
            ("data_dir", Some("data-dir")),
            ("datadir", Some("data-dir")),
            ("Permits", Some("permits")),
            ("save_intervall", Some("save-interval")),
            ("xyzzy", None),
        ] {
            assert_eq!(Key::nearest(name), expected, "{name}");
        }
    }

    #[test]
    fn a_variable_is_named_after_its_setting() {
        let key = Key::find("save-every-events").unwrap();
        assert_eq!(key.variable(), "WORKSPACE_ENGINE_SAVE_EVERY_EVENTS");
    }

    #[test]
    fn no_variable_takes_a_name_that_an_orchestrator_sets_for_a_service_of_our_name() {
        for key in &KEYS {
            let variable = key.variable();
            assert!(
                !variable.starts_with("WORKSPACE_ENGINE_PORT")
                    && !variable.starts_with("WORKSPACE_ENGINE_SERVICE"),
                "{variable}"
            );
        }
    }
}
