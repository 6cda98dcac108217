//! Properties of whole jobs on the small golden model and the real clips; skipped by name where
//! `../shared` (or `LATENTSYNC_SHARED`) is not there.
#![cfg(feature = "media")]

mod common;
mod whole;
mod lengths;
mod rates;
mod resume;
mod batch;
mod cache;
mod memory;
