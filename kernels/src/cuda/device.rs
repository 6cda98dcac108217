//! Launches on a CUDA device, of the PTX that the build script compiled.
//!
//! A UNet step is 940 launches, and the host must begin them faster than the device ends them. So one costs the
//! allocation of its result, which is the stream's and waits for nothing, one look into a table, and the driver's call.

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

/// Pairs of a module's name and its PTX.
static MODULES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// The kernels that were launched before. Devices are never numbered alike, and a device keeps its modules as long as
/// it lives: a handle that is found is good.
static FUNCTIONS: LazyLock<RwLock<HashMap<(DeviceId, Kernel), Function>>> = LazyLock::new(RwLock::default);

/// What a block can have of shared memory without being asked for.
const SHARED_UNASKED: usize = 48 << 10;

/// A kernel on a device.
#[derive(Clone, Copy)]
struct Function {
    handle: CUfunction,
    /// Bytes of shared memory that its blocks can have.
    shared: usize,
}

// SAFETY: the handle is the driver's, which takes it from every thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// Runs `launch`, which writes `out`. It has only begun when this returns.
pub fn run(launch: &Launch, out: &mut CudaStorage) -> Result<()> {
    let function = function(out.device(), launch)?;
    let (device, stream) = (out.device().id(), out.device().cuda_stream());
    let inputs: Vec<_> = launch.tensors().map(|x| x.storage_and_layout()).collect();
    let mut addresses = Vec::with_capacity(inputs.len());
    // Held until the launch is in the stream: other streams then wait for it.
    let mut holds = Vec::with_capacity(inputs.len() + 1);
    for (storage, layout) in &inputs {
        let (Storage::Cuda(storage), Some((start, _))) = (&**storage, layout.contiguous_offsets()) else {
            bail!("{}: expected a contiguous tensor on the device, got {layout:?}", launch.kernel);
        };
        if storage.device().id() != device {
            bail!("{}: tensors on two devices", launch.kernel);
        }
        let (address, hold) = address(storage, &stream)?;
        addresses.push(address + (start * storage.dtype().size_in_bytes()) as u64);
        holds.push(hold);
    }
    let (output, hold) = address_mut(out, &stream)?;
    holds.push(hold);

    let params = launch.params(&addresses, output)?;
    let mut arguments = [params.bytes().as_ptr().cast_mut().cast::<c_void>()];
    let dims = |of: [usize; 3]| (of[0] as u32, of[1] as u32, of[2] as u32);
    let (grid, block, shared) = (dims(launch.grid), dims(launch.block), launch.shared as u32);
    stream.context().bind_to_thread().w()?;
    // SAFETY: the function is of this device, and the parameters are copied before this returns. Whoever made the
    // launch has promised that the kernel stays within its tensors.
    unsafe { result::launch_kernel(function, grid, block, shared, stream.cu_stream(), &mut arguments) }
        .w()?;
    drop(holds);
    Ok(())
}

/// The kernel of `launch` on `device`, ready to be launched with its shared memory.
fn function(device: &CudaDevice, launch: &Launch) -> Result<CUfunction> {
    let key = (device.id(), launch.kernel);
    let known = FUNCTIONS.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
    if let Some(Function { handle, shared }) = known
        && launch.shared <= shared
    {
        return Ok(handle);
    }
    let Kernel { module, .. } = launch.kernel;
    let Some((_, ptx)) = MODULES.iter().find(|(name, _)| *name == module) else {
        bail!("{}: there is no module `{module}`", launch.kernel);
    };
    // Only one thread at a time: two would load a module twice, and the device keep only one of them.
    let mut functions = FUNCTIONS.write().unwrap_or_else(PoisonError::into_inner);
    let function = device.get_or_load_custom_func(&launch.kernel.to_string(), module, ptx)?;
    let before = functions.get(&key).map_or(SHARED_UNASKED, |known| known.shared);
    let shared = launch.shared.max(before);
    if shared > SHARED_UNASKED {
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, shared as i32).w()?;
    }
    let handle = function.cu_function();
    functions.insert(key, Function { handle, shared });
    Ok(handle)
}

/// Where the elements of a storage begin, of any type that kernels take.
fn address<'a>(storage: &'a CudaStorage, stream: &'a CudaStream) -> Result<(u64, SyncOnDrop<'a>)> {
    Ok(match &storage.slice {
        CudaStorageSlice::U8(x) => x.device_ptr(stream),
        CudaStorageSlice::I32(x) => x.device_ptr(stream),
        CudaStorageSlice::F32(x) => x.device_ptr(stream),
        CudaStorageSlice::F16(x) => x.device_ptr(stream),
        CudaStorageSlice::BF16(x) => x.device_ptr(stream),
        _ => bail!("no kernel takes {:?}", storage.dtype()),
    })
}

fn address_mut<'a>(storage: &'a mut CudaStorage, stream: &'a CudaStream) -> Result<(u64, SyncOnDrop<'a>)> {
    let dtype = storage.dtype();
    Ok(match &mut storage.slice {
        CudaStorageSlice::U8(x) => x.device_ptr_mut(stream),
        CudaStorageSlice::F32(x) => x.device_ptr_mut(stream),
        CudaStorageSlice::F16(x) => x.device_ptr_mut(stream),
        CudaStorageSlice::BF16(x) => x.device_ptr_mut(stream),
        _ => bail!("no kernel writes {dtype:?}"),
    })
}
