//! Reading and writing media files, on the shared clips and on files that the tests make with the `ffmpeg`
//! program. A test whose material is missing says so and is skipped.
#![cfg(feature = "media")]

#[path = "media/common.rs"]
mod common;
#[path = "media/read.rs"]
mod read;
#[path = "media/formats.rs"]
mod formats;
#[path = "media/chart.rs"]
mod chart;
#[path = "media/pictures.rs"]
mod pictures;
#[path = "media/write.rs"]
mod write;
#[path = "media/encode.rs"]
mod encode;
#[path = "media/segments.rs"]
mod segments;
#[path = "media/sound.rs"]
mod sound;
#[path = "media/refuse.rs"]
mod refuse;
#[path = "media/voices.rs"]
mod voices;

/// Every stage may run on a thread of its own.
#[test]
fn readers_writers_and_pictures_can_move_between_threads() {
    fn movable<T: Send>() {}
    movable::<latentsync::stages::decode_video::VideoReader>();
    movable::<latentsync::stages::mux_video::VideoWriter>();
    movable::<latentsync::media::picture::Picture>();
    movable::<latentsync::frame_store::FrameStore>();
}
