//! What happens when the voice and the video differ in length: one internal model, and the names that
//! the hosted APIs have for it.
//!
//! | name | voice longer | video longer |
//! | --- | --- | --- |
//! | `loop_mode` `pingpong`, `sync_mode` `bounce` | ping-pong | trim |
//! | `loop_mode` `loop`, `sync_mode` `loop` | loop | trim |
//! | `sync_mode` `cut_off`, `playback_type` `normal` | cut | trim |
//! | `sync_mode` `silence` | hold | pad with silence |
//! | `sync_mode` `remap` | slow down | speed up |
//! | `playback_type` `normal_reverse` | ping-pong | pad with silence |
//! | `playback_type` `normal_reverse_by_audio` | ping-pong | trim |
//!
//! Vendors leave two things open: what `silence` shows after the video's end (here its last frame), and
//! where the three `playback_type`s stop. Those rows are this project's reading. A still image has no length: it
//! lasts as long as the voice, whatever the mode.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::options::{InvalidOption, Result};

/// What the picture does where the voice goes on after the video has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AudioLonger {
    /// Forward, backward, forward …; the first and the last frame show twice, as in the original.
    #[default]
    PingPong,
    /// From the first frame again.
    Loop,
    /// The output ends with the video.
    Cut,
    /// The last frame stays.
    Hold,
    /// The video is slowed down to the voice's length.
    Slow,
}

/// What happens where the video goes on after the voice has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VideoLonger {
    /// The output ends with the voice.
    #[default]
    Trim,
    /// The voice is followed by silence.
    PadSilence,
    /// The video is sped up to the voice's length.
    Speed,
}

/// Both halves; the default is the original's: ping-pong and trim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DurationPolicy {
    pub audio_longer: AudioLonger,
    pub video_longer: VideoLonger,
}

impl DurationPolicy {
    /// What holds for a still image under any mode.
    pub const STILL: Self = Self { audio_longer: AudioLonger::Hold, video_longer: VideoLonger::Trim };

    /// The number of frames of the output, for a video of `source_frames` and a voice that lasts
    /// `audio_frames`, both at the output's rate (the voice rounded up to whole frames).
    pub fn output_frames(&self, source_frames: usize, audio_frames: usize) -> usize {
        match audio_frames.cmp(&source_frames) {
            Ordering::Equal => audio_frames,
            Ordering::Greater => match self.audio_longer {
                AudioLonger::PingPong | AudioLonger::Loop | AudioLonger::Hold | AudioLonger::Slow => {
                    audio_frames
                }
                AudioLonger::Cut => source_frames,
            },
            Ordering::Less => match self.video_longer {
                VideoLonger::Trim | VideoLonger::Speed => audio_frames,
                VideoLonger::PadSilence => source_frames,
            },
        }
    }

    /// The source frame that is shown as frame `output` of [`Self::output_frames`], for a video of
    /// `source_frames` ≥ 1.
    pub fn source_frame(&self, output: usize, source_frames: usize, audio_frames: usize) -> usize {
        let source_frames = source_frames.max(1);
        if self.changes_speed(source_frames, audio_frames) {
            // The source frame on the screen in the middle of the output frame's time.
            return (2 * output + 1) * source_frames / (2 * audio_frames);
        }
        let last = source_frames - 1;
        if output <= last {
            return output;
        }
        match self.audio_longer {
            AudioLonger::PingPong => {
                let phase = output % (2 * source_frames);
                phase.min(2 * source_frames - 1 - phase)
            }
            AudioLonger::Loop => output % source_frames,
            AudioLonger::Cut | AudioLonger::Hold | AudioLonger::Slow => last,
        }
    }

    /// Whether the video is slowed down or sped up. Its length must then be known from the start.
    pub fn changes_speed(&self, source_frames: usize, audio_frames: usize) -> bool {
        match audio_frames.cmp(&source_frames) {
            Ordering::Equal => false,
            Ordering::Greater => self.audio_longer == AudioLonger::Slow,
            Ordering::Less => self.video_longer == VideoLonger::Speed,
        }
    }

    /// Whether lengths can come together for which [`Self::changes_speed`].
    pub fn may_change_speed(&self) -> bool {
        self.audio_longer == AudioLonger::Slow || self.video_longer == VideoLonger::Speed
    }

    /// Whether frame `source` of `source_frames` is shown again after others were shown: it has to be kept.
    /// A frame that only stays on the screen is not.
    pub fn comes_back(&self, source: usize, source_frames: usize, audio_frames: usize) -> bool {
        if audio_frames <= source_frames {
            return false;
        }
        match self.audio_longer {
            AudioLonger::PingPong | AudioLonger::Loop if source_frames == 1 => false,
            // At the turn the last frame shows twice in a row; it comes back after the other one.
            AudioLonger::PingPong if source + 1 == source_frames => audio_frames >= 3 * source_frames,
            AudioLonger::PingPong => source + audio_frames >= 2 * source_frames,
            AudioLonger::Loop => source + source_frames < audio_frames,
            AudioLonger::Hold | AudioLonger::Cut | AudioLonger::Slow => false,
        }
    }
}

/// A vendor's word for a mode: its spelling in requests and on the command line, and what it means.
macro_rules! mode_names {
    ($(#[$doc:meta])* $name:ident, $option:literal, { $($(#[$vdoc:meta])* $variant:ident = $text:literal => ($audio:ident, $video:ident),)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every spelling that parses.
            pub const NAMES: &[&str] = &[$($text),+];

            pub fn policy(self) -> DurationPolicy {
                match self {
                    $(Self::$variant => DurationPolicy {
                        audio_longer: AudioLonger::$audio,
                        video_longer: VideoLonger::$video,
                    },)+
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidOption;

            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(InvalidOption::Value {
                        option: $option,
                        value: text.to_string(),
                        expected: format!("one of {}", Self::NAMES.join(", ")),
                    }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)+ })
            }
        }

        impl From<$name> for DurationPolicy {
            fn from(mode: $name) -> Self {
                mode.policy()
            }
        }
    };
}

