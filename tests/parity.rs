//! The engine against the original's own numbers.
//!
//! Reads the directory that `LATENTSYNC_GOLDEN` names (default `../shared/golden`) and takes everything from its
//! `manifest.json`, so that another set of the same form can be put under these tests. A part that the set
//! lacks is skipped by name.
#![cfg(feature = "media")]

#[path = "parity/common.rs"]
mod common;
#[path = "parity/networks.rs"]
mod networks;
#[path = "parity/emulated.rs"]
mod emulated;
#[path = "parity/full_size.rs"]
mod full_size;
#[path = "parity/audio.rs"]
mod audio;
#[path = "parity/faces.rs"]
mod faces;
#[path = "parity/pipeline.rs"]
mod pipeline;
