//! Remaining time of a phase: measured from its own progress, given as bounds, and only
//! when it is known with confidence.
//!
//! The phase so far is divided into intervals. The mean rate over the whole phase and the
//! recent mean rate give the bounds: the slower one the upper, the faster one the lower.
//! Both are widened according to the noise of the intervals (see [`Measured::eta`]).

use std::time::Duration;

/// The shortest time between two points: slightly less than the 250 ms at which samples are
/// normally taken, so that each of them counts.
pub(crate) const SPACING: Duration = Duration::from_millis(200);
/// At this many points every other one is dropped and the spacing doubles, so that a phase
/// of any length is covered evenly.
const POINTS: usize = 64;
/// An early estimate is made after this many seconds …
const EARLY_AFTER_SECONDS: f64 = 0.6;
/// … and this many intervals, all of them with progress.
const EARLY_INTERVALS: usize = 3;
/// An early estimate reaches at most this multiple of the time measured, so it only covers short phases.
const EARLY_REACH: f64 = 6.0;
/// Early widening of both bounds, divided by the seconds measured: a rate measured this
/// briefly may well halve.
const EARLY_UNSEEN: f64 = 0.6;
/// A full estimate is made after this many seconds …
const CONFIDENT_AFTER_SECONDS: f64 = 2.0;
/// … this many intervals …
const CONFIDENT_INTERVALS: usize = 8;
/// … and this many of them with progress.
const CONFIDENT_MOVES: usize = 5;
/// No estimate while the bounds would be widened by more than a factor of 1 + this.
const WIDEST: f64 = 1.5;
/// Widening of both bounds even for a rate without noise.
const NARROWEST: f64 = 0.05;
/// Widening of both bounds, divided by the root of the seconds measured: a short measurement
/// does not show changes slower than itself.
const UNSEEN: f64 = 0.4;
/// Width of the bounds in standard deviations.
const SAFETY: f64 = 3.0;
/// Noise is measured in blocks of up to this many intervals …
const LONGEST_BLOCK: usize = 8;
/// … if there are at least this many blocks.
const BLOCKS: usize = 5;

/// The remaining time, as bounds that are expected to contain the real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eta {
    /// It is unlikely to take less.
    pub low: Duration,
    /// It is unlikely to take more.
    pub high: Duration,
    /// What the estimate is based on.
    pub basis: Basis,
}

/// What an [`Eta`] is based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Basis {
    /// The rate measured in this phase.
    Rate,
}

impl Basis {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Basis::Rate => "rate",
        }
    }
}

/// Points of a phase, and the measurement made from them.
#[derive(Debug, Clone)]
pub(crate) struct Estimator {
    spacing: Duration,
    points: Vec<Point>,
}

/// Result of a sample.
pub(crate) enum Sample {
    /// The sample was ignored; the previous measurement stays valid.
    TooEarly,
    /// The sample was taken; this is the measurement from now on, if any.
    Taken(Option<Measured>),
}

#[derive(Debug, Clone, Copy)]
struct Point {
    seconds: f64,
    done: f64,
}

/// The measurement up to the last point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// Mean rate over the whole phase, per second.
    pub(crate) rate: f64,
    slow: f64,
    fast: f64,
    /// Standard deviation of an interval's rate, as a multiple of the mean rate.
    noise: f64,
    intervals: f64,
    seconds: f64,
    interval_seconds: f64,
    confidence: Confidence,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Confidence {
    None,
    /// Only for a near end.
    Early,
    Full,
}

impl Estimator {
    pub(crate) fn new(now: Duration) -> Self {
        let mut points = Vec::with_capacity(POINTS);
        points.push(Point {
            seconds: now.as_secs_f64(),
            done: 0.0,
        });
        Self {
            spacing: SPACING,
            points,
        }
    }

