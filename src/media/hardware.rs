//! Hardware encoders: names, order of preference, and quality settings.
//!
//! They use a constant quantiser near the constant rate factor of the software encoders, and no B-frames.
//! Their output differs between devices in any case.

use ffmpeg_next::ffi;
use ffmpeg_next::format::Pixel;

use crate::options::{EncoderChoice, VideoCodec};

/// In order of preference: quality among fast encoders.
const KINDS: [EncoderChoice; 4] =
    [EncoderChoice::Nvenc, EncoderChoice::VideoToolbox, EncoderChoice::Qsv, EncoderChoice::Amf];

/// The hardware encoders to try for a choice, in order.
pub(super) fn candidates(choice: EncoderChoice) -> Vec<EncoderChoice> {
    match choice {
        EncoderChoice::Software => Vec::new(),
        EncoderChoice::Auto | EncoderChoice::Hardware => KINDS.to_vec(),
        one => vec![one],
    }
}

/// FFmpeg's name for the encoder; `None` if it does not exist.
pub(super) fn name(kind: EncoderChoice, codec: VideoCodec) -> Option<&'static str> {
    match (codec, kind) {
        (VideoCodec::H264, EncoderChoice::Nvenc) => Some("h264_nvenc"),
        (VideoCodec::H264, EncoderChoice::VideoToolbox) => Some("h264_videotoolbox"),
        (VideoCodec::H264, EncoderChoice::Qsv) => Some("h264_qsv"),
        (VideoCodec::H264, EncoderChoice::Amf) => Some("h264_amf"),
        (VideoCodec::Hevc, EncoderChoice::Nvenc) => Some("hevc_nvenc"),
        (VideoCodec::Hevc, EncoderChoice::VideoToolbox) => Some("hevc_videotoolbox"),
        (VideoCodec::Hevc, EncoderChoice::Qsv) => Some("hevc_qsv"),
        (VideoCodec::Hevc, EncoderChoice::Amf) => Some("hevc_amf"),
        _ => None,
    }
}

/// Pixel format of the encoder's input: interleaved chroma.
pub(super) fn format(software: Pixel) -> Pixel {
    match software {
        Pixel::YUV420P10LE => Pixel::P010LE,
        _ => Pixel::NV12,
    }
}

/// Encoder options for a quality of `crf`, 0 (best) to 51 (worst).
pub(super) fn options(kind: EncoderChoice, crf: f32) -> Vec<(&'static str, String)> {
    let quantiser = (crf.round() as i32).clamp(1, 51).to_string();
    let to_options =
        |pairs: &[(&'static str, &str)]| pairs.iter().map(|&(k, v)| (k, v.to_string())).collect();
    match kind {
        EncoderChoice::Nvenc => {
            to_options(&[("rc", "vbr"), ("cq", &quantiser), ("b", "0"), ("preset", "p5")])
        }
        // Quality from 1 (worst) to 100 (best), in units of FFmpeg's lambda.
        EncoderChoice::VideoToolbox => {
            let quality = (100.0 * (1.0 - crf / 60.0)).round().clamp(1.0, 100.0) as i32;
            vec![("flags", "+qscale".into()), ("global_quality", (quality * ffi::FF_QP2LAMBDA).to_string())]
        }
        EncoderChoice::Qsv => to_options(&[("global_quality", &quantiser), ("look_ahead", "0")]),
        EncoderChoice::Amf => {
            to_options(&[("rc", "cqp"), ("qp_i", &quantiser), ("qp_p", &quantiser), ("quality", "quality")])
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_has_an_encoder_and_quality_options() {
        assert!(candidates(EncoderChoice::Software).is_empty());
        for kind in candidates(EncoderChoice::Hardware) {
            for codec in [VideoCodec::H264, VideoCodec::Hevc] {
                assert!(name(kind, codec).is_some_and(|name| name.starts_with(&codec.to_string())));
            }
            assert!(!options(kind, 18.0).is_empty());
            assert_ne!(options(kind, 18.0), options(kind, 30.0));
            assert!(name(kind, VideoCodec::Ffv1).is_none());
        }
    }
}
