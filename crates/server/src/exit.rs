//! The exit codes, which scripts rest on.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or what was waited for came true.
    Done,
    /// What was asked failed: the workspace entered a state that fails the wait, an event is not valid, a name is unknown.
    Failed,
    /// What was waited for did not come true in time.
    TimedOut,
    /// No engine answered at the URL, or not in a way that says anything of the question.
    Unanswered,
    /// Told twice to stop: ended at once, as shells say it of SIGINT.
    Interrupted,
    /// Flags, variables or the configuration file cannot be used; sysexits' `EX_USAGE`, for 2 means "timed out".
    Usage,
}

/// Shown at the end of the help.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0   done, or what was waited for came true
  1   failed: the workspace failed, an event is not valid, a name is unknown
  2   timed out
  3   no engine answered at the URL
  64  flags, variables or configuration cannot be used
  130 told to stop a second time, and ended at once";

impl Exit {
    /// The number that the process ends with.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::TimedOut => 2,
            Self::Unanswered => 3,
            Self::Usage => 64,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
