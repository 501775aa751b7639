//! Everything the commands print: results on standard output, notices and errors on standard error.

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget};
use jiff::Timestamp;
use serde::Serialize;
use std::{
    env,
    fmt::Display,
    io::{self, IsTerminal, Write},
    process,
};

/// What results look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables for people.
    #[default]
    Table,
    /// The engine's own documents.
    Json,
}

/// How a text is highlighted where colours are enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
    Faint,
}

impl Tone {
    fn colour(self) -> Option<Color> {
        match self {
            Self::Plain => None,
            Self::Good => Some(Color::Green),
            Self::Busy => Some(Color::Yellow),
            Self::Bad => Some(Color::Red),
            Self::Faint => Some(Color::DarkGrey),
        }
    }
}

/// A table cell.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    text: String,
    tone: Tone,
}

/// A cell with a tone.
pub(crate) fn field(text: impl Display, tone: Tone) -> Field {
    Field {
        text: text.to_string(),
        tone,
    }
}

impl<T: Display> From<T> for Field {
    fn from(text: T) -> Self {
        field(text, Tone::Plain)
    }
}

/// A timestamp with milliseconds, always of the same width.
pub(crate) fn instant(instant: Timestamp) -> String {
    format!("{instant:.3}")
}

/// Prints a line on standard output, for a command that must clean up when this fails.
///
/// # Errors
/// As writing to standard output; `BrokenPipe` where its reader has closed it.
pub(crate) fn try_line(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints a line on standard output; ends the process where its reader has closed it.
pub(crate) fn line(text: impl Display) {
    finish(writeln!(io::stdout().lock(), "{text}"));
}

/// Prints bytes and a newline on standard output.
pub(crate) fn document(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    let bytes = bytes.trim_ascii_end();
    finish(
        out.write_all(bytes)
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush()),
    );
}

/// Prints a value as JSON on standard output.
pub(crate) fn json(value: &impl Serialize) {
    match serde_json::to_vec(value) {
        Ok(bytes) => document(&bytes),
        Err(error) => warn(format_args!("cannot print the result: {error}")),
    }
}

/// Prints a line on standard error.
pub(crate) fn notice(text: impl Display) {
    // If standard error is closed, there is no other place to report to.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints a warning on standard error.
pub(crate) fn warn(text: impl Display) {
    notice(format_args!("{} {text}", mark("warning:", "33")));
}

/// Prints an error on standard error.
pub(crate) fn error(text: impl Display) {
    notice(format_args!("{} {text}", mark("error:", "31")));
}

/// Prints a table on standard output: aligned columns, coloured on a terminal.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [Field; N]>) {
    line(render(header, rows, Style::of_stdout()));
}

/// The output that a table is rendered for.
#[derive(Debug, Clone, Copy)]
struct Style {
    colours: bool,
}

impl Style {
    fn of_stdout() -> Self {
        Self {
            colours: io::stdout().is_terminal() && colours_wanted(),
        }
    }
}

fn render<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [Field; N]>,
    style: Style,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // The terminal wraps long lines: a message broken into a narrow column is harder to read.
    table.set_content_arrangement(ContentArrangement::Disabled);
    if style.colours {
        table.enforce_styling();
    }
    if header.iter().any(|name| !name.is_empty()) {
        table.set_header(header.map(|name| paint(field(name, Tone::Faint), style)));
    }
    for row in rows {
        table.add_row(row.map(|field| paint(field, style)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

fn paint(field: Field, style: Style) -> Cell {
    let cell = Cell::new(field.text);
    match field.tone.colour() {
        Some(colour) if style.colours => cell.fg(colour),
        Some(_) | None => cell,
    }
}

/// A progress bar on standard error, hidden where that is not a terminal.
pub(crate) fn progress_bar(total: Option<u64>) -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr_with_hz(10)
    } else {
        ProgressDrawTarget::hidden()
    };
    ProgressBar::with_draw_target(total, target)
}

/// Whether standard error is a terminal.
pub(crate) fn watched() -> bool {
    io::stderr().is_terminal()
}

/// Whether the environment allows colours: <https://no-color.org>.
pub(crate) fn colours_wanted() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn mark(word: &str, code: &str) -> String {
    if watched() && colours_wanted() {
        format!("\u{1b}[1;{code}m{word}\u{1b}[0m")
    } else {
        word.to_owned()
    }
}

/// Ends the process where the reader of standard output has closed it, as other commands in a pipe do. For
/// client commands; commands that run an engine use [`try_line`].
fn finish(written: io::Result<()>) {
    let Err(failure) = written else { return };
    if failure.kind() == io::ErrorKind::BrokenPipe {
        process::exit(0);
    }
    error(format_args!("cannot write the result: {failure}"));
    process::exit(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_off_a_terminal_is_plain_aligned_text() {
        let style = Style { colours: false };
        let rows = [
            ["a".into(), field("ready", Tone::Good)],
            ["longer-name".into(), field("error", Tone::Bad)],
        ];
        assert_eq!(
            render(["WORKSPACE", "STATE"], rows, style),
            "WORKSPACE    STATE\na            ready\nlonger-name  error"
        );
    }

    #[test]
    fn a_table_on_a_terminal_is_coloured() {
        let style = Style { colours: true };
        let text = render(["STATE"], [[field("ready", Tone::Good)]], style);
        assert!(text.contains("\u{1b}[38;5;10mready"), "{text:?}");
    }
}
