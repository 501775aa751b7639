//! The configuration of `serve`: flags override variables, variables the TOML file, the file the defaults.
//!
//! The structs here are the only list of settings. A field is a flag; its variable, its key in the file and its entry in
//! the example file have the same name, and its documentation is their help.

mod file;
mod kafka;
mod layers;

pub(crate) use layers::{ConfigError, ServeFlags, misspelt_variables};

use crate::{
    access::AccessSettings,
    group::KafkaConfig,
    memory_limit,
    values::{
        Bytes, Conflict, OrAuto, OrOff, at_least, bytes, directory, number, or_auto, or_off, owner,
        path, positive, threads,
    },
};
use bytesize::ByteSize;
use clap::{
    Args, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use kafka::KafkaSettings;
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use workspace_engine_core::{
    StoreKind,
    disk::{DataDirSpec, MAX_PARTITIONS},
};
use workspace_lifecycle::Limits;
use workspace_status_http::parse_duration;

/// The complete configuration of `serve`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeConfig {
    /// Address of the HTTP server; port 0 takes a free one and prints it
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8081")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) access: AccessSettings,
    #[command(flatten)]
    pub(crate) engine: EngineSettings,
    #[command(flatten)]
    pub(crate) http: HttpLimits,
    /// Time for a stop to finish requests, save and unload; the process ends after it in any case
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = positive)]
    pub(crate) shutdown_timeout: Duration,
    /// Threads that answer requests; auto is one per core, at least two
    #[arg(long, value_name = "N", default_value = "auto", value_parser = threads)]
    pub(crate) http_threads: usize,
    /// Nice value of the threads that load, replay and save, so that requests are answered first (Linux; see nice(1))
    #[arg(long, value_name = "0..19", default_value = "5", value_parser = number::<u8>(0, 19))]
    pub(crate) engine_nice: u8,
    #[command(flatten)]
    pub(crate) log: LogSettings,
}

/// The settings of the engine itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct EngineSettings {
    /// Directory of the event log and the store; created if it is missing. Only one engine at a time may use it
    #[arg(long, value_name = "DIR", default_value = "workspace-engine-data", value_parser = directory)]
    pub(crate) data_dir: PathBuf,
    /// Where workspaces are kept: an embedded database, readable JSON lines, or memory only; with --kafka in a changelog
    /// topic, and the database is a copy of it
    #[arg(long, default_value = "lsm", value_parser = store())]
    pub(crate) store: StoreKind,
    /// Partitions of the embedded event log, 1 to 256; fixed when the data directory is created
    #[arg(long, value_name = "N", default_value = "12", value_parser = number::<u32>(1, MAX_PARTITIONS.into()))]
    pub(crate) partitions: u32,
    #[command(flatten)]
    pub(crate) kafka_settings: KafkaSettings,
    /// The cluster that holds log and workspaces; `None` keeps them in the data directory.
    #[arg(skip)]
    pub(crate) kafka: Option<KafkaConfig>,
    /// Memory of the embedded database: cached blocks of its tables, and what is not in tables yet. At least 32MiB
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = at_least("32MiB"))]
    pub(crate) database_memory: usize,
    /// Tables that the database keeps open; reduced at startup to the process's limit of open files.
    #[arg(skip = DataDirSpec::default().open_files)]
    pub(crate) database_files: usize,
    /// Name under which this engine owns its workspaces; auto is the host's name and the process id
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = owner)]
    pub(crate) owner: String,
    /// Workspaces that load at the same time
    #[arg(long, value_name = "N", default_value = "8", value_parser = number::<usize>(1, 1024))]
    pub(crate) permits: usize,
    /// Requested workspaces that may wait for a load before all others; further ones wait with the others
    #[arg(long, value_name = "N", default_value = "64", value_parser = number::<usize>(0, 1_000_000))]
    pub(crate) urgent_queue: usize,
    /// A load that makes no progress for this long is abandoned and retried; the next load gets its permit
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = positive)]
    pub(crate) load_timeout: Duration,
    /// How long a request waits for an operator's command (unload, skip, reset, delete) before it is answered with 504;
    /// the command continues
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = positive)]
    pub(crate) command_timeout: Duration,
    /// A partition that does not replay is saved after this many events at the latest
    #[arg(
        long, value_name = "N", default_value = "10000",
        value_parser = number::<u64>(1, Limits::default().max_unsaved_events / 2),
    )]
    pub(crate) save_every_events: u64,
    /// A changed workspace of a partition that does not replay is saved after this time at the latest
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = positive)]
    pub(crate) save_interval: Duration,
    /// The same while it replays; if an entity is set many times in this time, only the last value is written
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = positive)]
    pub(crate) replay_save_interval: Duration,
    /// Above this size the log of a partition deletes its oldest events, but never one that the store does not hold;
    /// off keeps all
    #[arg(long, value_name = "SIZE", default_value = "off", value_parser = or_off(bytes))]
    pub(crate) retention_bytes: OrOff<Bytes>,
    /// The log deletes events older than this, but never one that the store does not hold; off keeps all
    #[arg(long, value_name = "DURATION", default_value = "off", value_parser = or_off(parse_duration))]
    pub(crate) retention_age: OrOff<Duration>,
    /// Memory of the process above which the workspaces that were read or written longest ago are saved and leave it;
    /// their entities are read again when a client or their events request them. auto is 60 % of the memory of the
    /// control group or the machine. Bodies and answers of requests under way come on top
    #[arg(long, value_name = "SIZE", default_value = "auto", value_parser = or_auto(bytes))]
    pub(crate) memory_limit: OrAuto<Bytes>,
    /// An evicted workspace is loaded once its partition has read this many events beyond its first unapplied one
    #[arg(long, value_name = "N", default_value = "50000", value_parser = number::<u64>(1, 1_000_000_000))]
    pub(crate) evicted_lag: u64,
    /// An evicted workspace is loaded this long after its partition has read an event of it
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    pub(crate) evicted_age: Duration,
    /// Directory of WORKSPACE.ndjson files with the first entities of workspaces that the store does not know
    #[arg(long, value_name = "DIR", default_value = "off", value_parser = or_off(path))]
    pub(crate) populate_dir: OrOff<PathBuf>,
}

