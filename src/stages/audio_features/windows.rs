//! Division of a recording into encoder windows, and the window of each row of features.

use std::ops::Range;

use models::whisper::windows;

/// Division of recordings that are longer than one encoder window (30 s). Shorter ones have a single window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Windows {
    /// Full windows that overlap by at least a third. A row is taken from the window whose centre is nearer,
    /// with a cross-fade between windows.
    #[default]
    Overlapping,
    /// Adjacent windows, the last one padded with zeros, as in the original. The features are discontinuous
    /// at the seams.
    EndToEnd,
}

/// Length of the cross-fade in rows of 20 ms.
const FADE_ROWS: usize = 50;

/// The windows of one recording.
#[derive(Debug)]
pub(super) struct WindowPlan {
    /// In mel frames, two per row.
    windows: Vec<Range<usize>>,
}

/// The window or windows from which a row of features is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RowSource {
    /// Number of the window.
    pub window: usize,
    /// Weight of the next window; 0 outside a cross-fade.
    pub next: f32,
}

impl WindowPlan {
    /// `mel_frames`: length of the recording; `window`: length of an encoder window in mel frames, an even
    /// number.
    pub fn new(mel_frames: usize, window: usize, kind: Windows) -> Self {
        // Half a row is dropped, as in the original.
        let even = mel_frames & !1;
        if kind == Windows::EndToEnd || even <= window {
            return Self { windows: windows(mel_frames, window).collect() };
        }
        let overlap = window / 3;
        let count = (even - overlap).div_ceil(window - overlap);
        // Windows start at even mel frames, so their rows coincide. The last one ends with the recording.
        let start = |i: usize| ((even - window) * i / (count - 1)) & !1;
        Self { windows: (0..count).map(|i| start(i)..start(i) + window).collect() }
    }

    /// Number of rows of the recording.
    pub fn rows(&self) -> usize {
        self.windows.last().map_or(0, |last| last.end / 2)
    }

    /// The mel frames of a window.
    pub fn mel_frames(&self, window: usize) -> Range<usize> {
        self.windows[window].clone()
    }

    /// First row of a window.
    pub fn first_row(&self, window: usize) -> usize {
        self.windows[window].start / 2
    }

    /// The source of `row` < [`Self::rows`].
    pub fn source(&self, row: usize) -> RowSource {
        let seams = self.windows.len() - 1;
        let window = (0..seams).take_while(|&seam| self.fade(seam).end <= row).count();
        if window == seams {
            return RowSource { window, next: 0.0 };
        }
        let fade = self.fade(window);
        let next = match row.checked_sub(fade.start) {
            Some(inside) => (inside as f32 + 0.5) / fade.len() as f32,
            None => 0.0,
        };
        RowSource { window, next }
    }

    /// Rows of the cross-fade between window `seam` and the next, in the middle of their overlap; empty if
    /// they do not overlap.
    fn fade(&self, seam: usize) -> Range<usize> {
        let (end, start) = (self.windows[seam].end / 2, self.windows[seam + 1].start / 2);
        let (middle, half) = ((start + end) / 2, FADE_ROWS.min((end - start) / 2) / 2);
        middle - half..middle + half
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(plan: &WindowPlan) -> Vec<(usize, usize)> {
        plan.windows.iter().map(|window| (window.start, window.end)).collect()
    }

    #[test]
    fn thirty_seconds_are_one_window_in_both_modes() {
        for mel_frames in [2, 3, 2999, 3000, 3001] {
            let plans = [Windows::Overlapping, Windows::EndToEnd].map(|kind| {
                let plan = WindowPlan::new(mel_frames, 3000, kind);
                (bounds(&plan), plan.rows(), plan.source(plan.rows() - 1))
            });
            assert_eq!(plans[0], plans[1], "{mel_frames}");
            assert_eq!(plans[0].1, mel_frames / 2);
        }
    }

    #[test]
    fn full_windows_are_spread_over_the_recording() {
        let plan = |mel_frames| bounds(&WindowPlan::new(mel_frames, 3000, Windows::Overlapping));
        assert_eq!(plan(3002), [(0, 3000), (2, 3002)]);
        assert_eq!(plan(4800), [(0, 3000), (1800, 4800)]);
        assert_eq!(plan(5000), [(0, 3000), (2000, 5000)]);
        assert_eq!(plan(5003), [(0, 3000), (1000, 4000), (2002, 5002)]);
    }

    #[test]
    fn every_row_is_inside_the_windows_it_is_read_from() {
        for mel_frames in (3002..9000).step_by(251).chain([60_000]) {
            for kind in [Windows::Overlapping, Windows::EndToEnd] {
                let plan = WindowPlan::new(mel_frames, 3000, kind);
                assert_eq!(plan.rows(), mel_frames / 2);
                let mut before = RowSource { window: 0, next: 0.0 };
                for row in 0..plan.rows() {
                    let source = plan.source(row);
                    let covers = |window: usize| plan.mel_frames(window).contains(&(2 * row));
                    assert!(covers(source.window), "row {row} of {mel_frames}, {kind:?}");
                    assert!(source.next == 0.0 || covers(source.window + 1), "row {row} of {mel_frames}");
                    assert!((0.0..1.0).contains(&source.next));
                    let step = (source.window as f32 + source.next) - (before.window as f32 + before.next);
                    match kind {
                        Windows::Overlapping => assert!((0.0..=0.021).contains(&step), "{step} at {row}"),
                        Windows::EndToEnd => assert!(step == 0.0 || step == 1.0 && row % 1500 == 0),
                    }
                    before = source;
                }
            }
        }
    }
}
