//! The benchmark harness: what `latentsync bench` measures, how, and what it keeps of it. `benches/` takes its shapes
//! from here.
//!
//! The networks have their published sizes, and weights from `models::synthetic`: what a step costs does not depend on
//! what the weights are. A model's own files can be measured as well.

mod error;
pub mod shapes;
pub mod subject;
pub mod stats;
pub mod machine;
pub mod peer;
pub mod record;
mod part_runs;
pub mod run;
pub mod compare;

pub use error::{Error, PeerCause, Result};

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::options::InvalidOption;

/// A part of the work that is measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// One step of the UNet on one chunk of frames, without guidance.
    UnetStep,
    /// One image through the VAE's encoder.
    VaeEncode,
    /// One image through the VAE's decoder.
    VaeDecode,
}

impl Part {
    pub const ALL: [Part; 3] = [Part::UnetStep, Part::VaeEncode, Part::VaeDecode];

    /// As in a record's keys and in the peer's commands.
    pub const fn name(self) -> &'static str {
        match self {
            Part::UnetStep => "unet_step",
            Part::VaeEncode => "vae_encode",
            Part::VaeDecode => "vae_decode",
        }
    }
}

/// What can be asked for: a part, or a whole job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Part(Part),
    Job,
}

impl FromStr for What {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self, InvalidOption> {
        let part = Part::ALL.into_iter().find(|part| part.name().replace('_', "-") == text);
        match (part, text) {
            (Some(part), _) => Ok(What::Part(part)),
            (None, "job") => Ok(What::Job),
            _ => Err(InvalidOption::Value {
                option: "what",
                value: text.to_string(),
                expected: "some of `unet-step`, `vae-encode`, `vae-decode` and `job`, separated by commas"
                    .to_string(),
            }),
        }
    }
}

/// Networks that are made without a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Size {
    /// A network of the published shape with a tenth of its channels, for trying the harness itself.
    Small,
    /// The published sizes, faces of 256 pixels.
    #[default]
    Pixels256,
    /// The same networks, faces of 512 pixels.
    Pixels512,
}

impl FromStr for Size {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self, InvalidOption> {
        match text {
            "small" => Ok(Size::Small),
            "256" => Ok(Size::Pixels256),
            "512" => Ok(Size::Pixels512),
            _ => Err(InvalidOption::Value {
                option: "size",
                value: text.to_string(),
                expected: "`256`, `512` or `small`".to_string(),
            }),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Size::Small => "small",
            Size::Pixels256 => "256",
            Size::Pixels512 => "512",
        })
    }
}