/// The HTTP server's limits for one client.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct HttpLimits {
    /// How long a read of a workspace that is not in memory waits for its load before it is answered with 503
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub(crate) cold_read_timeout: Duration,
    /// Largest body of a request
    #[arg(long = "max-body", value_name = "SIZE", default_value = "16MiB", value_parser = at_least("1KiB"))]
    pub(crate) max_body_bytes: usize,
    /// Connections at the same time. An authorized request gets the permit of a connection that was idle for a second,
    /// or whose client is not authorized; 64 more are accepted for probes, and any other request on them is answered
    /// with 503 and Retry-After. The limit of open files (ulimit -n) may reduce the number
    #[arg(long, value_name = "N", default_value = "1024", value_parser = number::<usize>(1, 1_000_000))]
    pub(crate) max_connections: usize,
    /// A connection that has not sent the head of a request after this time is closed, also one that is idle for longer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = positive)]
    pub(crate) header_timeout: Duration,
    /// A request whose body is not complete after this time is refused with 408
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive)]
    pub(crate) body_timeout: Duration,
    /// A connection whose client reads nothing of its answer for this time is closed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = positive)]
    pub(crate) write_timeout: Duration,
    /// Memory for the bodies of event requests in progress, taken as they arrive; when it is full, an incomplete body is
    /// answered with 503 and Retry-After
    #[arg(long = "event-memory", value_name = "SIZE", default_value = "256MiB", value_parser = at_least("1KiB"))]
    pub(crate) event_memory_bytes: usize,
    /// Memory for answers of more than 64KiB until the client has read them; when it is full, a page of entities is
    /// shorter and other large answers are 503 with Retry-After. At least 8MiB, for one page and one largest entity
    #[arg(long = "answer-memory", value_name = "SIZE", default_value = "256MiB", value_parser = at_least("8MiB"))]
    pub(crate) answer_memory_bytes: usize,
}

/// Format of the log on standard error.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogSettings {
    /// Format of the log on standard error
    #[arg(long = "log-format", default_value = "human")]
    pub(crate) format: LogFormat,
    /// error, warn, info, debug or trace, also by module: `info,workspace_engine_core=debug`
    #[arg(long = "log-level", value_name = "LEVEL", default_value = "info")]
    pub(crate) level: String,
    /// Colours in the human log; auto is on if standard error is a terminal and `NO_COLOR` is not set
    #[arg(long = "log-colour", default_value = "auto")]
    pub(crate) colour: Colour,
}

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Human,
    Json,
}

/// Whether the log is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    Auto,
    Always,
    Never,
}

/// The stores, each with its name and its help.
const STORES: [(&str, StoreKind, &str); 3] = [
    (
        "lsm",
        StoreKind::Lsm,
        "The embedded database that also holds the log",
    ),
    ("file", StoreKind::File, "Human-readable JSON lines"),
    (
        "memory",
        StoreKind::Memory,
        "Memory only: a restart replays the log from its beginning",
    ),
];

fn store() -> impl TypedValueParser<Value = StoreKind> {
    let names = STORES.map(|(name, _, help)| PossibleValue::new(name).help(help));
    PossibleValuesParser::new(names).try_map(|name| {
        let kind = STORES.iter().find(|(known, ..)| *known == name);
        kind.map(|(_, kind, _)| *kind)
            .ok_or_else(|| format!("no store is called {name}"))
    })
}

