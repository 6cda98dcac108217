//! Weights: downloads from a hub that the tests serve, checkpoints in all layouts, and checkpoints that are refused.
//!
//! `shared::…` needs the checkpoint of the complete golden set and is ignored by default:
//! `cargo test --release --test weights -- --ignored shared::`.

mod checkpoint;
mod convert;
mod hub;
mod memory;
mod pt;
mod pull;
mod shared;

#[path = "../support/shared.rs"]
mod shared_material;
