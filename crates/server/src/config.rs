//! The configuration of `serve`, from flags, variables, a TOML file and defaults.

mod access;
mod file;
mod flags;
mod kafka;
mod keys;
mod layers;

pub(crate) use flags::ServeFlags;
pub(crate) use keys::VARIABLE_PREFIX;

use crate::{access::AccessSettings, size::Size, span::Span};
use file::FileError;
use keys::{AUTO, KEYS, Key, OFF};
use layers::{InvalidSetting, Layers};
use std::{
    env, fs, net::SocketAddr, num::NonZeroUsize, path::PathBuf, process, thread, time::Duration,
};
use workspace_engine_core::disk::{DataDirSpec, MAX_PARTITIONS};
use workspace_engine_kafka::KafkaConfig;
use workspace_lifecycle::Limits;

/// The complete configuration of `serve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServeConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) access: AccessSettings,
    pub(crate) engine: EngineSettings,
    pub(crate) http: HttpLimits,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) http_threads: usize,
    pub(crate) engine_nice: u8,
    pub(crate) log: LogSettings,
}

/// The settings of the engine itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EngineSettings {
    pub(crate) data_dir: PathBuf,
    /// The cluster that holds log and workspaces; `None` keeps them in the data directory.
    pub(crate) kafka: Option<KafkaConfig>,
    pub(crate) store: StoreKind,
    /// Tables that the database keeps open; reduced at startup to the process's limit of open files.
    pub(crate) database_files: usize,
    pub(crate) partitions: u32,
    pub(crate) owner: String,
    pub(crate) permits: usize,
    pub(crate) urgent_queue: usize,
    pub(crate) load_timeout: Duration,
    pub(crate) command_timeout: Duration,
    pub(crate) save_every_events: u64,
    pub(crate) save_interval: Duration,
    pub(crate) replay_save_interval: Duration,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) retention_age: Option<Duration>,
    pub(crate) populate_dir: Option<PathBuf>,
}

/// Where workspaces are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// The embedded database that also holds the log.
    Lsm,
    /// Human-readable JSON lines.
    File,
    /// Memory only: a restart replays the log from its beginning.
    Memory,
}

/// The HTTP server's limits for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpLimits {
    pub(crate) max_body_bytes: usize,
    pub(crate) event_memory_bytes: usize,
    pub(crate) answer_memory_bytes: usize,
    pub(crate) max_connections: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) cold_read_timeout: Duration,
}

/// Format of the log on standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) format: LogFormat,
    pub(crate) level: String,
    pub(crate) colour: Colour,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Human,
    Json,
}

/// Whether the log is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Auto,
    Always,
    Never,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
}

/// A configuration, and where it came from, for the log.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) config: ServeConfig,
    /// The settings that the operator set, as `name=value`.
    pub(crate) set: Vec<String>,
    /// Variables with the engine's prefix that resemble a setting but are not one.
    pub(crate) suspicious: Vec<String>,
}

impl ServeConfig {
    /// Resolves a configuration from the flags, the process's environment and the file that one of them names.
    ///
    /// # Errors
    /// [`ConfigError`] names the flag, the variable or the line of the file that cannot be used.
    pub(crate) fn resolve(flags: &ServeFlags) -> Result<Resolved, ConfigError> {
        let variables: Vec<(String, String)> = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
            .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
            // Empty variables are ignored: orchestrators and scripts set them to mean "not set".
            .filter(|(_, value)| !value.is_empty())
            .collect();
        Self::from_parts(flags, &variables)
    }

    /// A configuration from flags alone; the environment is ignored.
    ///
    /// # Errors
    /// As [`ServeConfig::resolve`].
    pub(crate) fn of_flags(flags: &ServeFlags) -> Result<Self, ConfigError> {
        Ok(Self::from_parts(flags, &[])?.config)
    }

    fn from_parts(
        flags: &ServeFlags,
        variables: &[(String, String)],
    ) -> Result<Resolved, ConfigError> {
        let (path, file) = match flags.config() {
            Some(path) => (path.to_owned(), file::read(path)?),
            None => (PathBuf::new(), Vec::new()),
        };
        let layers = Layers::new(
            |name| flags.value(name),
            |name| {
                let (_, value) = variables.iter().find(|(variable, _)| variable == name)?;
                Some(value.clone())
            },
            &file,
            &path,
        );
        Ok(Resolved {
            config: Self::from_layers(&layers)?,
            set: layers
                .set()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            suspicious: variables
                .iter()
                .filter_map(|(name, _)| suspicious(name))
                .collect(),
        })
    }