impl ServeConfig {
    /// Checks the settings that depend on each other.
    fn check(&self) -> Result<(), Conflict> {
        self.access.check(self.listen.ip())?;
        if self.engine.kafka_settings.brokers.is_some() && self.engine.store != StoreKind::Lsm {
            return Err(Conflict::new(
                "store",
                "with --kafka, workspaces are kept in a topic and copied to lsm only",
            ));
        }
        if let Some(limit) = self.engine.memory_limit {
            memory_limit::for_workspaces(limit, self.engine.database_memory as u64)
                .map_err(|reason| Conflict::new("memory-limit", reason))?;
        }
        let [memory, body] = [self.http.event_memory_bytes, self.http.max_body_bytes];
        if memory < body {
            let [memory, body] = [memory, body].map(|bytes| ByteSize(bytes as u64));
            let reason = format!("{memory} is less than one body, {body}");
            return Err(Conflict::new("event-memory", reason));
        }
        Ok(())
    }
}

#[cfg(test)]
impl HttpLimits {
    /// The default limits.
    pub(crate) fn for_tests() -> Self {
        ServeConfig::resolve(&ServeFlags::default())
            .unwrap()
            .config
            .http
    }
}

#[cfg(test)]
mod tests {
    use super::{layers::Resolved, *};
    use clap::{Arg, Parser};
    use std::{collections::BTreeSet, env, fmt::Write as _, fs, process};
    use workspace_engine_core::disk::PARTITIONS_DEFAULT;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: ServeFlags,
    }

    const EXAMPLE: &str = include_str!("../workspace-engine.example.toml");

    fn resolve(arguments: &[&str]) -> Result<Resolved, ConfigError> {
        ServeConfig::resolve(&Cli::parse_from([&["serve"], arguments].concat()).flags)
    }

    #[test]
    fn the_defaults_are_a_configuration() {
        let Resolved { config, set } = resolve(&[]).unwrap();
        assert_eq!(config.engine.partitions, PARTITIONS_DEFAULT);
        let memory = config.engine.database_memory as u64;
        assert_eq!(memory, DataDirSpec::default().memory_bytes);
        assert_eq!(config.listen, "127.0.0.1:8081".parse().unwrap());
        assert_eq!(config.http.max_body_bytes, 16 << 20);
        assert!(config.engine.owner.ends_with(&process::id().to_string()));
        assert!(config.engine.kafka.is_none());
        assert_eq!(set, [""; 0]);
    }

    #[test]
    fn a_value_that_cannot_be_used_is_refused_with_its_place() {
        for (arguments, expected) in [
            (
                &["--listen", "nowhere"][..],
                "--listen: invalid socket address syntax",
            ),
            (
                &["--store", "redis"],
                "--store: \"redis\" is not one of lsm, file, memory",
            ),
            (
                &["--partitions", "0"],
                "--partitions: \"0\" is not a number from 1 to 256",
            ),
            (
                &["--save-interval", "10"],
                "--save-interval: the number in \"10\" needs a unit: ms, s, m, h or d",
            ),
            (
                &["--save-interval", "0s"],
                "--save-interval: must be longer than nothing",
            ),
            (
                &["--listen", "0.0.0.0:8081"],
                "--listen: this is not a loopback address, and no caller would have any right: give --tokens FILE \
                 (`workspace-engine token` makes tokens), --tls-client-ca FILE, or --anonymous ROLE for callers \
                 without either",
            ),
            (
                &["--anonymous", "root"],
                "--anonymous: \"root\" is not one of none, viewer, reader, producer, operator, admin, auto",
            ),
            (
                &["--tls-cert", "cert.pem"],
                "--tls-cert: needs --tls-key as well",
            ),
            (
                &["--tls-key", "key.pem"],
                "--tls-key: needs --tls-cert as well",
            ),
            (
                &["--tls-client-ca", "ca.pem"],
                "--tls-client-ca: needs --tls-cert and --tls-key as well",
            ),
            (
                &["--allowed-host", "engine.example, https://x"],
                "--allowed-host: \"https://x\" is not a host such as engine.example or engine.example:8443",
            ),
            (
                &["--answer-memory", "1MiB"],
                "--answer-memory: 1MiB is less than 8MiB",
            ),
            (
                &["--database-memory", "31MiB"],
                "--database-memory: 31MiB is less than 32MiB",
            ),
            (
                &["--database-memory", "much"],
                "--database-memory: a size is written as 512KiB, 16MiB, 10GB or a number of bytes, not \"much\"",
            ),
            (
                &["--event-memory", "1MiB"],
                "--event-memory: 1.0 MiB is less than one body, 16.0 MiB",
            ),
            (
                &["--memory-limit", "100MiB"],
                "--memory-limit: 100.0 MiB is too little: the process takes 192.0 MiB besides the workspaces, and they \
                 need 1.0 MiB at least",
            ),
            (
                &["--kafka", "broker:9092", "--store", "file"],
                "--store: with --kafka, workspaces are kept in a topic and copied to lsm only",
            ),
            (
                &["--kafka", "broker:9092,"],
                "--kafka: \"broker:9092,\" is not a list of brokers such as 127.0.0.1:9092",
            ),
            (
                &["--partitioner", "crc", "--kafka", "broker:9092"],
                "--partitioner: \"crc\" is not one of murmur2_random, consistent_random, fnv1a_random",
            ),
            (
                &["--partitioner", "fnv1a_random"],
                "--partitioner: applies to a Kafka topic and needs --kafka (the log in the data directory is written by \
                 engines only, by murmur2_random)",
            ),
        ] {
            assert_eq!(resolve(arguments).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_flag_overrides_the_file_and_the_file_the_default() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.toml");
        fs::write(&path, "permits = 3\nhttp-threads = 2\naccept-loss = true\n").unwrap();
        let path = path.to_str().unwrap();
        let Resolved { config, set } = resolve(&["--config", path, "--permits=9"]).unwrap();
        assert_eq!((config.engine.permits, config.http_threads), (9, 2));
        assert_eq!(config.engine.urgent_queue, 64);
        assert_eq!(set, ["permits=9", "accept-loss=true", "http-threads=2"]);
        let error = resolve(&["--config", path, "--store=no"]).unwrap_err();
        assert!(error.to_string().starts_with("--store: "), "{error}");
    }

    #[test]
    fn a_switch_needs_no_value() {
        for (arguments, expected) in [
            (&[][..], &[][..]),
            (&["--accept-loss"], &["accept-loss=true"]),
            (
                &["--accept-loss", "--topic", "events"],
                &["topic=events", "accept-loss=true"],
            ),
            (&["--accept-loss=false"], &["accept-loss=false"]),
        ] {
            assert_eq!(resolve(arguments).unwrap().set, expected, "{arguments:?}");
        }
    }

    #[test]
    fn a_misspelt_variable_is_noticed_but_an_orchestrators_is_not() {
        let known = ["PERMITS", "URL"].map(|name| format!("WORKSPACE_ENGINE_{name}"));
        let set = [
            "WORKSPACE_ENGINE_PERMIT",
            "WORKSPACE_ENGINE_PERMITS",
            "WORKSPACE_ENGINE_PORT_8081_TCP",
            "WORKSPACE_ENGINE_SERVICE_HOST",
            "PERMIT",
        ];
        assert_eq!(
            misspelt_variables(set, &BTreeSet::from(known)),
            ["WORKSPACE_ENGINE_PERMIT (did you mean WORKSPACE_ENGINE_PERMITS?)"]
        );
    }

    /// An orchestrator sets such variables for a service that has the engine's name.
    #[test]
    fn no_setting_has_the_variable_of_an_orchestrator() {
        for arg in ServeFlags::augment_args(clap::Command::new("serve")).get_arguments() {
            let variable = arg.get_env().unwrap().to_str().unwrap();
            let rest = variable.strip_prefix("WORKSPACE_ENGINE_").unwrap();
            assert!(
                !rest.starts_with("PORT") && !rest.starts_with("SERVICE"),
                "{variable}"
            );
        }
    }

    #[test]
    fn the_example_lists_every_setting_with_its_default_and_its_help() {
        let serve = ServeFlags::augment_args(clap::Command::new("serve"));
        let settings = serve.get_arguments().filter(|arg| arg.get_id() != "config");
        let mut text = String::from(
            "# Every setting of `workspace-engine serve` with its default; `--config FILE` reads it.\n\
             # A flag overrides a variable, a variable this file; empty variables are ignored.\n",
        );
        settings.for_each(|arg| write_example(&mut text, arg));
        if env::var_os("UPDATE_GOLDEN").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/workspace-engine.example.toml");
            return fs::write(path, text).unwrap();
        }
        assert_eq!(EXAMPLE, text, "UPDATE_GOLDEN=1 writes it again");
    }

    fn write_example(text: &mut String, arg: &Arg) {
        let name = arg.get_long().unwrap();
        let default = arg.get_default_values()[0].to_str().unwrap();
        let is_bare = default.parse::<u64>().is_ok() || default.parse::<bool>().is_ok();
        write!(
            text,
            "\n# {}.\n# {} · --{name} {}\n{name} = {}\n",
            arg.get_help().unwrap(),
            arg.get_env().unwrap().to_str().unwrap(),
            arg.get_value_names().unwrap()[0],
            if is_bare {
                default.to_owned()
            } else {
                format!("{default:?}")
            },
        )
        .unwrap();
    }
}
