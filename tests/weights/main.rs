//! Weights: a hub that the tests serve themselves, checkpoints in the layouts people have, and what is refused.

#[path = "weights/hub.rs"]
mod hub;
#[path = "weights/pt.rs"]
mod pt;
#[path = "weights/pull.rs"]
mod pull;
#[path = "weights/checkpoint.rs"]
mod checkpoint;
#[path = "weights/convert.rs"]
mod convert;
#[path = "weights/memory.rs"]
mod memory;
