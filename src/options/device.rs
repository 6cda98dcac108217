//! Device and number format. All lower layers take both from their inputs.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device};
use kernels::cpu::Isa;

use crate::options::named_enum::named_enum;
use crate::options::{InvalidOption, Result};
use crate::system;
use crate::system::device::open_cuda;

/// Compute device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first available CUDA or Metal device that this build supports, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// The CUDA device with this number.
    Cuda(usize),
    Metal,
}

impl DeviceChoice {
    /// Opens the device. Only `Auto` falls back to another one.
    pub fn open(self) -> system::Result<Device> {
        let unavailable =
            |source| system::Error::Device { device: self.to_string(), source: Box::new(source) };
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => open_cuda(ordinal).map_err(unavailable),
            Self::Metal => Device::new_metal(0).map_err(unavailable),
            Self::Auto => {
                let first =
                    match (candle_core::utils::cuda_is_available(), candle_core::utils::metal_is_available())
                    {
                        (true, _) => open_cuda(0),
                        (_, true) => Device::new_metal(0),
                        _ => return Ok(Device::Cpu),
                    };
                Ok(first.unwrap_or_else(|error| {
                    tracing::warn!("no GPU is available, computing on the CPU: {error}");
                    Device::Cpu
                }))
            }
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::Cuda(0)),
            "metal" => return Ok(Self::Metal),
            _ => {}
        }
        match text.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(ordinal)) => Ok(Self::Cuda(ordinal)),
            _ => Err(InvalidOption::Value {
                option: "device",
                value: text.to_string(),
                expected: "`auto`, `cpu`, `cuda:0` (or another number) or `metal`".to_string(),
            }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

named_enum! {
    /// Number format of weights and activations.
    #[derive(Default)]
    pub enum DTypeChoice: "dtype" {
        /// The fastest format of the device within the accuracy that the tests require.
        #[default]
        Auto = "auto",
        F32 = "f32",
        BF16 = "bf16",
        F16 = "f16",
    }
}

impl DTypeChoice {
    pub fn resolve(self, device: &Device) -> DType {
        match self {
            // With bf16 instructions: half the memory and a multiple of the speed of f32.
            Self::Auto if device.is_cpu() && Isa::current().has_fast_bf16() => DType::BF16,
            Self::Auto if device.is_cpu() => DType::F32,
            // As in the original. Sums are in f32; bf16 activations would have three mantissa bits fewer.
            Self::Auto => DType::F16,
            Self::F32 => DType::F32,
            Self::BF16 => DType::BF16,
            Self::F16 => {
                if device.is_cpu() {
                    tracing::warn!(
                        "f16 is slow on a CPU: bf16 takes as little memory and is several times faster"
                    );
                }
                DType::F16
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::device::dtype_name;

    #[test]
    fn devices_are_parsed_and_printed() {
        for name in ["auto", "cpu", "cuda:0", "cuda:7", "metal"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        for name in ["gpu", "cuda:", "cuda:-1", "cuda:x", ""] {
            let message = name.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(message.contains("device") && message.contains("cuda:0"), "{message}");
        }
    }

    #[test]
    fn the_number_format_of_the_cpu_depends_on_its_instructions() {
        let device = DeviceChoice::Cpu.open().unwrap();
        let auto = if Isa::current().has_fast_bf16() { "bf16" } else { "f32" };
        assert_eq!(dtype_name(DTypeChoice::Auto.resolve(&device)), auto);
        assert_eq!(dtype_name(DTypeChoice::BF16.resolve(&device)), "bf16");
    }
}
