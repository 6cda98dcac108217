//! The job server on a real port: mostly in this process with an engine that only waits; in `program` and `crash` also
//! the program `latentsync serve` with a small model, killed while it works.
#![cfg(feature = "server")]

mod cleaning;
mod common;
mod core;
mod crash;
mod eachlabs;
mod engine;
mod fal;
mod jogg;
mod limits;
mod load;
mod local;
mod program;
mod storage;
mod sync_so;
mod wavespeed;
mod webhooks;

#[path = "../support/demo_clip.rs"]
mod demo_clip;
#[path = "../support/small_model.rs"]
mod small_model;