    fn from_layers(layers: &Layers) -> Result<Self, InvalidSetting> {
        let listen: SocketAddr = layers.read("listen")?;
        Ok(Self {
            listen,
            access: access::from_layers(layers, listen.ip())?,
            engine: EngineSettings::from_layers(layers)?,
            http: HttpLimits::from_layers(layers)?,
            shutdown_timeout: positive(layers, "shutdown-timeout")?,
            http_threads: match layers.text("http-threads") {
                AUTO => thread::available_parallelism()
                    .map_or(2, NonZeroUsize::get)
                    .max(2),
                _ => narrow(layers.number("http-threads", 1, 1024)?),
            },
            engine_nice: u8::try_from(layers.number("engine-nice", 0, 19)?).unwrap_or(19),
            log: LogSettings {
                format: layers.choice(
                    "log-format",
                    &[("human", LogFormat::Human), ("json", LogFormat::Json)],
                )?,
                level: layers.text("log-level").to_owned(),
                colour: layers.choice(
                    "log-colour",
                    &[
                        (AUTO, Colour::Auto),
                        ("always", Colour::Always),
                        ("never", Colour::Never),
                    ],
                )?,
            },
        })
    }
}

impl EngineSettings {
    fn from_layers(layers: &Layers) -> Result<Self, InvalidSetting> {
        let owner = match layers.text("owner").trim() {
            AUTO => default_owner(),
            "" => return Err(layers.invalid("owner", format_args!("a name is not empty"))),
            name if name.len() > 255 => {
                return Err(layers.invalid(
                    "owner",
                    format_args!("a name has at most 255 bytes, not {}", name.len()),
                ));
            }
            name => name.to_owned(),
        };
        let data_dir = layers.text("data-dir");
        if data_dir.is_empty() {
            return Err(layers.invalid("data-dir", format_args!("a directory has a name")));
        }
        let store = layers.choice(
            "store",
            &[
                ("lsm", StoreKind::Lsm),
                ("file", StoreKind::File),
                ("memory", StoreKind::Memory),
            ],
        )?;
        let kafka = kafka::from_layers(layers)?;
        if kafka.is_some() && store != StoreKind::Lsm {
            return Err(layers.invalid(
                "store",
                format_args!("with kafka, workspaces are kept in a topic and copied to lsm alone"),
            ));
        }
        Ok(Self {
            data_dir: PathBuf::from(data_dir),
            kafka,
            store,
            database_files: DataDirSpec::default().open_files,
            partitions: u32::try_from(layers.number("partitions", 1, MAX_PARTITIONS.into())?)
                .unwrap_or(MAX_PARTITIONS),
            owner,
            permits: narrow(layers.number("permits", 1, 1024)?),
            urgent_queue: narrow(layers.number("urgent-queue", 0, 1_000_000)?),
            load_timeout: positive(layers, "load-timeout")?,
            command_timeout: positive(layers, "command-timeout")?,
            save_every_events: layers.number(
                "save-every-events",
                1,
                Limits::default().max_unsaved_events / 2,
            )?,
            save_interval: positive(layers, "save-interval")?,
            replay_save_interval: positive(layers, "replay-save-interval")?,
            retention_bytes: layers
                .read_unless::<Size>(OFF, "retention-bytes")?
                .map(|size| size.0),
            retention_age: layers
                .read_unless::<Span>(OFF, "retention-age")?
                .map(|span| span.0),
            populate_dir: layers.path_unless_off("populate-dir"),
        })
    }
}

/// Room for a page of entities and an entity of the largest size.
const ANSWER_MEMORY_MIN_BYTES: u64 = 8 << 20;

impl HttpLimits {
    fn from_layers(layers: &Layers) -> Result<Self, InvalidSetting> {
        let max_body: Size = layers.read("max-body")?;
        let event_memory: Size = layers.read("event-memory")?;
        let answer_memory: Size = layers.read("answer-memory")?;
        if max_body.0 < 1024 {
            return Err(layers.invalid(
                "max-body",
                format_args!("{max_body} is less than 1KiB, too little for an event"),
            ));
        }
        if event_memory < max_body {
            return Err(layers.invalid(
                "event-memory",
                format_args!("{event_memory} is less than one body, {max_body}"),
            ));
        }
        if answer_memory.0 < ANSWER_MEMORY_MIN_BYTES {
            return Err(layers.invalid(
                "answer-memory",
                format_args!("{answer_memory} is less than 8MiB, too little for a large answer"),
            ));
        }
        Ok(Self {
            max_body_bytes: max_body.as_usize(),
            event_memory_bytes: event_memory.as_usize(),
            answer_memory_bytes: answer_memory.as_usize(),
            max_connections: narrow(layers.number("max-connections", 1, 1_000_000)?),
            header_timeout: positive(layers, "header-timeout")?,
            body_timeout: positive(layers, "body-timeout")?,
            write_timeout: positive(layers, "write-timeout")?,
            cold_read_timeout: layers.read::<Span>("cold-read-timeout")?.0,
        })
    }
}

