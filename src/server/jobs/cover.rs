//! A result's first picture, for APIs that show one.

use std::fs::File;
use std::io::{Cursor, Write};
use std::path::Path;

use image::{ImageFormat, RgbImage};

use crate::error::compute;
use crate::server::Result;
use crate::stages::decode_video::{VideoOptions, VideoReader};
use crate::system;

/// Writes the first frame of `video` to `to`, as a JPEG.
pub fn write(video: &Path, to: &Path) -> Result<()> {
    let failed = |reason: String| crate::media::Error::Encode { path: to.to_path_buf(), reason };
    let Some(picture) = VideoReader::open(video, VideoOptions::default())?.next()? else {
        return Err(crate::media::Error::NoFrames { path: video.to_path_buf(), damaged: 0 }.into());
    };
    let (width, height) = (picture.width() as u32, picture.height() as u32);
    let rgb =
        picture.to_rgb()?.flatten_all().and_then(|rgb| rgb.to_vec1::<u8>()).map_err(compute("cover"))?;
    let image = RgbImage::from_raw(width, height, rgb)
        .ok_or_else(|| failed("the picture has another size than it says".to_string()))?;
    let mut jpeg = Cursor::new(Vec::new());
    image.write_to(&mut jpeg, ImageFormat::Jpeg).map_err(|error| failed(error.to_string()))?;
    let write = || {
        let mut file = File::create(to)?;
        file.write_all(&jpeg.into_inner())?;
        file.sync_all()
    };
    Ok(write().map_err(|source| system::Error::WriteFile { path: to.to_path_buf(), source })?)
}
