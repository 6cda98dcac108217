//! Checks of a job that can run before the model is loaded.

use std::path::Path;

use ffmpeg_next::media::Type;

use crate::error::{InputRole, Result, in_input};
use crate::face::anchor_file::AnchorFile;
use crate::face::finder::FaceFinder;
use crate::media;
use crate::media::open_input;
use crate::options::{LoadOptions, ModelChoice};
use crate::pipeline::Job;
use crate::stages::decode_video::{VideoOptions, VideoReader};
use crate::weights::{Checkpoint, HubSettings};

/// Opens and closes every file that the job needs: the model, the anchor file or the detector, and the video
/// and the voice unless they must be fetched. Loading a model takes minutes; an error that is returned here
/// would make the job fail after that.
pub fn preflight(job: &Job, model: &ModelChoice, options: &LoadOptions) -> Result<()> {
    let settings = HubSettings::for_loading(options);
    Checkpoint::open(model, &settings)?;
    match &job.anchors {
        Some(path) => drop(AnchorFile::read(path, 0)?),
        None => FaceFinder::new(options, settings).check()?,
    }
    if let Some(video) = job.video.as_file() {
        VideoReader::open(video, VideoOptions::default()).map_err(in_input(InputRole::Video))?;
    }
    match job.audio.as_file() {
        Some(path) => check_voice(path).map_err(in_input(InputRole::Voice)),
        None => Ok(()),
    }
}

fn check_voice(path: &Path) -> media::Result<()> {
    match open_input(path)?.streams().best(Type::Audio) {
        Some(_) => Ok(()),
        None => Err(media::Error::NoAudioStream { path: path.to_path_buf() }),
    }
}
