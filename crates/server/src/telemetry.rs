//! The log on standard error: human-readable, or JSON for machines.

use crate::{
    access::AUDIT_TARGET,
    config::{Colour, LogFormat, LogSettings},
    output,
};
use std::io;
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

/// Libraries whose `info` lines do not help an operator; a directive with a library's name overrides this.
const LIBRARIES: &str = "fjall=warn,lsm_tree=warn";

/// Why the log cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    #[error("log-level {level:?}")]
    Level { level: String, source: ParseError },
    #[error("the log has begun already")]
    Begun,
}

/// Starts the log of this process.
///
/// # Errors
/// [`TelemetryError::Level`] where the level cannot be parsed.
pub(crate) fn begin(settings: &LogSettings) -> Result<(), TelemetryError> {
    // A global level does not silence the audit log; a directive with its target does.
    let directives = format!("{LIBRARIES},{AUDIT_TARGET}=info,{}", settings.level);
    let filter = EnvFilter::try_new(directives).map_err(|source| TelemetryError::Level {
        level: settings.level.clone(),
        source,
    })?;
    let colours = match settings.colour {
        Colour::Auto => output::watched() && output::colours_wanted(),
        Colour::Always => true,
        Colour::Never => false,
    };
    let log = fmt().with_env_filter(filter).with_writer(io::stderr);
    let begun = match settings.format {
        LogFormat::Human => log.with_ansi(colours).with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    begun.map_err(|_| TelemetryError::Begun)
}
