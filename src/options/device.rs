//! The choice of device and number format; everything below takes both from its inputs.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device};
use kernels::cpu::Isa;

use crate::options::{InvalidOption, Result};
use crate::system;
use crate::system::device::open_cuda;

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA or Metal device that this build supports and that answers, else the CPU.
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
                    tracing::warn!("no GPU answers, computing on the CPU: {error}");
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

/// In which number format weights and activations are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DTypeChoice {
    /// What is fastest on the device without leaving the accuracy that the tests ask for.
    #[default]
    Auto,
    F32,
    BF16,
    F16,
}

impl DTypeChoice {
    pub fn resolve(self, device: &Device) -> DType {
        match self {
            // Half the memory and a multiple of the speed, where the CPU multiplies bf16 itself.
            Self::Auto if device.is_cpu() && Isa::current().has_fast_bf16() => DType::BF16,
            Self::Auto if device.is_cpu() => DType::F32,
            // As the original. All sums are in f32, and bf16 would keep three bits less of what is between them.
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

impl FromStr for DTypeChoice {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::BF16),
            "f16" => Ok(Self::F16),
            _ => Err(InvalidOption::Value {
                option: "dtype",
                value: text.to_string(),
                expected: "`auto`, `f32`, `bf16` or `f16`".to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::device::dtype_name;

    #[test]
    fn devices_parse_and_print_alike() {
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
