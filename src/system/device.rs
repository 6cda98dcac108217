//! Compute devices: opening them, their names and their memory.

#[cfg(feature = "cuda")]
use candle_core::CudaDevice;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{DType, Device};
use serde::Serialize;

use crate::system::machine;

/// With one stream for all threads: by default every thread has its own, and nothing makes one wait for what another
/// has begun.
pub(crate) fn open_cuda(ordinal: usize) -> candle_core::Result<Device> {
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
    fn the_cpu_has_a_name_and_memory() {
        assert_eq!(device_name(&Device::Cpu), "cpu");
        let memory = device_memory(&Device::Cpu);
        assert!(memory.is_none_or(|memory| 0 < memory.free && memory.free <= memory.total), "{memory:?}");
    }
}
