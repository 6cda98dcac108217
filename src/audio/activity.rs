//! Voice activity detection: [`Speech`] → [`VoiceActivity`], and removal of everything except speech.

use std::iter::once;
use std::ops::Range;

use earshot::Detector;
use models::mel::SAMPLE_RATE;

use crate::audio::speech::{Speech, quantise};
use crate::options::FPS;
use crate::options::FrameRange;

/// Samples per frame of the detector: 16 ms.
const FRAME: usize = 256;
const FRAME_SECONDS: f64 = FRAME as f64 / SAMPLE_RATE as f64;
/// Score above which a frame is certainly speech; noise and breath have lower scores.
const CERTAIN_SCORE: f32 = 0.7;
/// Minimum score of frames adjacent to certain speech that belong to it.
const LIKELY_SCORE: f32 = 0.5;
/// Minimum number of frames of speech: 48 ms. Clicks are shorter.
const MIN_SPEECH_FRAMES: usize = 3;
/// Minimum duration of a pause in seconds. In shorter pauses the mouth hardly closes, and two transitions
/// would be more visible than the generated mouth.
const MIN_PAUSE_SECONDS: f64 = 0.5;
/// Seconds before speech in which the strength rises: the mouth opens before the sound.
const LEAD_IN: f64 = 0.16;
/// Seconds after speech in which the strength falls: the detector misses the faint ends of words.
const HANG_OVER: f64 = 0.24;
/// RMS below which a frame is silent regardless of its score: -72 dB, 8 steps of a 16-bit sample.
const SILENCE_RMS: f32 = 8.0 / 32768.0;
/// RMS of the loud frames after normalisation: the detector misses much quieter speech.
const TARGET_RMS: f32 = 0.1;
/// Maximum gain for quiet recordings: 40 dB.
const MAX_GAIN: f32 = 100.0;
/// Length in samples of the fades at the edges of silence: 10 ms, to avoid clicks.
const FADE: usize = SAMPLE_RATE / 100;

/// The intervals of a recording that contain speech.
///
/// Detected by `earshot`, a small recurrent network, with hysteresis and a minimum level.
#[derive(Debug, Clone, PartialEq)]
pub struct VoiceActivity {
    /// Intervals in seconds, ascending, with pauses of at least [`MIN_PAUSE_SECONDS`] between them.
    spoken: Vec<Range<f64>>,
    seconds: f64,
    /// Duration in model frames.
    frames: usize,
}

impl VoiceActivity {
    pub fn of(speech: &Speech) -> Self {
        let levels: Vec<f32> = speech.samples.chunks(FRAME).map(root_mean_square).collect();
        let gain = gain(&levels);
        let mut detector = Detector::default_boxed();
        let mut frame = [0f32; FRAME];
        let scores: Vec<f32> = speech
            .samples
            .chunks(FRAME)
            .chain(once(&[][..]))
            .map(|samples| {
                frame.fill(0.0);
                frame.iter_mut().zip(samples).for_each(|(to, x)| *to = (x * gain).clamp(-1.0, 1.0));
                detector.predict_f32(&frame)
            })
            .collect();
        // The detector's window has three frames and ends with the current one, so its score belongs to the
        // frame before.
        let scores: Vec<f32> =
            scores[1..].iter().zip(&levels).map(|(&s, &l)| if l < SILENCE_RMS { 0.0 } else { s }).collect();

        let seconds = speech.samples.len() as f64 / SAMPLE_RATE as f64;
        Self { spoken: without_short_pauses(runs(&scores), seconds), seconds, frames: speech.frames() }
    }

    /// Opacity of the generated mouth at a time in seconds: 1 during speech, 0 in silence, with smooth
    /// transitions before and after speech. Times outside the recording are clamped.
    pub fn strength(&self, seconds: f64) -> f32 {
        let time = seconds.clamp(0.0, self.seconds);
        let next = self.spoken.partition_point(|spoken| spoken.end < time);
        let after = self.spoken[..next].last().map_or(0.0, |last| 1.0 - (time - last.end) / HANG_OVER);
        let before = self.spoken.get(next).map_or(0.0, |next| 1.0 - (next.start - time) / LEAD_IN);
        // Rounded, so that times at the edges have exactly 0 or 1.
        let x = (after.max(before).clamp(0.0, 1.0) * 1e6).round() / 1e6;
        (x * x * (3.0 - 2.0 * x)) as f32
    }

