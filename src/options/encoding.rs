//! How the output is encoded: codec, quality, container, and by whom; and who decodes the input.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::options::{InvalidOption, Result};

/// How the output is written. The default is H.264 at a quality that is hard to tell from the source, by x264.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Encoding {
    pub codec: VideoCodec,
    /// Constant rate factor of H.264 and HEVC, 0 best to 51 worst; [`VideoCodec::default_crf`] when absent.
    pub crf: Option<f32>,
    /// By the output's extension when absent.
    pub container: Option<Container>,
    pub encoder: EncoderChoice,
}

/// The worst constant rate factor there is.
pub const MAX_CRF: f32 = 51.0;

impl Encoding {
    /// Refuses what cannot be encoded, naming the option.
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

    /// The container of an output at `path`: the one asked for, else the one its extension means, else MP4.
    ///
    /// # Errors
    /// [`InvalidOption::Extension`] for an unknown extension, [`InvalidOption::Value`] if the codec does not go into the
    /// container.
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

    /// The constant rate factor, for codecs that have one.
    pub fn crf(&self) -> Option<f32> {
        self.codec.default_crf().map(|default| self.crf.unwrap_or(default))
    }
}

/// An enum of plain variants that parses from and prints as fixed words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $option:literal, { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every spelling that parses.
            pub const NAMES: &[&str] = &[$($text),+];
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
    };
}

words! {
    /// How pictures are coded.
    VideoCodec, "codec", {
        /// 8 bits, 4:2:0: what every player shows.
        #[default]
        H264 = "h264",
        /// 4:2:0, of 10 bits where the source has more than 8.
        Hevc = "hevc",
        /// ProRes 422 HQ, or 4444 where the source has full chroma; 10 bits; for editing.
        ProRes = "prores",
        /// Lossless, in the source's own format.
        Ffv1 = "ffv1",
    }
}

impl VideoCodec {
    /// The constant rate factor that is hard to tell from the source; `None` where quality is not set that way.
    pub fn default_crf(self) -> Option<f32> {
        match self {
            Self::H264 => Some(18.0),
            Self::Hevc => Some(20.0),
            Self::ProRes | Self::Ffv1 => None,
        }
    }

    /// Where it may be stored so that players find it.
    pub fn containers(self) -> &'static [Container] {
        match self {
            Self::H264 | Self::Hevc => &[Container::Mp4, Container::Mov, Container::Mkv],
            Self::ProRes => &[Container::Mov, Container::Mkv],
            Self::Ffv1 => &[Container::Mkv],
        }
    }
}

words! {
    /// What holds the streams together.
    Container, "container", {
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

words! {
    /// Who encodes H.264 and HEVC. Only `software` gives the same bytes everywhere.
    EncoderChoice, "encoder", {
        /// x264 and x265.
        #[default]
        Software = "software",
        /// The first hardware encoder that opens, else software.
        Auto = "auto",
        /// The first hardware encoder that opens, else an error.
        Hardware = "hardware",
        /// Of NVIDIA's cards.
        Nvenc = "nvenc",
        /// Of Apple's machines.
        VideoToolbox = "videotoolbox",
        /// Intel's Quick Sync.
        Qsv = "qsv",
        /// Of AMD's cards.
        Amf = "amf",
    }
}

words! {
    /// Who decodes the video. The pictures are the same.
    DecoderChoice, "decoder", {
        /// FFmpeg's own decoders.
        #[default]
        Software = "software",
        /// An NVIDIA card, where there is one and it decodes the video, else software.
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
    fn impossible_pairs_are_refused_with_what_to_use_instead() {
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
    fn quality_and_encoder_are_refused_by_name_where_they_do_not_apply() {
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
    fn words_parse_and_print_alike() {
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
        assert!(message.contains("container") && message.contains("mp4, mov, mkv"), "{message}");
    }
}