mode_names! {
    /// `loop_mode` of fal and eachlabs.
    LoopMode, "loop_mode", {
        PingPong = "pingpong" => (PingPong, Trim),
        Loop = "loop" => (Loop, Trim),
    }
}

mode_names! {
    /// `sync_mode` of sync.so, and of wavespeed and fal in front of it.
    SyncMode, "sync_mode", {
        Bounce = "bounce" => (PingPong, Trim),
        Loop = "loop" => (Loop, Trim),
        CutOff = "cut_off" => (Cut, Trim),
        Silence = "silence" => (Hold, PadSilence),
        Remap = "remap" => (Slow, Speed),
    }
}

mode_names! {
    /// `playback_type` of JoggAI.
    PlaybackType, "playback_type", {
        Normal = "normal" => (Cut, Trim),
        NormalReverse = "normal_reverse" => (PingPong, PadSilence),
        NormalReverseByAudio = "normal_reverse_by_audio" => (PingPong, Trim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(policy: DurationPolicy, source_frames: usize, audio_frames: usize) -> Vec<usize> {
        let frames = policy.output_frames(source_frames, audio_frames);
        (0..frames).map(|i| policy.source_frame(i, source_frames, audio_frames)).collect()
    }

    /// Every name, with the order of source frames for a voice of 8, 4 and 2 frames over a video of 4.
    #[test]
    fn the_order_of_source_frames() {
        let ping_pong = &[0, 1, 2, 3, 3, 2, 1, 0][..];
        let around = &[0, 1, 2, 3, 0, 1, 2, 3][..];
        let all = &[0, 1, 2, 3][..];
        let trimmed = &[0, 1][..];
        let table: [(DurationPolicy, &[usize], &[usize]); 10] = [
            (DurationPolicy::default(), ping_pong, trimmed),
            (LoopMode::PingPong.into(), ping_pong, trimmed),
            (LoopMode::Loop.into(), around, trimmed),
            (SyncMode::Bounce.into(), ping_pong, trimmed),
            (SyncMode::Loop.into(), around, trimmed),
            (SyncMode::CutOff.into(), all, trimmed),
            (SyncMode::Silence.into(), &[0, 1, 2, 3, 3, 3, 3, 3], all),
            (SyncMode::Remap.into(), &[0, 0, 1, 1, 2, 2, 3, 3], &[1, 3]),
            (PlaybackType::Normal.into(), all, trimmed),
            (PlaybackType::NormalReverse.into(), ping_pong, all),
        ];
        for (policy, longer, shorter) in table {
            assert_eq!(order(policy, 4, 8), longer, "{policy:?}");
            assert_eq!(order(policy, 4, 4), all, "{policy:?}");
            assert_eq!(order(policy, 4, 2), shorter, "{policy:?}");
        }
        let by_audio = PlaybackType::NormalReverseByAudio.into();
        assert_eq!((order(by_audio, 4, 8), order(by_audio, 4, 2)), (ping_pong.to_vec(), trimmed.to_vec()));
        assert_eq!(order(LoopMode::PingPong.into(), 3, 8), [0, 1, 2, 2, 1, 0, 0, 1]);
        assert_eq!(order(LoopMode::PingPong.into(), 1, 3), [0, 0, 0]);
    }

    #[test]
    fn another_speed_shows_the_whole_video() {
        let remap = SyncMode::Remap.policy();
        for (source_frames, audio_frames) in [(3, 7), (7, 3), (100, 99), (99, 100), (1, 5), (5, 1)] {
            let order = order(remap, source_frames, audio_frames);
            assert_eq!(order.len(), audio_frames);
            assert!(order.is_sorted() && order.iter().all(|&source| source < source_frames), "{order:?}");
            // The first and the last frame of the output lie in the first and the last part of the video.
            let part = source_frames.div_ceil(audio_frames);
            assert!(order[0] < part && order[audio_frames - 1] + part >= source_frames, "{order:?}");
        }
    }

    #[test]
    fn frames_that_come_back_are_told_in_advance() {
        let policies = [LoopMode::PingPong.into(), LoopMode::Loop.into()];
        let modes = [SyncMode::CutOff, SyncMode::Silence, SyncMode::Remap].map(SyncMode::policy);
        for policy in policies.into_iter().chain(modes) {
            for source_frames in 1..12 {
                for audio_frames in 1..40 {
                    let order = order(policy, source_frames, audio_frames);
                    let mut shown: Vec<usize> = order.clone();
                    shown.dedup();
                    for source in 0..source_frames {
                        let again = shown.iter().filter(|&&s| s == source).count() > 1;
                        let told = policy.comes_back(source, source_frames, audio_frames);
                        assert_eq!(told, again, "{policy:?}: {source} of {source_frames}, {audio_frames}");
                    }
                }
            }
        }
    }

    #[test]
    fn names_parse_and_print_alike() {
        for name in SyncMode::NAMES {
            assert_eq!(name.parse::<SyncMode>().unwrap().to_string(), *name);
        }
        let message = "cutoff".parse::<SyncMode>().unwrap_err().to_string();
        assert!(message.contains("sync_mode") && message.contains("cut_off"), "{message}");
    }
}
