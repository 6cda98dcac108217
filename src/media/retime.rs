//! Frame rate conversion by timestamps, relative to the first frame, with the rounding of FFmpeg's `fps`
//! filter (nearest).

use ffmpeg_next::Rational;

use super::FRAME_RATE;
use crate::options::FrameRate;

/// Backward step in seconds (or forward step, for containers with discontinuities) that starts a new
/// timeline.
const DISCONTINUITY_SECONDS: i64 = 10;
/// Backward step in seconds that starts a new timeline in containers with discontinuities. Packets in
/// decoding order step back by a few frames.
const KNOWN_DISCONTINUITY_SECONDS: i64 = 1;

/// Converts the timestamps of a stream to the time since its first frame, across discontinuities.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    time_base: Rational,
    /// Default frame duration in ticks.
    frame_ticks: i64,
    /// Whether the container (for example MPEG-TS) may have discontinuities.
    jumps: bool,
    /// Offset from timestamps to times; set by the first frame.
    offset: Option<i64>,
    /// Largest end time of the frames so far.
    end: i64,
    broken: bool,
}

impl Timeline {
    pub(crate) fn new(time_base: Rational, frame_rate: f64, jumps: bool) -> Self {
        let ticks_per_second = f64::from(time_base.denominator()) / f64::from(time_base.numerator().max(1));
        let frame_rate = if frame_rate > 0.0 { frame_rate } else { f64::from(FRAME_RATE) };
        let frame_ticks = ((ticks_per_second / frame_rate).round() as i64).max(1);
        Self { time_base, frame_ticks, jumps, offset: None, end: 0, broken: false }
    }

    /// Sets time 0 to this timestamp, which is earlier than that of the first frame: the frames before it
    /// were lost.
    pub(crate) fn begin_at(&mut self, timestamp: i64) {
        self.offset = Some(timestamp.saturating_neg());
    }

    /// Time of a frame in ticks since the first one. A frame without timestamp directly follows its
    /// predecessor.
    pub(crate) fn time(&mut self, timestamp: Option<i64>, duration: i64) -> i64 {
        let duration = if duration > 0 { duration } else { self.frame_ticks };
        let time = match (timestamp, self.offset) {
            (None, _) => self.end,
            (Some(timestamp), None) => {
                self.offset = Some(timestamp.saturating_neg());
                0
            }
            (Some(timestamp), Some(offset)) => {
                let time = timestamp.saturating_add(offset);
                let ahead = self.ticks(DISCONTINUITY_SECONDS);
                let back = if self.jumps { self.ticks(KNOWN_DISCONTINUITY_SECONDS) } else { ahead };
                if time < self.end - back || (self.jumps && time > self.end + ahead) {
                    self.broken = true;
                    self.offset = Some(self.end.saturating_sub(timestamp));
                    self.end
                } else {
                    time
                }
            }
        };
        self.end = self.end.max(time.saturating_add(duration));
        time
    }

    /// End of the last frame in ticks.
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// Whether the timestamps had a discontinuity.
    pub(crate) fn broken(&self) -> bool {
        self.broken
    }

    /// The output frame nearest to a time, halves away from zero. Integer arithmetic: rounding errors do not
    /// accumulate.
    pub(crate) fn slot(&self, time: i64, rate: FrameRate) -> i64 {
        let [numerator, denominator] =
            [self.time_base.numerator(), self.time_base.denominator().max(1)].map(i128::from);
        let numerator = i128::from(time) * numerator * i128::from(rate.numerator());
        let denominator = denominator * i128::from(rate.denominator());
        let rounded = (2 * numerator.abs() + denominator) / (2 * denominator);
        i64::try_from(rounded * numerator.signum()).unwrap_or(i64::MAX)
    }

    pub(crate) fn seconds(&self, time: i64) -> f64 {
        time as f64 * f64::from(self.time_base)
    }

    fn ticks(&self, seconds: i64) -> i64 {
        seconds * i64::from(self.time_base.denominator()) / i64::from(self.time_base.numerator().max(1))
    }
}

/// Delays each frame until its duration is known.
#[derive(Debug)]
pub(crate) struct Retimer<T> {
    held: Option<T>,
    /// The next output frame.
    next: i64,
}

impl<T> Default for Retimer<T> {
    fn default() -> Self {
        Self { held: None, next: 0 }
    }
}

impl<T> Retimer<T> {
    /// Adds a frame for output frame `slot`. Returns the previous frame and the number of output frames that
    /// show it. A frame is dropped if its successor has the same slot.
    pub(crate) fn push(&mut self, slot: i64, frame: T) -> Option<(T, u64)> {
        let shown = self.release(slot);
        self.held = Some(frame);
        shown
    }

    /// Ends the video: the last frame is shown until `end`. The output has at least one frame.
    pub(crate) fn finish(&mut self, end: i64) -> Option<(T, u64)> {
        self.release(if self.next == 0 { end.max(1) } else { end })
    }

