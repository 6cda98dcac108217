//! The complete golden set: checkpoints in the published formats, recordings, and whole jobs from a video file.

mod audio;
pub mod checkpoint;
mod faces;
mod golden_data;
mod pipeline;

use candle_core::Result;

use crate::ddim::check_ddim;
use crate::golden::GoldenSet;
use crate::networks::{check_unet, check_vae};

#[test]
#[ignore = "needs the shared material"]
fn the_unet_from_a_pytorch_checkpoint_equals_the_original() -> Result<()> {
    check_unet(&GoldenSet::shared())
}

#[test]
#[ignore = "needs the shared material"]
fn the_vae_with_new_attention_names_equals_the_original() -> Result<()> {
    check_vae(&GoldenSet::shared(), "vae")
}

#[test]
#[ignore = "needs the shared material"]
fn the_vae_with_old_attention_names_equals_the_original() -> Result<()> {
    check_vae(&GoldenSet::shared(), "vae_old_names")
}

#[test]
#[ignore = "needs the shared material"]
fn the_ddim_schedule_equals_the_original() -> Result<()> {
    check_ddim(&GoldenSet::shared())
}
