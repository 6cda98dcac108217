//! The only choice of device and number format; everything below takes both from its inputs.

use std::fmt;
use std::str::FromStr;

#[cfg(feature = "cuda")]
use candle_core::CudaDevice;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{DType, Device};
use kernels::cpu::Isa;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::system::machine;

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
    pub fn open(self) -> Result<Device> {
        let unavailable = |source| Error::Device { device: self.to_string(), source };
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

/// With one stream for all threads: by default every thread has its own, and nothing makes one wait for what another
/// has begun.
fn open_cuda(ordinal: usize) -> candle_core::Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = &device {
        // SAFETY: everything on this device runs in its only stream, in the order in which it was begun. What is
        // turned off are the events by which several streams would wait for each other's use of a tensor.
        unsafe { cuda.disable_event_tracking() };
        keep_freed(cuda);
    }
    Ok(device)
}

/// Keeps freed memory for the next operation, as `memory::keep_freed` does on the CPU: by default all of it goes back to
/// the driver whenever the stream is waited for.
#[cfg(feature = "cuda")]
fn keep_freed(device: &CudaDevice) {
    if let Some(pool) = pool(device) {
        let mut threshold = u64::MAX;
        let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the pool is valid, and this attribute is a number of 64 bits. A refusal leaves the default.
        let _ = unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()) };
    }
}

/// Where tensors are allocated; `None` where the device has no pools.
#[cfg(feature = "cuda")]
fn pool(device: &CudaDevice) -> Option<sys::CUmemoryPool> {
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return None;
    }
    // SAFETY: the number of the device is the context's own.
    unsafe { result::device::get_mem_pool(context.cu_device()) }.ok()
}

impl FromStr for DeviceChoice {
    type Err = Error;

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
            _ => Err(Error::InvalidOption {
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
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::BF16),
            "f16" => Ok(Self::F16),
            _ => Err(Error::InvalidOption {
                option: "dtype",
                value: text.to_string(),
                expected: "`auto`, `f32`, `bf16` or `f16`".to_string(),
            }),
        }
    }
}

/// `cpu`, `cuda:0` or `metal`, as the report and `doctor` name an opened device.
pub fn device_name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_string(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { .. } => "metal".to_string(),
    }
}

/// What a device has of memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DeviceMemory {
    pub total: u64,
    /// What this process and others can still take.
    pub free: u64,
}

/// The memory of a device as it is now; `None` where nothing tells.
pub fn device_memory(device: &Device) -> Option<DeviceMemory> {
    match device {
        Device::Cpu => {
            Some(DeviceMemory { total: machine::memory_bytes()?, free: machine::memory_available_bytes()? })
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            // What was freed is this process's only until it is asked for.
            device.synchronize().ok()?;
            if let Some(pool) = pool(cuda) {
                // SAFETY: the pool is valid, and what is in use stays in it.
                unsafe { result::mem_pool::trim_to(pool, 0) }.ok()?;
            }
            let (free, total) = cuda.cuda_stream().context().mem_get_info().ok()?;
            Some(DeviceMemory { total: total as u64, free: free as u64 })
        }
        _ => None,
    }
}

/// `f32`, `bf16` or `f16`.
pub fn dtype_name(dtype: DType) -> &'static str {
    dtype.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_cpu_is_always_there() {
        let device = DeviceChoice::Cpu.open().unwrap();
        assert_eq!(device_name(&device), "cpu");
        let auto = if Isa::current().has_fast_bf16() { "bf16" } else { "f32" };
        assert_eq!(dtype_name(DTypeChoice::Auto.resolve(&device)), auto);
        assert_eq!(dtype_name(DTypeChoice::BF16.resolve(&device)), "bf16");
        let memory = device_memory(&device);
        assert!(memory.is_none_or(|memory| 0 < memory.free && memory.free <= memory.total), "{memory:?}");
    }
}