#[cfg(test)]
impl HttpLimits {
    /// The default limits.
    pub(crate) fn for_tests() -> Self {
        ServeConfig::of_flags(&ServeFlags::default()).unwrap().http
    }
}

/// A duration above zero.
fn positive(layers: &Layers, name: &str) -> Result<Duration, InvalidSetting> {
    let span: Span = layers.read(name)?;
    if span.0.is_zero() {
        return Err(layers.invalid(name, format_args!("must be longer than nothing")));
    }
    Ok(span.0)
}

fn narrow(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Host and process id, to distinguish two engines and to locate an owner.
fn default_owner() -> String {
    let host = ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .into_iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .or_else(|| env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned());
    format!("{host}:{}", process::id())
}

/// Variables of flags that are not settings of `serve`, without the common prefix.
pub(crate) const COMMAND_VARIABLES: [&str; 14] = [
    "CONFIG",
    "URL",
    "TOKEN",
    "CA_FILE",
    "CLIENT_CERT",
    "CLIENT_KEY",
    "OUTPUT",
    "FOR",
    "FAIL_ON",
    "TIMEOUT",
    "RETRY_FOR",
    "BATCH_EVENTS",
    "BATCH_BYTES",
    "NO_CHECK",
];

/// A variable that is probably a misspelt setting, with the setting that was probably meant.
///
/// Orchestrators set variables with this prefix for a service of the same name, so an unknown variable is
/// logged and not refused.
fn suspicious(variable: &str) -> Option<String> {
    let rest = variable.strip_prefix(VARIABLE_PREFIX)?;
    let orchestrated = rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_");
    let known =
        COMMAND_VARIABLES.contains(&rest) || KEYS.iter().any(|key| key.variable() == variable);
    if orchestrated || known {
        return None;
    }
    let nearest = Key::find(Key::nearest(rest)?)?;
    Some(format!("{variable} (did you mean {}?)", nearest.variable()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::{fmt::Write as _, path::Path};
    use workspace_engine_core::disk::PARTITIONS_DEFAULT;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: ServeFlags,
    }

    const EXAMPLE: &str = include_str!("../workspace-engine.example.toml");

    fn flags(arguments: &[&str]) -> ServeFlags {
        Cli::parse_from([&["serve"], arguments].concat()).flags
    }

    fn check(arguments: &[&str], variables: &[(&str, &str)], expected: &str) {
        let variables: Vec<(String, String)> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let error = ServeConfig::from_parts(&flags(arguments), &variables).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn the_defaults_are_a_configuration() {
        let config = ServeConfig::from_parts(&flags(&[]), &[]).unwrap().config;
        assert_eq!(config.engine.partitions, PARTITIONS_DEFAULT);
        assert_eq!(config.listen, "127.0.0.1:8081".parse().unwrap());
        assert_eq!(config.http.max_body_bytes, 16 << 20);
        assert!(config.engine.owner.ends_with(&process::id().to_string()));
    }

    #[test]
    fn a_partitioner_is_named_for_a_kafka_topic_alone() {
        let named = ["--partitioner", "fnv1a_random"];
        check(
            &named,
            &[],
            "--partitioner: is of a Kafka topic: it needs --kafka (the log in the data directory is written by engines \
             alone, by murmur2_random)",
        );
        check(
            &["--partitioner", "crc", "--kafka", "broker:9092"],
            &[],
            "--partitioner: \"crc\" is not one of murmur2_random, consistent_random, fnv1a_random",
        );
        let on_kafka = [named.as_slice(), &["--kafka", "broker:9092"]].concat();
        let config = ServeConfig::from_parts(&flags(&on_kafka), &[])
            .unwrap()
            .config;
        let kafka = config.engine.kafka.unwrap();
        assert_eq!(kafka.partitioner.name(), "fnv1a_random");
    }

    #[test]
    fn a_value_that_cannot_be_used_is_refused_with_its_place() {
        check(
            &["--listen", "nowhere"],
            &[],
            "--listen: invalid socket address syntax",
        );
        check(
            &[],
            &[("WORKSPACE_ENGINE_STORE", "redis")],
            "WORKSPACE_ENGINE_STORE: \"redis\" is not one of lsm, file, memory",
        );
        check(
            &["--partitions", "0"],
            &[],
            "--partitions: \"0\" is not a number from 1 to 256",
        );
        check(
            &["--save-interval", "10"],
            &[],
            "--save-interval: the number in \"10\" needs a unit: ms, s, m, h or d",
        );
        check(
            &["--save-interval", "0s"],
            &[],
            "--save-interval: must be longer than nothing",
        );
        check(
            &["--listen", "0.0.0.0:8081"],
            &[],
            "--listen: this is not a loopback address, and no caller would have any right: give --tokens FILE (`workspace-engine token` makes tokens), --tls-client-ca FILE, or --anonymous ROLE for callers without either",
        );
        check(
            &["--anonymous", "root"],
            &[],
            "--anonymous: \"root\" is not one of none, viewer, reader, producer, operator, admin, auto",
        );
        check(
            &["--tls-cert", "cert.pem"],
            &[],
            "--tls-cert: needs --tls-key as well",
        );
        check(
            &["--tls-key", "key.pem"],
            &[],
            "--tls-key: needs --tls-cert as well",
        );
        check(
            &["--tls-client-ca", "ca.pem"],
            &[],
            "--tls-client-ca: needs --tls-cert and --tls-key as well",
        );
        check(
            &["--allowed-host", "engine.example, https://x"],
            &[],
            "--allowed-host: \"https://x\" is not a host such as engine.example or engine.example:8443",
        );
        check(
            &["--event-memory", "1MiB"],
            &[],
            "--event-memory: 1MiB is less than one body, 16MiB",
        );
    }

    #[test]
    fn the_example_lists_every_setting_with_its_default_and_its_help() {
        if env::var_os("UPDATE_GOLDEN").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/workspace-engine.example.toml");
            return fs::write(path, example()).unwrap();
        }
        let settings = file::parse(EXAMPLE, Path::new("example")).unwrap();
        let listed: Vec<(&str, &str)> = settings
            .iter()
            .map(|setting| (setting.key, setting.value.as_str()))
            .collect();
        let expected: Vec<(&str, &str)> = KEYS.iter().map(|key| (key.name, key.default)).collect();
        assert_eq!(listed, expected);
        assert_eq!(EXAMPLE, example(), "UPDATE_GOLDEN=1 writes it anew");
    }

    #[test]
    fn a_flag_that_is_a_switch_needs_no_value() {
        for (arguments, expected) in [
            (&[][..], None),
            (&["--accept-loss"], Some("true")),
            (&["--accept-loss", "--topic", "events"], Some("true")),
            (&["--accept-loss=false"], Some("false")),
        ] {
            let found = flags(arguments).value("accept-loss");
            assert_eq!(found.as_deref(), expected, "{arguments:?}");
        }
    }

    #[test]
    fn a_slip_in_a_variable_is_noticed_but_an_orchestrators_is_not() {
        for (variable, expected) in [
            (
                "WORKSPACE_ENGINE_PERMIT",
                Some("WORKSPACE_ENGINE_PERMIT (did you mean WORKSPACE_ENGINE_PERMITS?)"),
            ),
            ("WORKSPACE_ENGINE_PERMITS", None),
            ("WORKSPACE_ENGINE_URL", None),
            ("WORKSPACE_ENGINE_PORT_8081_TCP", None),
            ("WORKSPACE_ENGINE_SERVICE_HOST", None),
        ] {
            assert_eq!(suspicious(variable).as_deref(), expected);
        }
    }

    /// The text of the example file, generated from the table.
    fn example() -> String {
        let mut text = String::from(
            "# Every setting of `workspace-engine serve` with its default; `--config FILE` reads it.\n\
             # A flag goes before a variable, a variable before this file; an empty variable is none.\n",
        );
        for key in &KEYS {
            let value = match key.default.parse::<u64>() {
                Ok(number) => number.to_string(),
                Err(_) if key.is_switch() => key.default.to_owned(),
                Err(_) => format!("{:?}", key.default),
            };
            write!(
                text,
                "\n# {}.\n# {} · --{} {}\n{} = {value}\n",
                key.help,
                key.variable(),
                key.name,
                key.value_name,
                key.name
            )
            .unwrap();
        }
        text
    }
}
