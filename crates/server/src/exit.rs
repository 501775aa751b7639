//! The exit codes, which scripts rely on.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or the awaited condition was met.
    Done,
    /// The request failed: the workspace entered a state that fails the wait, an event is not valid, a name is unknown.
    Failed,
    /// The awaited condition was not met in time.
    TimedOut,
    /// No engine answered at the URL, or the answer could not be used.
    Unanswered,
    /// A second signal ended the process at once; the number is the shell's code for SIGINT.
    Interrupted,
    /// Flags, variables or the configuration file cannot be used; sysexits' `EX_USAGE`, because 2 means "timed out".
    Usage,
}

/// Shown at the end of the help.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0   done, or the awaited condition was met
  1   failed: the workspace failed, an event is not valid, a name is unknown
  2   timed out
  3   no engine answered at the URL
  64  flags, variables or configuration cannot be used
  130 ended at once by a second signal to stop";

impl Exit {
    /// The exit code of the process.
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
