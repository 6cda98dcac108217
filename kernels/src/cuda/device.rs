//! Launches on a CUDA device, from the PTX modules that the build script compiled.
//!
//! A UNet step is 940 launches, and the host must issue them faster than the device completes them. A launch
//! therefore costs only the stream-ordered allocation of its output, which does not synchronize, one table
//! lookup, and the driver call.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{LazyLock, PoisonError, RwLock};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction;
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute_enum as Attribute;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop, result};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice, DeviceId, WrapErr};
use candle_core::{Result, Storage, bail};

use super::launch::{Kernel, Launch};

/// (Module name, PTX text) of every .cu file.
static MODULES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// Cache of loaded kernels. A handle in it stays valid: every `DeviceId` is unique, and a device keeps its
/// modules until it is dropped.
static FUNCTIONS: LazyLock<RwLock<HashMap<(DeviceId, Kernel), Function>>> = LazyLock::new(RwLock::default);

/// Dynamic shared memory of a block, in bytes, that needs no opt-in by a function attribute.
const DEFAULT_MAX_SHARED: usize = 48 << 10;

/// A kernel loaded on a device.
#[derive(Clone, Copy)]
struct Function {
    handle: CUfunction,
    /// Maximum dynamic shared memory of its blocks, in bytes.
    max_shared: usize,
}

// SAFETY: the handle is an opaque driver object, which the driver accepts from every thread.
unsafe impl Send for Function {}
// SAFETY: as above; a handle is never mutated through a reference.
unsafe impl Sync for Function {}

/// Enqueues `launch`, which writes `out`, on the device's stream. Returns before the kernel has finished.
pub fn run(launch: &Launch, out: &mut CudaStorage) -> Result<()> {
    let function = function(out.device(), launch)?;
    let (device, stream) = (out.device().id(), out.device().cuda_stream());
    let inputs: Vec<_> = launch.tensors().map(|x| x.storage_and_layout()).collect();
    let mut addresses = Vec::with_capacity(inputs.len());
    // Dropping a guard records an event that other streams wait for, so all are held until the launch is
    // enqueued.
    let mut guards = Vec::with_capacity(inputs.len() + 1);
    for (storage, layout) in &inputs {
        let (Storage::Cuda(storage), Some((start, _))) = (&**storage, layout.contiguous_offsets()) else {
            bail!("{}: expected a contiguous tensor on a CUDA device, got {layout:?}", launch.kernel);
        };
        if storage.device().id() != device {
            bail!("{}: expected all tensors on one device", launch.kernel);
        }
        let (address, guard) = address(storage, &stream)?;
        addresses.push(address + (start * storage.dtype().size_in_bytes()) as u64);
        guards.push(guard);
    }
    let (output, guard) = address_mut(out, &stream)?;
    guards.push(guard);

    let params = launch.params(&addresses, output)?;
    let mut arguments = [params.bytes().as_ptr().cast_mut().cast::<c_void>()];
    let dims = |of: [usize; 3]| (of[0] as u32, of[1] as u32, of[2] as u32);
    let (grid, block, shared) = (dims(launch.grid), dims(launch.block), launch.shared as u32);
    stream.context().bind_to_thread().w()?;
    // SAFETY: the function belongs to this device, and the driver copies the parameters before the call
    // returns. The caller of `Launch::run` guarantees that the kernel accesses only its tensors.
    unsafe { result::launch_kernel(function, grid, block, shared, stream.cu_stream(), &mut arguments) }
        .w()?;
    drop(guards);
    Ok(())
}

/// The kernel of `launch` on `device`, loaded and with its shared-memory limit set.
fn function(device: &CudaDevice, launch: &Launch) -> Result<CUfunction> {
    let key = (device.id(), launch.kernel);
    let cached = FUNCTIONS.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
    if let Some(Function { handle, max_shared }) = cached
        && launch.shared <= max_shared
    {
        return Ok(handle);
    }
    let Kernel { module, .. } = launch.kernel;
    let Some((_, ptx)) = MODULES.iter().find(|(name, _)| *name == module) else {
        bail!("{}: no module `{module}`", launch.kernel);
    };
    // One thread at a time: two threads would load the module twice, and the device keeps only one of the
    // copies.
    let mut functions = FUNCTIONS.write().unwrap_or_else(PoisonError::into_inner);
    let function = device.get_or_load_custom_func(&launch.kernel.to_string(), module, ptx)?;
    let before = functions.get(&key).map_or(DEFAULT_MAX_SHARED, |cached| cached.max_shared);
    let max_shared = launch.shared.max(before);
    if max_shared > DEFAULT_MAX_SHARED {
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, max_shared as i32).w()?;
    }
    let handle = function.cu_function();
    functions.insert(key, Function { handle, max_shared });
    Ok(handle)
}

/// Device address of the elements of a storage of any dtype that the kernels read.
fn address<'a>(storage: &'a CudaStorage, stream: &'a CudaStream) -> Result<(u64, SyncOnDrop<'a>)> {
    Ok(match &storage.slice {
        CudaStorageSlice::U8(x) => x.device_ptr(stream),
        CudaStorageSlice::I32(x) => x.device_ptr(stream),
        CudaStorageSlice::F32(x) => x.device_ptr(stream),
        CudaStorageSlice::F16(x) => x.device_ptr(stream),
        CudaStorageSlice::BF16(x) => x.device_ptr(stream),
        _ => bail!("no CUDA kernel reads tensors of {:?}", storage.dtype()),
    })
}

/// Device address of an output of any dtype that the kernels write.
fn address_mut<'a>(storage: &'a mut CudaStorage, stream: &'a CudaStream) -> Result<(u64, SyncOnDrop<'a>)> {
    let dtype = storage.dtype();
    Ok(match &mut storage.slice {
        CudaStorageSlice::U8(x) => x.device_ptr_mut(stream),
        CudaStorageSlice::F32(x) => x.device_ptr_mut(stream),
        CudaStorageSlice::F16(x) => x.device_ptr_mut(stream),
        CudaStorageSlice::BF16(x) => x.device_ptr_mut(stream),
        _ => bail!("no CUDA kernel writes tensors of {dtype:?}"),
    })
}
