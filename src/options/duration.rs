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
//! where the three `playback_type`s stop. Those rows are this project's reading.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

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
    /// The number of frames of the output, for a video of `source_frames` and a voice that lasts
    /// `audio_frames` (rounded up to whole frames at the output's rate).
    ///
    /// A mode that the engine cannot compute yet is refused, but only where the lengths call for it.
    pub fn output_frames(&self, source_frames: usize, audio_frames: usize) -> Result<usize> {
        if audio_frames > source_frames {
            match self.audio_longer {
                AudioLonger::PingPong | AudioLonger::Loop | AudioLonger::Hold => Ok(audio_frames),
                AudioLonger::Cut => Ok(source_frames),
                AudioLonger::Slow => Err(Error::UnsupportedMode { mode: "slowing the video down (`remap`)" }),
            }
        } else if audio_frames < source_frames {
            match self.video_longer {
                VideoLonger::Trim => Ok(audio_frames),
                VideoLonger::PadSilence => Err(Error::UnsupportedMode {
                    mode: "padding the voice with silence (`silence`, `normal_reverse`)",
                }),
                VideoLonger::Speed => Err(Error::UnsupportedMode { mode: "speeding the video up (`remap`)" }),
            }
        } else {
            Ok(audio_frames)
        }
    }

    /// The source frame that is shown as frame `output`, for a video of `source_frames` ≥ 1.
    pub fn source_frame(&self, output: usize, source_frames: usize) -> usize {
        let last = source_frames.saturating_sub(1);
        if output <= last {
            return output;
        }
        match self.audio_longer {
            AudioLonger::PingPong => {
                let phase = output % (2 * source_frames.max(1));
                phase.min((2 * source_frames.max(1) - 1) - phase)
            }
            AudioLonger::Loop => output % source_frames.max(1),
            AudioLonger::Cut | AudioLonger::Hold | AudioLonger::Slow => last,
        }
    }

    /// Whether an output of `output_frames` shows frame `source` of `source_frames` more than once.
    pub fn shown_again(&self, source: usize, source_frames: usize, output_frames: usize) -> bool {
        if output_frames <= source_frames {
            return false;
        }
        match self.audio_longer {
            AudioLonger::PingPong => source + output_frames >= 2 * source_frames,
            AudioLonger::Loop => source + source_frames < output_frames,
            AudioLonger::Hold => source + 1 == source_frames,
            AudioLonger::Cut | AudioLonger::Slow => false,
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
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(Error::InvalidOption {
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
        let frames = policy.output_frames(source_frames, audio_frames).unwrap();
        (0..frames).map(|i| policy.source_frame(i, source_frames)).collect()
    }

    #[test]
    fn the_order_of_source_frames() {
        assert_eq!(order(LoopMode::PingPong.into(), 3, 8), [0, 1, 2, 2, 1, 0, 0, 1]);
        assert_eq!(order(LoopMode::Loop.into(), 3, 8), [0, 1, 2, 0, 1, 2, 0, 1]);
        assert_eq!(order(SyncMode::CutOff.into(), 3, 8), [0, 1, 2]);
        assert_eq!(order(SyncMode::Silence.into(), 3, 5), [0, 1, 2, 2, 2]);
        for policy in [SyncMode::Bounce, SyncMode::Loop, SyncMode::CutOff].map(SyncMode::policy) {
            assert_eq!(order(policy, 5, 3), [0, 1, 2]);
        }
        assert_eq!(order(LoopMode::PingPong.into(), 1, 3), [0, 0, 0]);
    }

    #[test]
    fn frames_that_are_shown_again_are_told_in_advance() {
        let policies = [LoopMode::PingPong.into(), LoopMode::Loop.into()];
        let policies =
            policies.into_iter().chain([SyncMode::CutOff, SyncMode::Silence].map(SyncMode::policy));
        for policy in policies {
            for source_frames in 1..12 {
                for audio_frames in (1..40).filter(|&n| policy.output_frames(source_frames, n).is_ok()) {
                    let order = order(policy, source_frames, audio_frames);
                    for source in 0..source_frames {
                        let again = order.iter().filter(|&&shown| shown == source).count() > 1;
                        let told = policy.shown_again(source, source_frames, order.len());
                        assert_eq!(told, again, "{policy:?}: {source} of {source_frames}, {audio_frames}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_mode_is_refused_only_where_the_lengths_call_for_it() {
        for policy in [SyncMode::Remap, SyncMode::Silence].map(SyncMode::policy) {
            assert_eq!(order(policy, 3, 3), [0, 1, 2]);
            assert!(policy.output_frames(4, 3).is_err());
        }
        let slow = SyncMode::Remap.policy().output_frames(3, 4).unwrap_err();
        assert!(slow.to_string().contains("remap"), "{slow}");
        assert!(PlaybackType::NormalReverse.policy().output_frames(3, 4).is_ok());
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
