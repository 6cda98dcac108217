//! Where somebody speaks: [`Speech`] -> [`VoiceActivity`], and speech with everything else taken out.

use std::iter::once;
use std::ops::Range;

use earshot::Detector;
use models::mel::SAMPLE_RATE;

use crate::audio::speech::{Speech, quantise};
use crate::options::FPS;
use crate::options::FrameRange;

/// Samples that the detector judges at once: 16 ms.
const FRAME: usize = 256;
const FRAME_SECONDS: f64 = FRAME as f64 / SAMPLE_RATE as f64;
/// The detector's score from which on it is surely a voice; hiss and breath stay below.
const SURE: f32 = 0.7;
/// The score down to which the sound around a sure voice still belongs to it.
const LIKELY: f32 = 0.5;
/// Frames that speech lasts for at least: 48 ms. A click is shorter.
const SHORTEST_SPEECH: usize = 3;
/// Seconds. In a shorter pause the mouth hardly closes, and changing to and fro would show more than it helps.
const SHORTEST_PAUSE: f64 = 0.5;
/// Seconds before speech within which strength rises: the mouth opens before it is heard.
const LEAD_IN: f64 = 0.16;
/// Seconds after speech within which strength falls: the detector misses the ends of words that fade away.
const HANG_OVER: f64 = 0.24;
/// Root mean square below which a frame is silent whatever the detector says: -72 dB, 8 steps of a 16-bit sample.
const SILENCE: f32 = 8.0 / 32768.0;
/// Root mean square of loud frames that the detector is given: it misses what is much quieter.
const LOUD: f32 = 0.1;
/// The most that a quiet recording is amplified for the detector: 40 dB.
const MOST_GAIN: f32 = 100.0;
/// Samples over which sound is faded before and after silence: 10 ms, so that there is no click.
const FADE: usize = SAMPLE_RATE / 100;

/// Where in a recording somebody speaks.
///
/// Decided by `earshot`, a small recurrent network, with hysteresis and a floor of energy.
#[derive(Debug, Clone, PartialEq)]
pub struct VoiceActivity {
    /// Seconds, ascending, with all pauses between them longer than [`SHORTEST_PAUSE`].
    spoken: Vec<Range<f64>>,
    seconds: f64,
    /// Frames of video that the recording lasts for.
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
        // The detector looks at three frames, the last of them the one that it was given: its score fits the one
        // before.
        let scores: Vec<f32> =
            scores[1..].iter().zip(&levels).map(|(&s, &l)| if l < SILENCE { 0.0 } else { s }).collect();

        let seconds = speech.samples.len() as f64 / SAMPLE_RATE as f64;
        Self { spoken: without_short_pauses(runs(&scores), seconds), seconds, frames: speech.frames() }
    }

    /// How much of the generated mouth to show at a time in seconds: 1 wherever somebody speaks, 0 in silence,
    /// smoothly from one to the other just before and just after speech. Times outside of the recording count as
    /// its first or last moment.
    pub fn strength(&self, seconds: f64) -> f32 {
        let time = seconds.clamp(0.0, self.seconds);
        let next = self.spoken.partition_point(|spoken| spoken.end < time);
        let after = self.spoken[..next].last().map_or(0.0, |last| 1.0 - (time - last.end) / HANG_OVER);
        let before = self.spoken.get(next).map_or(0.0, |next| 1.0 - (next.start - time) / LEAD_IN);
        // Rounded, so that a moment on an edge is wholly silent or wholly spoken.
        let x = (after.max(before).clamp(0.0, 1.0) * 1e6).round() / 1e6;
        (x * x * (3.0 - 2.0 * x)) as f32
    }

    /// Frames of the model, 25 a second, at which [`Self::strength`] is 0.
    pub fn silences(&self) -> Vec<FrameRange> {
        let mut silences = Vec::new();
        for frame in (0..self.frames).filter(|&frame| self.strength(frame as f64 / FPS as f64) == 0.0) {
            FrameRange::push(&mut silences, frame);
        }
        silences
    }

    /// The seconds between speech, without its lead-ins and hang-overs.
    fn pauses(&self) -> impl Iterator<Item = Range<f64>> {
        let ends = once(0.0).chain(self.spoken.iter().map(|spoken| spoken.end + HANG_OVER));
        let starts = self.spoken.iter().map(|spoken| spoken.start - LEAD_IN).chain(once(self.seconds));
        ends.zip(starts).map(|(end, start)| end..start).filter(|pause| pause.start < pause.end)
    }
}

impl Speech {
    /// With digital silence wherever nobody speaks, faded in and out. `activity`: of this sound.
    pub fn silenced(mut self, activity: &VoiceActivity) -> Self {
        let len = self.samples.len();
        for pause in activity.pauses() {
            let sample = |seconds: f64| ((seconds * SAMPLE_RATE as f64).round() as usize).min(len);
            let (start, end) = (sample(pause.start), sample(pause.end));
            // The recording may begin and end in silence at once.
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

/// What brings the loud frames of a quiet recording, all but one in twenty of those with sound, to [`LOUD`].
fn gain(levels: &[f32]) -> f32 {
    let mut levels: Vec<f32> = levels.iter().copied().filter(|&level| level >= SILENCE).collect();
    levels.sort_by(f32::total_cmp);
    match levels.get(levels.len() * 19 / 20) {
        Some(loud) => (LOUD / loud).clamp(1.0, MOST_GAIN),
        None => 1.0,
    }
}

/// Frames that are speech: runs that are likely enough throughout and sure somewhere.
fn runs(scores: &[f32]) -> Vec<Range<usize>> {
    let mut end = 0;
    scores
        .chunk_by(|a, b| (*a >= LIKELY) == (*b >= LIKELY))
        .filter_map(|run| {
            end += run.len();
            let speech = run.len() >= SHORTEST_SPEECH && run.iter().any(|&score| score >= SURE);
            speech.then_some(end - run.len()..end)
        })
        .collect()
}

/// To seconds. Pauses that are too short, between two words or at an end of the recording, become speech.
fn without_short_pauses(runs: Vec<Range<usize>>, seconds: f64) -> Vec<Range<f64>> {
    let mut spoken: Vec<Range<f64>> = Vec::new();
    for run in runs {
        let (start, end) = (run.start as f64 * FRAME_SECONDS, (run.end as f64 * FRAME_SECONDS).min(seconds));
        match spoken.last_mut() {
            Some(last) if start - last.end < SHORTEST_PAUSE => last.end = end,
            None if start < SHORTEST_PAUSE => spoken.push(0.0..end),
            _ => spoken.push(start..end),
        }
    }
    if let Some(last) = spoken.last_mut()
        && seconds - last.end < SHORTEST_PAUSE
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
    fn silence_and_hiss_are_silent_throughout() {
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
    fn strength_is_whole_in_speech_and_changes_softly_around_it() {
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
    fn only_silence_is_silenced_and_without_a_click() {
        let all = speech(vec![0.5; 96_000]);
        assert_eq!(all.clone().silenced(&activity(&[0.0..6.0])).samples, all.samples);

        let samples = all.silenced(&activity(&[1.0..2.0, 4.0..6.0])).samples;
        // Speech with its lead-in and hang-over stays as it is; the rest is silent but for the fades.
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
        // A click, then a run that is nowhere sure, then a word after a pause of 0.48 s.
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
