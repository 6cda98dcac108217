//! Parity with the original implementation: every network and stage against outputs that the original computed.
//!
//! - The tests that run by default read `tests/data/golden`; its README lists the files. The generator of
//!   `models::synthetic` makes the weights and most inputs.
//! - `shared::…` reads the complete golden set: checkpoints in the published formats, recordings, and whole jobs
//!   from a video file. It is ignored by default because the set is not part of the repository:
//!   `cargo test --release --test parity -- --ignored shared::`.
//! - `slow::…` runs the networks at their published sizes:
//!   `cargo test --release --test parity -- --ignored --nocapture slow::`.
#![cfg(feature = "media")]

mod audio;
mod ddim;
mod emulated;
mod faces;
mod golden;
mod job;
mod networks;
mod shared;
mod slow;

#[path = "../support/shared.rs"]
mod shared_material;
