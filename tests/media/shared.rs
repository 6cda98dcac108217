//! Tests with real clips and recordings of the shared material.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use latentsync::media::colour::ColourMode;
use latentsync::options::DecoderChoice;
use latentsync::stages::decode_video::{VideoOptions, VideoReader};

use crate::common::{open, samples};
use crate::shared_material;
use crate::voices::{check_formats, check_voice_activity};
use crate::write::{check_copied_sound, check_stream_times};

fn media(name: &str) -> PathBuf {
    shared_material::directory().join("media").join(name)
}

#[test]
#[ignore = "needs the shared material"]
fn the_clips_have_their_frames() {
    for (name, frames) in [("woman_2s.mp4", 50), ("man_4s.mp4", 100), ("woman_1080x1920_hevc.mp4", 250)] {
        let mut reader = open(media(name));
        let count = reader.info().count;
        assert_eq!((count.frames, count.exact), (frames, true), "{name}");
        assert_eq!(reader.info().duration_seconds, frames as f64 / 25.0, "{name}");
        let mut read = 0;
        while reader.next().unwrap().is_some() {
            read += 1;
        }
        assert_eq!((read, reader.damaged()), (frames, 0), "{name}");
    }
}

/// Without a GPU, both choices are FFmpeg's own decoder.
#[test]
#[ignore = "needs the shared material"]
fn every_decoder_gives_the_same_pictures() {
    for name in ["woman_2s.mp4", "woman_1080x1920_hevc.mp4"] {
        let open = |decoder| {
            VideoReader::open(media(name), VideoOptions { decoder, ..VideoOptions::default() }).unwrap()
        };
        let (mut software, mut auto) = (open(DecoderChoice::Software), open(DecoderChoice::Auto));
        assert_eq!(software.info().count, auto.info().count, "{name}");
        while let Some(want) = software.next().unwrap() {
            let got = auto.next().unwrap().unwrap();
            assert_eq!(got.format(), want.format(), "{name}");
            assert!(samples(&got) == samples(&want), "{name}");
        }
        assert!(auto.next().unwrap().is_none(), "{name}");
    }
}

#[test]
#[ignore = "needs the shared material"]
fn the_reference_mode_reads_the_pixels_of_the_original() {
    let golden = shared_material::directory().join("golden/pipeline/pipeline_golden.safetensors");
    let golden = candle_core::safetensors::load(golden, &Device::Cpu).unwrap();
    let options = VideoOptions { colour: ColourMode::ReferenceBt601, ..VideoOptions::default() };
    let mut reader = VideoReader::open(media("woman_2s.mp4"), options).unwrap();
    let rgb = reader.next().unwrap().unwrap().to_rgb().unwrap();
    let bytes = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    assert_eq!(rgb.dims(), golden["input_frame_0_rgb"].dims());
    assert!(bytes(&rgb) == bytes(&golden["input_frame_0_rgb"]));
}

#[test]
#[ignore = "needs the shared material"]
fn both_streams_start_at_zero_and_end_with_the_last_frame() {
    let voices = [
        ("speech_3s.wav", "aac"),
        ("speech_3s_stereo44k.mp3", "mp3"),
        ("man_4s.mp4", "aac"),
        ("woman_2s.mp4", "aac"),
    ];
    check_stream_times(&media("woman_2s.mp4"), &voices.map(|(name, codec)| (media(name), codec)));
}

#[test]
#[ignore = "needs the shared material"]
fn the_sound_is_the_original_at_its_place() {
    let voices = ["speech_3s_stereo44k.mp3", "woman_2s.mp4", "speech_3s.wav"];
    check_copied_sound(&media("woman_2s.mp4"), &voices.map(media));
}

#[test]
#[ignore = "needs the shared material"]
fn a_voice_is_the_same_in_any_format() {
    check_formats(&media("speech_3s.wav"), 0.95);
}

#[test]
#[ignore = "needs the shared material"]
fn speech_is_told_from_silence_in_noise() {
    check_voice_activity(&media("speech_3s.wav"), &media("demo1_audio.wav"));
}
