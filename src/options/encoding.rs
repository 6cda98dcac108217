//! Codec, quality, container and encoder of the output, and the decoder of the input.

use std::path::Path;

use crate::options::named_enum::named_enum;
use crate::options::{InvalidOption, Result};

/// Encoding of the output. The default is H.264 by x264 at a quality that is visually close to the source.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Encoding {
    pub codec: VideoCodec,
    /// Constant rate factor of H.264 and HEVC, 0 (best) to 51 (worst); [`VideoCodec::default_crf`] if `None`.
    pub crf: Option<f32>,
    /// Derived from the output's extension if `None`.
    pub container: Option<Container>,
    pub encoder: EncoderChoice,
}

/// Largest (worst) constant rate factor.
pub const MAX_CRF: f32 = 51.0;

impl Encoding {
    /// Checks that the options are valid and fit each other.
    pub fn validate(&self) -> Result<()> {
        let refuse =
            |option, value: String, expected: String| Err(InvalidOption::Value { option, value, expected });
        let default = self.codec.default_crf();
        if let Some(crf) = self.crf {
            if default.is_none() {
                return refuse("crf", crf.to_string(), format!("absent: {} has no such quality", self.codec));
            }
            if !(0.0..=MAX_CRF).contains(&crf) {
                return refuse("crf", crf.to_string(), format!("a number between 0 and {MAX_CRF}"));
            }
        }
        let demands_hardware = !matches!(self.encoder, EncoderChoice::Software | EncoderChoice::Auto);
        if demands_hardware && default.is_none() {
            let expected = format!("`software` or `auto` with {}", self.codec);
            return refuse("encoder", self.encoder.to_string(), expected);
        }
        match self.container {
            Some(container) => self.check_container(container),
            None => Ok(()),
        }
    }

    /// Container of an output at `path`: the requested one, else that of the extension, else (no extension)
    /// MP4.
    ///
    /// # Errors
    /// [`InvalidOption::Extension`] for an unknown extension, [`InvalidOption::Value`] if the container does
    /// not support the codec.
    pub fn container_for(&self, path: &Path) -> Result<Container> {
        let container = match (self.container, path.extension()) {
            (Some(container), _) => container,
            (None, None) => Container::Mp4,
            (None, Some(extension)) => Container::of_extension(&extension.to_string_lossy())
                .ok_or_else(|| InvalidOption::Extension { path: path.to_path_buf() })?,
        };
        self.check_container(container)?;
        Ok(container)
    }

    fn check_container(&self, container: Container) -> Result<()> {
        let fitting = self.codec.containers();
        if fitting.contains(&container) {
            return Ok(());
        }
        let names = fitting.iter().map(Container::to_string).collect::<Vec<_>>().join("` or `");
        Err(InvalidOption::Value {
            option: "container",
            value: container.to_string(),
            expected: format!("`{names}` for {}", self.codec),
        })
    }

    /// The constant rate factor; `None` for codecs without one.
    pub fn crf(&self) -> Option<f32> {
        self.codec.default_crf().map(|default| self.crf.unwrap_or(default))
    }
}

named_enum! {
    /// Video codec of the output.
    #[derive(Default)]
    pub enum VideoCodec: "codec" {
        /// 8 bits, 4:2:0; supported by every player.
        #[default]
        H264 = "h264",
        /// 4:2:0, with 10 bits if the source has more than 8.
        Hevc = "hevc",
        /// ProRes 422 HQ, or 4444 if the source has full chroma; 10 bits; for editing.
        ProRes = "prores",
        /// Lossless, in the pixel format of the source.
        Ffv1 = "ffv1",
    }
}

impl VideoCodec {
    /// Constant rate factor that is visually close to the source; `None` for codecs without one.
    pub fn default_crf(self) -> Option<f32> {
        match self {
            Self::H264 => Some(18.0),
            Self::Hevc => Some(20.0),
            Self::ProRes | Self::Ffv1 => None,
        }
    }

    /// Containers in which players support the codec.
    pub fn containers(self) -> &'static [Container] {
        match self {
            Self::H264 | Self::Hevc => &[Container::Mp4, Container::Mov, Container::Mkv],
            Self::ProRes => &[Container::Mov, Container::Mkv],
            Self::Ffv1 => &[Container::Mkv],
        }
    }
}

named_enum! {
    /// Container of the output.
    #[derive(Default)]
    pub enum Container: "container" {
        #[default]
        Mp4 = "mp4",
        /// QuickTime.
        Mov = "mov",
        /// Matroska.
        Mkv = "mkv",
    }
}

impl Container {
    fn of_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "mp4" | "m4v" => Some(Self::Mp4),
            "mov" | "qt" => Some(Self::Mov),
            "mkv" => Some(Self::Mkv),
            _ => None,
        }
    }
}