    fn release(&mut self, until: i64) -> Option<(T, u64)> {
        let held = self.held.take()?;
        let count = u64::try_from(until - self.next).unwrap_or(0);
        self.next = self.next.max(until);
        (count > 0).then_some((held, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which source frame every output frame shows.
    fn choice(timestamps: &[i64], time_base: (i32, i32), rate: f64) -> Vec<usize> {
        choice_at(FrameRate::MODEL, timestamps, time_base, rate)
    }

    fn choice_at(output: FrameRate, timestamps: &[i64], time_base: (i32, i32), rate: f64) -> Vec<usize> {
        let mut timeline = Timeline::new(Rational::new(time_base.0, time_base.1), rate, false);
        let mut retimer = Retimer::default();
        let mut shown = Vec::new();
        for (i, &timestamp) in timestamps.iter().enumerate() {
            let time = timeline.time(Some(timestamp), 0);
            shown.extend(retimer.push(timeline.slot(time, output), i));
        }
        shown.extend(retimer.finish(timeline.slot(timeline.end(), output)));
        shown.into_iter().flat_map(|(i, count)| std::iter::repeat_n(i, count as usize)).collect()
    }

    #[test]
    fn frames_at_25_per_second_pass_one_by_one() {
        let timestamps: Vec<i64> = (0..100).map(|i| 777 + i * 512).collect();
        assert_eq!(choice(&timestamps, (1, 12800), 25.0), (0..100).collect::<Vec<_>>());
        let early: Vec<i64> = timestamps.iter().map(|&timestamp| timestamp - 30_000).collect();
        assert_eq!(choice(&early, (1, 12800), 25.0), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn other_rates_keep_their_duration_and_their_time() {
        for rate in [1, 12, 16, 24, 30, 50, 60, 120] {
            let frames = 3 * rate;
            let shown = choice(&(0..frames).collect::<Vec<_>>(), (1, rate as i32), rate as f64);
            assert_eq!(shown.len(), 75, "{rate} frames a second");
            for (n, &source) in shown.iter().enumerate() {
                let late = n as f64 / 25.0 - source as f64 / rate as f64;
                let longest = (1.0 / rate as f64).max(0.04) + 0.0201;
                assert!((-0.0201..longest).contains(&late), "{rate}: frame {n} shows {source}");
            }
        }
    }

    #[test]
    fn ten_minutes_at_a_fractional_rate_do_not_drift() {
        for (numerator, denominator) in [(24_000, 1001), (30_000, 1001), (60_000, 1001), (240, 1)] {
            let rate = FrameRate::new(numerator, denominator).unwrap();
            let frames = (600.0 * rate.as_f64()) as i64;
            let all: Vec<usize> = (0..frames as usize).collect();
            let exact: Vec<i64> = (0..frames).map(|i| i * i64::from(denominator)).collect();
            assert!(choice_at(rate, &exact, (1, numerator as i32), rate.as_f64()) == all, "{rate}");
            // Matroska counts milliseconds.
            let rounded: Vec<i64> =
                (0..frames).map(|i| (i as f64 * 1000.0 / rate.as_f64()).round() as i64).collect();
            assert!(choice_at(rate, &rounded, (1, 1000), rate.as_f64()) == all, "{rate} in milliseconds");
        }
    }

    #[test]
    fn a_lost_beginning_is_filled_with_the_first_frame() {
        let mut timeline = Timeline::new(Rational::new(1, 25), 25.0, false);
        timeline.begin_at(100);
        let mut retimer = Retimer::default();
        let slot = |timestamp| timeline.slot(timeline.clone().time(Some(timestamp), 1), FrameRate::MODEL);
        assert_eq!(retimer.push(slot(103), 'a'), None);
        assert_eq!(retimer.push(slot(104), 'b'), Some(('a', 4)));
        assert_eq!(retimer.finish(slot(105)), Some(('b', 1)));
    }

    #[test]
    fn variable_rate_follows_the_timestamps() {
        // milliseconds: a still of 120 ms, two frames in one slot, then 40 ms steps
        assert_eq!(choice(&[0, 120, 130, 160, 200], (1, 1000), 25.0), [0, 0, 0, 2, 3, 4]);
    }

    #[test]
    fn one_frame_of_any_rate_is_one_frame() {
        assert_eq!(choice(&[0], (1, 120), 120.0), [0]);
        assert_eq!(choice(&[5], (1, 25), 25.0), [0]);
    }

    #[test]
    fn a_concatenated_transport_stream_continues() {
        let mut timeline = Timeline::new(Rational::new(1, 25), 25.0, true);
        let times: Vec<i64> = (100..150).chain(100..150).map(|t| timeline.time(Some(t), 1)).collect();
        assert_eq!(times, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_discontinuity_is_bridged() {
        let mut timeline = Timeline::new(Rational::new(1, 25), 25.0, true);
        let times: Vec<i64> =
            [0, 1, 2, 90_000, 90_001, 0, 1].iter().map(|&t| timeline.time(Some(t), 1)).collect();
        assert_eq!(times, [0, 1, 2, 3, 4, 5, 6]);
        assert!(timeline.broken());
    }
}
