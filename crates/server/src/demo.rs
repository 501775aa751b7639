//! The demonstration: events to send to an engine, and a display of its states.

mod generated;
mod history;
mod screen;

pub(crate) use screen::Screen;

use history::History;
use std::{
    io::{self, BufRead, BufReader, Write},
    path::Path,
    thread,
};

/// Writes events, one per line.
type WriteEvents = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// The source of a demonstration's events.
pub(crate) struct Events {
    /// A description for the user.
    pub(crate) title: String,
    write: WriteEvents,
}

impl Events {
    /// The last commits of the git repository that contains a directory, or generated events where there is none.
    pub(crate) fn find(directory: &Path, commits: u32) -> Self {
        match History::open(directory, commits) {
            Ok(history) => Self {
                title: format!(
                    "the last {commits} commits of {} at most, a workspace a directory",
                    history.name()
                ),
                write: Box::new(move |out| history.write(out)),
            },
            Err(reason) => Self {
                title: format!("made-up events, for {reason}"),
                write: Box::new(|out| generated::write(out)),
            },
        }
    }

    /// The events as lines, generated while they are read.
    pub(crate) fn lines(self) -> io::Result<impl BufRead + Send + 'static> {
        let (lines, mut out) = io::pipe()?;
        thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || {
                if let Err(error) = (self.write)(&mut out) {
                    tracing::warn!(%error, "the events end early");
                }
            })?;
        Ok(BufReader::new(lines))
    }
}
