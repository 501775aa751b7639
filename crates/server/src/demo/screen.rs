//! Shows state changes: a live table on a terminal, otherwise one line per change.

use crate::output;
use indicatif::ProgressBar;
use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use workspace_status::{ChangeKind, FeedItem, PageQuery, State, Tracker, Watcher};

/// Interval between two redraws of the table, and maximum wait at the end.
const REDRAW: Duration = Duration::from_millis(100);
/// Rows of the table; further workspaces are only in the counts above it.
const ROWS: usize = 20;

/// Shows the states of a tracker until it is finished.
pub(crate) struct Screen {
    finished: Arc<AtomicBool>,
    shows: JoinHandle<()>,
}

/// Called once, when the output cannot be written any more.
type Unread = Box<dyn FnOnce(std::io::Error) + Send>;

impl Screen {
    /// Starts the display; `unread` is called where it cannot be written.
    pub(crate) fn begin(tracker: Tracker, unread: Unread) -> std::io::Result<Self> {
        let finished = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&finished);
        let watcher = tracker.watch();
        let shows = thread::Builder::new()
            .name("screen".to_owned())
            .spawn(move || {
                if output::watched() {
                    draw(&tracker, &until);
                } else if let Err(error) = report(watcher, &tracker, &until) {
                    unread(error);
                }
            })?;
        Ok(Self { finished, shows })
    }

    /// Shows the remaining changes, and ends.
    pub(crate) fn finish(self) {
        self.finished.store(true, Ordering::Release);
        if self.shows.join().is_err() {
            output::warn("the states could not be shown");
        }
    }
}

fn draw(tracker: &Tracker, finished: &AtomicBool) {
    let bar: ProgressBar = output::progress_bar(None);
    if let Ok(style) = indicatif::ProgressStyle::with_template("{msg}") {
        bar.set_style(style);
    }
    while !finished.load(Ordering::Acquire) {
        bar.set_message(picture(tracker));
        thread::sleep(REDRAW);
    }
    bar.finish_and_clear();
}

/// The counts of all states, and the first workspaces with their states.
fn picture(tracker: &Tracker) -> String {
    let counts = tracker.count_by_state();
    let mut text = String::new();
    for (state, count) in counts.iter().filter(|(_, count)| *count > 0) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{state} {count}  ");
    }
    let page = tracker.page(&PageQuery {
        limit: ROWS,
        ..PageQuery::default()
    });
    for snapshot in &page.snapshots {
        let done = snapshot
            .progress()
            .and_then(|progress| progress.percent())
            .map(|percent| format!("{percent:5.1}%"))
            .unwrap_or_default();
        let _ = write!(
            text,
            "\n  {:<40} {:<24} {done}",
            snapshot.workspace_id(),
            snapshot.state(),
        );
    }
    let hidden = counts.total().saturating_sub(page.snapshots.len());
    if hidden > 0 {
        let _ = write!(text, "\n  and {hidden} more");
    }
    text
}

fn report(mut watcher: Watcher, tracker: &Tracker, finished: &AtomicBool) -> std::io::Result<()> {
    loop {
        // Read before the feed: changes made before the end are in the feed by then.
        let last = finished.load(Ordering::Acquire);
        while let Some(item) = watcher.next_deadline(Instant::now() + REDRAW) {
            match item {
                FeedItem::Change(change) => {
                    if let ChangeKind::Transition {
                        from,
                        to,
                        time_in_from,
                    } = change.kind
                    {
                        let message = message(tracker, &change.workspace_id, to);
                        let lasted = crate::values::rounded(time_in_from);
                        output::try_line(format_args!(
                            "{}: {from} -> {to} after {lasted}{message}",
                            change.workspace_id
                        ))?;
                    }
                }
                FeedItem::Resync { .. } => {
                    output::try_line("(states moved faster than they could be shown)")?;
                }
            }
        }
        if last {
            return Ok(());
        }
    }
}

/// The message of the state, where the workspace is still in it.
fn message(tracker: &Tracker, id: &str, state: State) -> String {
    tracker
        .snapshot(id)
        .filter(|snapshot| snapshot.state() == state && state != State::Ready)
        .map(|snapshot| format!(": {}", snapshot.message()))
        .unwrap_or_default()
}
