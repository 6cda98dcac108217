//! Whole jobs with the small model and the clip of `models/demo`.
//!
//! `system::…` needs dlib's landmark model, `slow::…` minutes and the shared material. Both are ignored by default:
//! `cargo test --release --test jobs -- --ignored system::`.
#![cfg(feature = "media")]

mod batch;
mod cache;
mod common;
mod lengths;
mod rates;
mod resume;
mod slow;
mod system;
mod whole;

#[path = "../support/demo_clip.rs"]
mod demo_clip;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/shared.rs"]
mod shared_material;
#[path = "../support/small_model.rs"]
mod small_model;
