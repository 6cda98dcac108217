//! Reading and writing media files: the clip of `models/demo`, and files that the program `ffmpeg` makes.
//!
//! `shared::…` needs real clips of the shared material, `system::…` the right to mount a file system. Both are
//! ignored by default: `cargo test --release --test media -- --ignored shared:: system::`.
#![cfg(feature = "media")]

mod chart;
mod common;
mod encode;
mod formats;
mod pictures;
mod read;
mod refuse;
mod segments;
mod shared;
mod sound;
mod system;
mod voices;
mod write;

#[path = "../support/demo_clip.rs"]
mod demo_clip;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/shared.rs"]
mod shared_material;

/// Each stage of a job runs on its own thread.
#[test]
fn readers_writers_and_pictures_are_send() {
    fn assert_send<T: Send>() {}
    assert_send::<latentsync::stages::decode_video::VideoReader>();
    assert_send::<latentsync::stages::mux_video::VideoWriter>();
    assert_send::<latentsync::media::picture::Picture>();
    assert_send::<latentsync::media::frame_store::FrameStore>();
}