    /// Takes a point if it is due, and returns the measurement from then on.
    #[expect(
        clippy::cast_precision_loss,
        reason = "progress beyond 2^53 may be off by a few units"
    )]
    pub(crate) fn sample(&mut self, now: Duration, done: u64) -> Sample {
        let point = Point {
            seconds: now.as_secs_f64(),
            done: done as f64,
        };
        let last = self.points.last().copied().unwrap_or(point);
        if point.seconds - last.seconds < self.spacing.as_secs_f64() * 0.99 {
            return Sample::TooEarly;
        }
        if point.done < last.done {
            // Set back: the old points do not predict what follows.
            self.points.clear();
            self.spacing = SPACING;
        }
        self.points.push(point);
        if self.points.len() >= POINTS {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
            self.spacing *= 2;
        }
        Sample::Taken(self.measure())
    }

    fn measure(&self) -> Option<Measured> {
        let first = self.points.first()?;
        let last = self.points.last()?;
        let seconds = last.seconds - first.seconds;
        let intervals = self.points.len() - 1;
        let rate = rate_between(first, last)?;
        let moves = self.points.windows(2).filter(|pair| match pair {
            [from, to] => to.done > from.done,
            _ => false,
        });
        let moves = moves.count();
        let count = u32::try_from(intervals).map_or(f64::MAX, f64::from);
        let late = intervals.div_ceil(4).max(4).min(intervals);
        let late = self.points.get(intervals - late)?;
        let lately = rate_between(late, last)?;
        Some(Measured {
            rate,
            slow: rate.min(lately),
            fast: rate.max(lately),
            noise: self.noise(rate),
            intervals: count,
            seconds,
            interval_seconds: seconds / count,
            confidence: Confidence::of(seconds, intervals, moves),
        })
    }

    /// The standard deviation of the rate of an interval, as a multiple of the mean. If
    /// intervals are independent, the noise of blocks of them is that divided by the root of
    /// their length. It is more if slow and fast intervals come in runs. The largest is used.
    fn noise(&self, rate: f64) -> f64 {
        if rate <= 0.0 {
            return 0.0;
        }
        let intervals = self.points.len() - 1;
        let lengths = (1..=LONGEST_BLOCK).filter(|n| n.is_power_of_two());
        let variances = lengths
            .filter(|n| *n == 1 || intervals / n >= BLOCKS)
            .map(|n| self.variance(rate, n));
        variances.fold(0.0, f64::max).sqrt() / rate
    }

    /// The variance of an interval's rate, computed from blocks of `length`.
    fn variance(&self, rate: f64, length: usize) -> f64 {
        let (mut squares, mut seconds, mut blocks) = (0.0, 0.0, 0.0);
        let ends = self.points.iter().step_by(length);
        for (from, to) in ends.clone().zip(ends.skip(1)) {
            let off = rate_between(from, to).unwrap_or(0.0) - rate;
            squares += off * off * (to.seconds - from.seconds);
            seconds += to.seconds - from.seconds;
            blocks += 1.0;
        }
        if seconds <= 0.0 {
            return 0.0;
        }
        let length = u32::try_from(length).map_or(1.0, f64::from);
        squares / seconds * blocks / f64::max(blocks - 1.0, 1.0) * length
    }
}

impl Confidence {
    fn of(seconds: f64, intervals: usize, moves: usize) -> Self {
        let full = seconds >= CONFIDENT_AFTER_SECONDS * 0.99
            && intervals >= CONFIDENT_INTERVALS
            && moves >= CONFIDENT_MOVES;
        let early = seconds >= EARLY_AFTER_SECONDS * 0.99
            && intervals >= EARLY_INTERVALS
            && moves == intervals;
        match (full, early) {
            (true, _) => Self::Full,
            (false, true) => Self::Early,
            (false, false) => Self::None,
        }
    }
}

fn rate_between(from: &Point, to: &Point) -> Option<f64> {
    let seconds = to.seconds - from.seconds;
    (seconds > 0.0).then(|| (to.done - from.done) / seconds)
}

impl Measured {
    /// The time that `remaining` units take, `since` after the last point; `None` if it is
    /// not known with confidence.
    ///
    /// The mean of k measured intervals and the mean of the n to come differ by a standard
    /// deviation of s·√(1/k + 1/n), s being that of one interval.
    #[expect(
        clippy::cast_precision_loss,
        reason = "progress beyond 2^53 may be off by a few units"
    )]
    pub(crate) fn eta(&self, remaining: u64, since: Duration) -> Option<Eta> {
        let stalled = since.as_secs_f64() > 4.0 * self.interval_seconds + 1.0;
        if self.slow <= 0.0 || remaining == 0 || stalled {
            return None;
        }
        let remaining = remaining as f64;
        let (reach, unseen, safety) = match self.confidence {
            Confidence::None => return None,
            // So few intervals may look less noisy than they are.
            Confidence::Early => (
                EARLY_REACH * self.seconds,
                EARLY_UNSEEN / self.seconds,
                SAFETY * (1.0 + 2.0 / (self.intervals - 1.0)),
            ),
            Confidence::Full => (f64::INFINITY, UNSEEN / self.seconds.sqrt(), SAFETY),
        };
        if remaining / self.slow > reach {
            return None;
        }
        let to_come = (remaining / self.rate / self.interval_seconds).max(0.25);
        let doubt = NARROWEST
            + unseen
            + safety * self.noise * (1.0 / self.intervals + 1.0 / to_come).sqrt();
        // Close to the end the doubt concerns fractions of an interval, which the slack covers.
        if doubt > WIDEST && to_come > 2.0 {
            return None;
        }
        let slack = self.interval_seconds;
        let low = remaining / (self.fast * (1.0 + doubt)) - slack;
        let high = remaining / self.slow * (1.0 + doubt) + slack;
        Some(Eta {
            low: Duration::try_from_secs_f64(low.max(0.0)).ok()?,
            high: Duration::try_from_secs_f64(high).ok()?,
            basis: Basis::Rate,
        })
    }
}
