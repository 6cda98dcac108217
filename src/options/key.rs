//! Options as fields of the keys of stored results.

use crate::options::{Encoding, FrameRate, Options, OutputRate};
use crate::system::cache_key::{CacheKey, KeyValue};

impl Options {
    /// Adds every option to a key. A new option does not compile until it is added here; the version of the
    /// keys must then be increased.
    pub(crate) fn add_to_key(&self, key: CacheKey) -> CacheKey {
        let Self {
            guidance_scale,
            steps,
            seed,
            duration,
            deepcache,
            fps,
            face,
            on_missing_face,
            max_yaw,
            silence,
            feather,
            mask_feather,
            colour_match,
            decoder,
            encoding: Encoding { codec, crf, container, encoder },
            reference_compat,
        } = self;
        key.field("guidance_scale", guidance_scale)
            .field("steps", steps)
            .field("seed", seed)
            .field("audio_longer", duration.audio_longer.name())
            .field("video_longer", duration.video_longer.name())
            .field("deepcache", deepcache)
            .field("fps", fps)
            .field("face", face.key_text())
            .field("on_missing_face", on_missing_face.name())
            .field("max_yaw", max_yaw)
            .field("silence", silence.name())
            .field("feather", feather.share())
            .field("mask_feather", mask_feather.share())
            .field("colour_match", colour_match.name())
            .field("decoder", decoder.name())
            .field("codec", codec.name())
            .field("crf", crf)
            .field("container", container.map(|container| container.name()))
            .field("encoder", encoder.name())
            .field("reference_compat", reference_compat)
    }
}

impl KeyValue for FrameRate {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.push(b'r');
        bytes.extend(self.numerator().to_le_bytes());
        bytes.extend(self.denominator().to_le_bytes());
    }
}

impl KeyValue for OutputRate {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Source => "source".write_to(bytes),
            Self::Exact(rate) => rate.write_to(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::*;

    #[test]
    fn every_option_changes_the_key() {
        let base = Options::default();
        let encoding = |encoding| Options { encoding, ..base.clone() };
        let duration = |duration| Options { duration, ..base.clone() };
        let variants = [
            base.clone(),
            Options { guidance_scale: 1.5, ..base.clone() },
            Options { steps: 21, ..base.clone() },
            Options { seed: Some(0), ..base.clone() },
            duration(DurationPolicy { audio_longer: AudioLonger::Loop, ..DurationPolicy::default() }),
            duration(DurationPolicy { video_longer: VideoLonger::Speed, ..DurationPolicy::default() }),
            Options { deepcache: Some(3), ..base.clone() },
            Options { fps: OutputRate::Source, ..base.clone() },
            Options { face: FaceSelector::Left, ..base.clone() },
            Options { face: FaceSelector::Index(0), ..base.clone() },
            Options { face: FaceSelector::At([0.0, 1.0]), ..base.clone() },
            Options { on_missing_face: OnMissingFace::Hold, ..base.clone() },
            Options { max_yaw: 50.0, ..base.clone() },
            Options { silence: SilenceMode::Keep, ..base.clone() },
            Options { feather: Feather::HARD, ..base.clone() },
            Options { mask_feather: Feather::ORIGINAL, ..base.clone() },
            Options { colour_match: ColourMatch::On, ..base.clone() },
            Options { decoder: DecoderChoice::Auto, ..base.clone() },
            encoding(Encoding { codec: VideoCodec::Hevc, ..Encoding::default() }),
            encoding(Encoding { crf: Some(18.0), ..Encoding::default() }),
            encoding(Encoding { container: Some(Container::Mp4), ..Encoding::default() }),
            encoding(Encoding { encoder: EncoderChoice::Auto, ..Encoding::default() }),
            Options { reference_compat: true, ..base.clone() },
        ];
        let key = |options: &Options| options.add_to_key(CacheKey::new("test", 1)).finish();
        let mut keys: Vec<String> = variants.iter().map(key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), variants.len());
    }
}
