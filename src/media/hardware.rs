//! Encoders in hardware: their names, the order in which they are tried, and how each is told the quality.
//!
//! They are asked for quality at a constant quantiser near to the constant rate factor of the software encoders, and
//! for no pictures out of order: what they make differs from device to device in any case.

use ffmpeg_next::ffi;
use ffmpeg_next::format::Pixel;

use crate::options::{EncoderChoice, VideoCodec};

/// Fast ones with the best quality first.
const KINDS: [EncoderChoice; 4] =
    [EncoderChoice::Nvenc, EncoderChoice::VideoToolbox, EncoderChoice::Qsv, EncoderChoice::Amf];

/// The hardware encoders that a choice allows, in the order to try them.
pub(super) fn candidates(choice: EncoderChoice) -> Vec<EncoderChoice> {
    match choice {
        EncoderChoice::Software => Vec::new(),
        EncoderChoice::Auto | EncoderChoice::Hardware => KINDS.to_vec(),
        one => vec![one],
    }
}

/// FFmpeg's name; `None` where there is no such encoder.
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

/// All of them take chroma interleaved.
pub(super) fn format(software: Pixel) -> Pixel {
    match software {
        Pixel::YUV420P10LE => Pixel::P010LE,
        _ => Pixel::NV12,
    }
}

/// Private options for a quality of `crf`, 0 best to 51 worst.
pub(super) fn options(kind: EncoderChoice, crf: f32) -> Vec<(&'static str, String)> {
    let quantiser = (crf.round() as i32).clamp(1, 51).to_string();
    let words = |pairs: &[(&'static str, &str)]| pairs.iter().map(|&(k, v)| (k, v.to_string())).collect();
    match kind {
        EncoderChoice::Nvenc => words(&[("rc", "vbr"), ("cq", &quantiser), ("b", "0"), ("preset", "p5")]),
        // 1 worst to 100 best, as a quantiser for FFmpeg's scale of lambdas.
        EncoderChoice::VideoToolbox => {
            let quality = (100.0 * (1.0 - crf / 60.0)).round().clamp(1.0, 100.0) as i32;
            vec![("flags", "+qscale".into()), ("global_quality", (quality * ffi::FF_QP2LAMBDA).to_string())]
        }
        EncoderChoice::Qsv => words(&[("global_quality", &quantiser), ("look_ahead", "0")]),
        EncoderChoice::Amf => {
            words(&[("rc", "cqp"), ("qp_i", &quantiser), ("qp_p", &quantiser), ("quality", "quality")])
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_has_an_encoder_and_a_quality() {
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
