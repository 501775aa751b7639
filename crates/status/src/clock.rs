//! Sources of time: the wall clock for display, the monotonic clock for
//! measurement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// A source of time. It is read while a status is locked, so it must not call the tracker.
pub trait Clock: Send + Sync + 'static {
    /// The time for display. It may jump, also backwards.
    fn wall(&self) -> SystemTime;

    /// The time for measurement, since any fixed origin. It never goes backwards.
    fn monotonic(&self) -> Duration;
}

/// The clocks of the operating system.
///
/// The wall clock is read every 100 ms. In between, its time is the monotonic clock plus the offset measured then,
/// which saves one clock read per change. So a wall clock that is set is noticed within 100 ms, and the time shown
/// is exact to 10 µs.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// How long a measured offset is valid.
const AHEAD_COUNTS_NANOS: u64 = 100_000_000;

/// The offset is not measured from clock reads further apart than this: the thread was preempted in between.
const MAX_APART_NANOS: u64 = 10_000;

/// Offset of the wall clock from the monotonic clock.
struct Ahead {
    /// The offset, wrapping.
    nanos: AtomicU64,
    /// Monotonic time until which the offset is valid; 0 before the first measurement.
    until_nanos: AtomicU64,
    /// A thread is measuring. Others do not store: an older measurement must not replace a newer one.
    measuring: AtomicBool,
}

static AHEAD: Ahead = Ahead::new();

impl Ahead {
    const fn new() -> Self {
        Self {
            nanos: AtomicU64::new(0),
            until_nanos: AtomicU64::new(0),
            measuring: AtomicBool::new(false),
        }
    }

    #[inline]
    fn now(&self, monotonic: impl Fn() -> u64, wall: impl Fn() -> WallNanos) -> Moment {
        let monotonic_nanos = monotonic();
        if monotonic_nanos >= self.until_nanos.load(Ordering::Acquire) {
            return self.measure(monotonic, wall);
        }
        let ahead = self.nanos.load(Ordering::Relaxed);
        Moment {
            wall: WallNanos(monotonic_nanos.wrapping_add(ahead)),
            monotonic_nanos,
        }
    }

    #[cold]
    fn measure(&self, monotonic: impl Fn() -> u64, wall: impl Fn() -> WallNanos) -> Moment {
        let is_alone = !self.measuring.swap(true, Ordering::Acquire);
        let before = monotonic();
        let wall = wall();
        let monotonic_nanos = monotonic();
        if is_alone {
            if monotonic_nanos.saturating_sub(before) <= MAX_APART_NANOS {
                let ahead = wall.0.wrapping_sub(before);
                self.nanos.store(ahead, Ordering::Relaxed);
                let until = monotonic_nanos.saturating_add(AHEAD_COUNTS_NANOS);
                self.until_nanos.store(until, Ordering::Release);
            }
            self.measuring.store(false, Ordering::Release);
        }
        Moment {
            wall,
            monotonic_nanos,
        }
    }
}

impl SystemClock {
    #[inline]
    fn now() -> Moment {
        AHEAD.now(Self::monotonic_nanos, Self::wall_nanos)
    }

    #[cfg(target_os = "linux")]
    fn wall_nanos() -> WallNanos {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let Ok(seconds) = u64::try_from(time.tv_sec) else {
            return WallNanos(0);
        };
        WallNanos(whole_nanos(seconds, time.tv_nsec))
    }

    /// The clock of `Instant`, without the arithmetic that costs as much as reading it.
    #[cfg(target_os = "linux")]
    #[inline]
    fn monotonic_nanos() -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        whole_nanos(time.tv_sec.unsigned_abs(), time.tv_nsec)
    }

    #[cfg(not(target_os = "linux"))]
    fn wall_nanos() -> WallNanos {
        WallNanos::from_system(SystemTime::now())
    }

    #[cfg(not(target_os = "linux"))]
    #[inline]
    fn monotonic_nanos() -> u64 {
        static ORIGIN: std::sync::LazyLock<std::time::Instant> =
            std::sync::LazyLock::new(std::time::Instant::now);
        nanos(ORIGIN.elapsed())
    }
}

#[cfg(target_os = "linux")]
#[inline]
fn whole_nanos(seconds: u64, nanos: i64) -> u64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanos.unsigned_abs())
}

impl Clock for SystemClock {
    fn wall(&self) -> SystemTime {
        Self::now().wall.to_system()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(Self::monotonic_nanos())
    }
}

/// A clock that only moves when it is advanced, for tests. Clones share the clock.
///
/// ```
/// use std::time::Duration;
/// use workspace_status::{ManualClock, Tracker};
///
/// let clock = ManualClock::new();
/// let tracker = Tracker::builder().clock(clock.clone()).build();
/// let status = tracker.get_or_create("a");
/// clock.advance(Duration::from_secs(5));
/// assert_eq!(status.time_in_current_state(), Duration::from_secs(5));
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock {
    hands: Arc<Mutex<Hands>>,
}