named_enum! {
    /// Encoder of H.264 and HEVC. Only `software` produces the same bytes on every machine.
    #[derive(Default)]
    pub enum EncoderChoice: "encoder" {
        /// x264 and x265.
        #[default]
        Software = "software",
        /// The first hardware encoder that can be opened, else software.
        Auto = "auto",
        /// The first hardware encoder that can be opened, else an error.
        Hardware = "hardware",
        /// NVIDIA.
        Nvenc = "nvenc",
        /// Apple.
        VideoToolbox = "videotoolbox",
        /// Intel Quick Sync.
        Qsv = "qsv",
        /// AMD.
        Amf = "amf",
    }
}

named_enum! {
    /// Decoder of the video. All produce the same pictures.
    #[derive(Default)]
    pub enum DecoderChoice: "decoder" {
        /// FFmpeg's own decoders.
        #[default]
        Software = "software",
        /// An NVIDIA GPU if there is one that decodes the video, else software.
        Auto = "auto",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding(codec: VideoCodec) -> Encoding {
        Encoding { codec, ..Encoding::default() }
    }

    #[test]
    fn the_container_follows_the_extension_unless_given() {
        let of = |encoding: Encoding, path: &str| encoding.container_for(Path::new(path)).unwrap();
        let h264 = Encoding::default();
        for (path, container) in [
            ("a.mp4", Container::Mp4),
            ("a.M4V", Container::Mp4),
            ("a.mov", Container::Mov),
            ("a.b.MKV", Container::Mkv),
            ("a", Container::Mp4),
            (".hidden", Container::Mp4),
        ] {
            assert_eq!(of(h264, path), container, "{path}");
        }
        let given = Encoding { container: Some(Container::Mkv), ..h264 };
        assert_eq!(of(given, "a.mp4"), Container::Mkv);
        assert_eq!(of(given, "a.bin"), Container::Mkv);
        let error = h264.container_for(Path::new("a.avi")).unwrap_err();
        let message = error.to_string();
        assert!(["a.avi", "mp4", "mov", "mkv"].iter().all(|word| message.contains(word)), "{message}");
    }

    #[test]
    fn invalid_pairs_are_refused_with_an_alternative() {
        for (codec, path, instead) in [
            (VideoCodec::Ffv1, "a.mp4", "`mkv`"),
            (VideoCodec::Ffv1, "a.mov", "`mkv`"),
            (VideoCodec::ProRes, "a.mp4", "`mov` or `mkv`"),
            (VideoCodec::ProRes, "a", "`mov`"),
        ] {
            let error = encoding(codec).container_for(Path::new(path)).unwrap_err();
            let message = error.to_string();
            assert!(message.contains("container") && message.contains(instead), "{message}");
            assert!(message.contains(&codec.to_string()), "{message}");
        }
        let pair = Encoding { container: Some(Container::Mp4), ..encoding(VideoCodec::Ffv1) };
        assert!(pair.validate().is_err());
        for codec in [VideoCodec::H264, VideoCodec::Hevc, VideoCodec::ProRes] {
            assert!(encoding(codec).container_for(Path::new("a.mov")).is_ok());
        }
    }

    #[test]
    fn quality_and_encoder_are_refused_for_codecs_without_them() {
        let refused = |encoding: Encoding| encoding.validate().unwrap_err().to_string();
        for crf in [-0.1, 51.1, f32::NAN, f32::INFINITY] {
            let message = refused(Encoding { crf: Some(crf), ..encoding(VideoCodec::Hevc) });
            assert!(message.contains("crf") && message.contains("51"), "{message}");
        }
        for codec in [VideoCodec::ProRes, VideoCodec::Ffv1] {
            let message = refused(Encoding { crf: Some(18.0), ..encoding(codec) });
            assert!(message.contains("crf") && message.contains(&codec.to_string()), "{message}");
            let message = refused(Encoding { encoder: EncoderChoice::Nvenc, ..encoding(codec) });
            assert!(message.contains("encoder") && message.contains("nvenc"), "{message}");
            assert!(Encoding { encoder: EncoderChoice::Auto, ..encoding(codec) }.validate().is_ok());
        }
        let edge = Encoding { crf: Some(51.0), encoder: EncoderChoice::Hardware, ..Encoding::default() };
        assert!(edge.validate().is_ok());
        assert_eq!((Encoding::default().crf(), encoding(VideoCodec::Ffv1).crf()), (Some(18.0), None));
    }

    #[test]
    fn names_are_parsed_and_printed() {
        for name in VideoCodec::NAMES {
            assert_eq!(name.parse::<VideoCodec>().unwrap().to_string(), *name);
        }
        for name in EncoderChoice::NAMES {
            assert_eq!(name.parse::<EncoderChoice>().unwrap().to_string(), *name);
        }
        for name in DecoderChoice::NAMES {
            assert_eq!(name.parse::<DecoderChoice>().unwrap().to_string(), *name);
        }
        let message = "avi".parse::<Container>().unwrap_err().to_string();
        assert!(message.contains("container") && message.contains("`mp4`, `mov` or `mkv`"), "{message}");
    }
}
