//! Policies for voice and video of different lengths, and the names of these policies in the hosted APIs.
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
//! The vendors do not document what `silence` shows after the end of the video (here its last frame) nor
//! where the three `playback_type`s stop; those rows are this project's interpretation. A still image has no
//! length: in every mode it lasts as long as the voice.

use std::cmp::Ordering;

use crate::options::named_enum::named_enum;

named_enum! {
    /// What the picture shows if the voice is longer than the video.
    #[derive(Default)]
    pub enum AudioLonger: "audio_longer" {
        /// Forward, backward, forward …; the first and the last frame are shown twice, as in the original.
        #[default]
        PingPong = "pingpong",
        /// The video starts again.
        Loop = "loop",
        /// The output ends with the video.
        Cut = "cut",
        /// The last frame is repeated.
        Hold = "hold",
        /// The video is slowed down to the length of the voice.
        Slow = "slow",
    }
}

named_enum! {
    /// What happens if the video is longer than the voice.
    #[derive(Default)]
    pub enum VideoLonger: "video_longer" {
        /// The output ends with the voice.
        #[default]
        Trim = "trim",
        /// The voice is padded with silence.
        PadSilence = "pad_silence",
        /// The video is sped up to the length of the voice.
        Speed = "speed",
    }
}

/// Policy for both cases. The default is that of the original: ping-pong and trim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DurationPolicy {
    pub audio_longer: AudioLonger,
    pub video_longer: VideoLonger,
}

impl DurationPolicy {
    /// The policy for still images in every mode.
    pub const STILL: Self = Self { audio_longer: AudioLonger::Hold, video_longer: VideoLonger::Trim };

    /// Number of output frames for a video of `source_frames` and a voice of `audio_frames`, both at the rate
    /// of the output (the voice rounded up to whole frames).
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

    /// The source frame that is shown as output frame `output` < [`Self::output_frames`]. `source_frames` ≥
    /// 1.
    pub fn source_frame(&self, output: usize, source_frames: usize, audio_frames: usize) -> usize {
        let source_frames = source_frames.max(1);
        if self.changes_speed(source_frames, audio_frames) {
            // The source frame at the middle of the output frame's interval.
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

    /// Whether the video is slowed down or sped up, which requires its length in advance.
    pub fn changes_speed(&self, source_frames: usize, audio_frames: usize) -> bool {
        match audio_frames.cmp(&source_frames) {
            Ordering::Equal => false,
            Ordering::Greater => self.audio_longer == AudioLonger::Slow,
            Ordering::Less => self.video_longer == VideoLonger::Speed,
        }
    }

    /// Whether [`Self::changes_speed`] for some pair of lengths.
    pub fn may_change_speed(&self) -> bool {
        self.audio_longer == AudioLonger::Slow || self.video_longer == VideoLonger::Speed
    }

    /// Whether source frame `source` of `source_frames` is shown again after other frames and must be stored.
    /// A frame that is only repeated in a row need not be.
    pub fn is_reused(&self, source: usize, source_frames: usize, audio_frames: usize) -> bool {
        if audio_frames <= source_frames {
            return false;
        }
        match self.audio_longer {
            AudioLonger::PingPong | AudioLonger::Loop if source_frames == 1 => false,
            // At the turn the last frame is shown twice in a row; it is reused only after the next turn.
            AudioLonger::PingPong if source + 1 == source_frames => audio_frames >= 3 * source_frames,
            AudioLonger::PingPong => source + audio_frames >= 2 * source_frames,
            AudioLonger::Loop => source + source_frames < audio_frames,
            AudioLonger::Hold | AudioLonger::Cut | AudioLonger::Slow => false,
        }
    }
}

named_enum! {
    /// `loop_mode` of fal and eachlabs.
    pub enum LoopMode: "loop_mode" {
        PingPong = "pingpong",
        Loop = "loop",
    }
}

impl LoopMode {
    pub fn policy(self) -> DurationPolicy {
        let audio_longer = match self {
            Self::PingPong => AudioLonger::PingPong,
            Self::Loop => AudioLonger::Loop,
        };
        DurationPolicy { audio_longer, video_longer: VideoLonger::Trim }
    }
}

named_enum! {
    /// `sync_mode` of sync.so, and of the wavespeed and fal APIs for it.
    pub enum SyncMode: "sync_mode" {
        Bounce = "bounce",
        Loop = "loop",
        CutOff = "cut_off",
        Silence = "silence",
        Remap = "remap",
    }
}

impl SyncMode {
    pub fn policy(self) -> DurationPolicy {
        let (audio_longer, video_longer) = match self {
            Self::Bounce => (AudioLonger::PingPong, VideoLonger::Trim),
            Self::Loop => (AudioLonger::Loop, VideoLonger::Trim),
            Self::CutOff => (AudioLonger::Cut, VideoLonger::Trim),
            Self::Silence => (AudioLonger::Hold, VideoLonger::PadSilence),
            Self::Remap => (AudioLonger::Slow, VideoLonger::Speed),
        };
        DurationPolicy { audio_longer, video_longer }
    }
}

named_enum! {
    /// `playback_type` of JoggAI.
    pub enum PlaybackType: "playback_type" {
        Normal = "normal",
        NormalReverse = "normal_reverse",
        NormalReverseByAudio = "normal_reverse_by_audio",
    }
}

impl PlaybackType {
    pub fn policy(self) -> DurationPolicy {
        let (audio_longer, video_longer) = match self {
            Self::Normal => (AudioLonger::Cut, VideoLonger::Trim),
            Self::NormalReverse => (AudioLonger::PingPong, VideoLonger::PadSilence),
            Self::NormalReverseByAudio => (AudioLonger::PingPong, VideoLonger::Trim),
        };
        DurationPolicy { audio_longer, video_longer }
    }
}

impl From<LoopMode> for DurationPolicy {
    fn from(mode: LoopMode) -> Self {
        mode.policy()
    }
}

impl From<SyncMode> for DurationPolicy {
    fn from(mode: SyncMode) -> Self {
        mode.policy()
    }
}

impl From<PlaybackType> for DurationPolicy {
    fn from(mode: PlaybackType) -> Self {
        mode.policy()
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
                        let told = policy.is_reused(source, source_frames, audio_frames);
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