#[derive(Debug)]
struct Hands {
    wall: SystemTime,
    monotonic: Duration,
}

impl ManualClock {
    /// A clock at 2001-09-09 01:46:40 UTC.
    pub fn new() -> Self {
        Self {
            hands: Arc::new(Mutex::new(Hands {
                wall: UNIX_EPOCH + Duration::from_secs(1_000_000_000),
                monotonic: Duration::ZERO,
            })),
        }
    }

    /// Advances both clocks.
    pub fn advance(&self, by: Duration) {
        let mut hands = self.hands.lock();
        hands.wall += by;
        hands.monotonic += by;
    }

    /// Sets the wall clock alone, as an operator or a time server does.
    pub fn set_wall(&self, wall: SystemTime) {
        self.hands.lock().wall = wall;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> SystemTime {
        self.hands.lock().wall
    }

    fn monotonic(&self) -> Duration {
        self.hands.lock().monotonic
    }
}

/// A time on the wall clock in 8 bytes: nanoseconds since 1970, up to the year 2554. Times
/// outside are clamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WallNanos(pub(crate) u64);

impl WallNanos {
    pub(crate) fn from_system(time: SystemTime) -> Self {
        Self(nanos(
            time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO),
        ))
    }

    pub(crate) fn to_system(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.0)
    }
}

/// A duration in nanoseconds, at most 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(duration.subsec_nanos()))
}

/// The time on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) wall: WallNanos,
    pub(crate) monotonic_nanos: u64,
}

/// The clock of a tracker. The system's clock needs no virtual call: every change reads the clock.
#[derive(Clone)]
pub(crate) enum AnyClock {
    System,
    Other(Arc<dyn Clock>),
}

impl AnyClock {
    #[inline]
    pub(crate) fn now(&self) -> Moment {
        match self {
            AnyClock::System => SystemClock::now(),
            AnyClock::Other(clock) => Moment {
                wall: WallNanos::from_system(clock.wall()),
                monotonic_nanos: nanos(clock.monotonic()),
            },
        }
    }

    #[inline]
    pub(crate) fn monotonic_nanos(&self) -> u64 {
        match self {
            AnyClock::System => SystemClock::monotonic_nanos(),
            AnyClock::Other(clock) => nanos(clock.monotonic()),
        }
    }
}

impl Clock for AnyClock {
    fn wall(&self) -> SystemTime {
        match self {
            AnyClock::System => SystemClock.wall(),
            AnyClock::Other(clock) => clock.wall(),
        }
    }

    fn monotonic(&self) -> Duration {
        match self {
            AnyClock::System => SystemClock.monotonic(),
            AnyClock::Other(clock) => clock.monotonic(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_are_those_of_the_standard_library() {
        let apart = Duration::from_nanos(MAX_APART_NANOS);
        let before = (SystemTime::now() - apart, std::time::Instant::now());
        let first = (SystemClock.wall(), SystemClock.monotonic());
        let second = (SystemClock.wall(), SystemClock.monotonic());
        let after = (SystemTime::now() + apart, std::time::Instant::now());
        assert!(before.0 <= first.0 && second.0 <= after.0);
        let between = second.1.checked_sub(first.1).unwrap();
        assert!(between <= after.1.duration_since(before.1));
    }

    #[test]
    fn a_wall_clock_that_was_set_is_noticed_after_the_last_reading_expires() {
        let ahead = Ahead::new();
        let at = |monotonic: u64, wall: u64| {
            let moment = ahead.now(|| monotonic, || WallNanos(wall));
            (moment.monotonic_nanos, moment.wall.0)
        };
        assert_eq!(at(5, 1000), (5, 1000));
        assert_eq!(at(7, 9_000_000), (7, 1002));
        let over = 5 + AHEAD_COUNTS_NANOS;
        assert_eq!(at(over - 1, 1), (over - 1, 1000 + AHEAD_COUNTS_NANOS - 1));
        assert_eq!(at(over, 1), (over, 1));
        assert_eq!(at(over + 3, 9_000_000), (over + 3, 4));
    }

    #[test]
    fn clocks_that_were_read_too_far_apart_are_read_again() {
        let ahead = Ahead::new();
        let reads = std::cell::Cell::new(0);
        let slow = || {
            reads.set(reads.get() + 1);
            reads.get() * (MAX_APART_NANOS + 1)
        };
        assert_eq!(ahead.now(slow, || WallNanos(7)).wall, WallNanos(7));
        assert_eq!(ahead.now(slow, || WallNanos(8)).wall, WallNanos(8));
        assert_eq!(reads.get(), 6);
    }

    #[test]
    fn a_wall_time_keeps_its_nanoseconds_and_stops_at_the_borders() {
        let now = SystemTime::now();
        assert_eq!(WallNanos::from_system(now).to_system(), now);
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(WallNanos::from_system(before).to_system(), UNIX_EPOCH);
        assert_eq!(nanos(Duration::MAX), u64::MAX);
    }
}
