//! The server, over a real port, with an engine that does nothing but take its time; and, at the end, the
//! program itself with a small model, killed while it works.
#![cfg(feature = "server")]

#[path = "server/common.rs"]
mod common;
#[path = "server/core.rs"]
mod core;
#[path = "server/limits.rs"]
mod limits;
#[path = "server/engine.rs"]
mod engine;
#[path = "server/cleaning.rs"]
mod cleaning;
#[path = "server/webhooks.rs"]
mod webhooks;
#[path = "server/fal.rs"]
mod fal;
#[path = "server/storage.rs"]
mod storage;
#[path = "server/eachlabs.rs"]
mod eachlabs;
#[path = "server/wavespeed.rs"]
mod wavespeed;
#[path = "server/jogg.rs"]
mod jogg;
#[path = "server/sync_so.rs"]
mod sync_so;
#[path = "server/local.rs"]
mod local;
#[path = "server/crash.rs"]
mod crash;
#[path = "server/load.rs"]
mod load;
#[path = "server/program.rs"]
mod program;