    /// Ranges of model frames at which [`Self::strength`] is 0.
    pub fn silences(&self) -> Vec<FrameRange> {
        let mut silences = Vec::new();
        for frame in (0..self.frames).filter(|&frame| self.strength(frame as f64 / FPS as f64) == 0.0) {
            FrameRange::push(&mut silences, frame);
        }
        silences
    }

    /// Intervals between speech in seconds, without lead-in and hang-over.
    fn pauses(&self) -> impl Iterator<Item = Range<f64>> {
        let ends = once(0.0).chain(self.spoken.iter().map(|spoken| spoken.end + HANG_OVER));
        let starts = self.spoken.iter().map(|spoken| spoken.start - LEAD_IN).chain(once(self.seconds));
        ends.zip(starts).map(|(end, start)| end..start).filter(|pause| pause.start < pause.end)
    }
}

impl Speech {
    /// Replaces everything except speech by digital silence, with fades. `activity`: that of this recording.
    pub fn silenced(mut self, activity: &VoiceActivity) -> Self {
        let len = self.samples.len();
        for pause in activity.pauses() {
            let sample = |seconds: f64| ((seconds * SAMPLE_RATE as f64).round() as usize).min(len);
            let (start, end) = (sample(pause.start), sample(pause.end));
            // No fade at the start and at the end of the recording.
            let falls = if start == 0 { 0 } else { FADE };
            let rises = if end == len { 0 } else { FADE };
            for i in start..end {
                let kept = falls.saturating_sub(i + 1 - start).max(rises.saturating_sub(end - i));
                self.samples[i] = quantise(self.samples[i] * kept as f32 / FADE as f32);
            }
        }
        self
    }
}

fn root_mean_square(samples: &[f32]) -> f32 {
    (samples.iter().map(|x| x * x).sum::<f32>() / samples.len().max(1) as f32).sqrt()
}

/// Gain that raises the loud frames of a quiet recording (95th percentile of the non-silent ones) to
/// [`TARGET_RMS`].
fn gain(levels: &[f32]) -> f32 {
    let mut levels: Vec<f32> = levels.iter().copied().filter(|&level| level >= SILENCE_RMS).collect();
    levels.sort_by(f32::total_cmp);
    match levels.get(levels.len() * 19 / 20) {
        Some(loud) => (TARGET_RMS / loud).clamp(1.0, MAX_GAIN),
        None => 1.0,
    }
}

/// Ranges of speech frames: runs with at least [`LIKELY_SCORE`] throughout and [`CERTAIN_SCORE`] somewhere.
fn runs(scores: &[f32]) -> Vec<Range<usize>> {
    let mut end = 0;
    scores
        .chunk_by(|a, b| (*a >= LIKELY_SCORE) == (*b >= LIKELY_SCORE))
        .filter_map(|run| {
            end += run.len();
            let speech = run.len() >= MIN_SPEECH_FRAMES && run.iter().any(|&score| score >= CERTAIN_SCORE);
            speech.then_some(end - run.len()..end)
        })
        .collect()
}

