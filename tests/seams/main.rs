//! Visibility of the seams of a generated mouth: around the mouth mask, and between chunks. These are measurements on
//! real clips, which print tables; they need the shared material and are ignored by default:
//!
//!     cargo test --release --test seams -- --ignored --nocapture slow::
//!
//! `SEAM_PICTURES` names a directory for pictures.
#![cfg(feature = "media")]

mod slow;

#[path = "../support/shared.rs"]
mod shared_material;