/// Converts frames to seconds and fills short pauses between words and at the ends of the recording.
fn without_short_pauses(runs: Vec<Range<usize>>, seconds: f64) -> Vec<Range<f64>> {
    let mut spoken: Vec<Range<f64>> = Vec::new();
    for run in runs {
        let (start, end) = (run.start as f64 * FRAME_SECONDS, (run.end as f64 * FRAME_SECONDS).min(seconds));
        match spoken.last_mut() {
            Some(last) if start - last.end < MIN_PAUSE_SECONDS => last.end = end,
            None if start < MIN_PAUSE_SECONDS => spoken.push(0.0..end),
            _ => spoken.push(start..end),
        }
    }
    if let Some(last) = spoken.last_mut()
        && seconds - last.end < MIN_PAUSE_SECONDS
    {
        last.end = seconds;
    }
    spoken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speech(samples: Vec<f32>) -> Speech {
        let duration_seconds = samples.len() as f64 / 16_000.0;
        Speech { samples, duration_seconds, damaged: 0 }
    }

    fn activity(spoken: &[Range<f64>]) -> VoiceActivity {
        VoiceActivity { spoken: spoken.to_vec(), seconds: 6.0, frames: 150 }
    }

    #[test]
    fn silence_and_noise_are_silent() {
        let hiss = |i: usize| quantise(((i * 7919 % 2003) as f32 / 1001.5 - 1.0) * 0.05);
        for silent in
            [speech(vec![0.0; 32_000]), speech((0..32_000).map(hiss).collect()), speech(vec![0.0; 48])]
        {
            let activity = VoiceActivity::of(&silent);
            let last = silent.frames() - 1;
            assert_eq!(activity.silences(), [FrameRange { first: 0, last }]);
            assert!([-1.0, 0.0, 1.0, 2.0, 9.0].iter().all(|&t| activity.strength(t) == 0.0));
            assert!(silent.silenced(&activity).samples.iter().all(|&x| x == 0.0));
        }
    }

    #[test]
    fn strength_is_1_during_speech_and_changes_smoothly_around_it() {
        let activity = activity(&[2.0..3.0, 4.0..6.0]);
        for t in [2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0] {
            assert_eq!(activity.strength(t), 1.0, "{t}");
        }
        for t in [0.0, 1.8, 3.25, 3.8] {
            assert_eq!(activity.strength(t), 0.0, "{t}");
        }
        assert!((activity.strength(3.12) - 0.5).abs() < 1e-6);
        let frames: Vec<f32> = (0..150).map(|frame| activity.strength(f64::from(frame) / 25.0)).collect();
        assert!(frames.windows(2).all(|pair| (pair[0] - pair[1]).abs() < 0.4));
        let silences = activity.silences();
        assert_eq!(silences, [FrameRange { first: 0, last: 46 }, FrameRange { first: 81, last: 96 }]);
    }

    #[test]
    fn only_silence_is_replaced_and_without_clicks() {
        let all = speech(vec![0.5; 96_000]);
        assert_eq!(all.clone().silenced(&activity(&[0.0..6.0])).samples, all.samples);

        let samples = all.silenced(&activity(&[1.0..2.0, 4.0..6.0])).samples;
        // Speech with lead-in and hang-over is unchanged; the rest is silent except for the fades.
        let at = |seconds: f64| (seconds * 16_000.0) as usize;
        for kept in [at(0.84)..at(2.24), at(3.84)..at(6.0)] {
            assert!(samples[kept].iter().all(|&x| x == 0.5));
        }
        for silent in [0..at(0.83), at(2.25)..at(3.83)] {
            assert!(samples[silent.clone()].iter().all(|&x| x == 0.0), "{silent:?}");
        }
        let steps = samples.windows(2).map(|pair| (pair[0] - pair[1]).abs());
        assert!(steps.fold(0.0, f32::max) < 0.5 / 100.0);
        assert!(samples.iter().all(|&x| x == quantise(x)));
    }

    #[test]
    fn short_pauses_and_clicks_are_ignored() {
        let mut scores = vec![0.0f32; 200];
        scores[20..60].fill(0.8);
        // A click, then a run without a certain frame, then a word after a pause of 0.48 s.
        scores[70..72].fill(0.9);
        scores[75..80].fill(0.6);
        scores[90..100].fill(0.6);
        scores[95] = 0.7;
        assert_eq!(runs(&scores), [20..60, 90..100]);
        assert_eq!(without_short_pauses(runs(&scores), 3.2), [0.0..1.6]);
        scores.rotate_right(60);
        assert_eq!(without_short_pauses(runs(&scores), 3.2), [80.0 * 0.016..160.0 * 0.016]);
    }
}
