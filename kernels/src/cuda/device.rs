//! Launches on a CUDA device, of the PTX that the build script compiled.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute_enum as Attribute;
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg, SyncOnDrop,
};
use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice, WrapErr};
use candle_core::{Result, Storage, bail};

use super::launch::Launch;

/// Pairs of a module's name and its PTX.
static MODULES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// What a block can have of shared memory without being asked for.
const SHARED_UNASKED: usize = 48 << 10;

/// Room for a kernel's struct; the driver reads as much of it as the kernel has.
#[derive(Clone, Copy)]
#[repr(C)]
struct Params([u64; 16]);

// SAFETY: plain bytes, as a kernel's parameters are.
unsafe impl DeviceRepr for Params {}

/// Runs `launch`, which writes `out`. It has only begun when this returns.
pub fn run(launch: &Launch, out: &mut CudaStorage) -> Result<()> {
    let Some((_, ptx)) = MODULES.iter().find(|(name, _)| *name == launch.module) else {
        bail!("{}: there is no module `{}`", launch.kernel, launch.module);
    };
    let device = out.device().clone();
    let function = device.get_or_load_custom_func(&launch.kernel, launch.module, ptx)?;
    if launch.shared > SHARED_UNASKED {
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, launch.shared as i32).w()?;
    }

    let stream = device.cuda_stream();
    let inputs: Vec<_> = launch.tensors().map(|x| x.storage_and_layout()).collect();
    let mut addresses = Vec::with_capacity(inputs.len());
    // Held until the launch is in the stream: other streams then wait for it.
    let mut holds = Vec::with_capacity(inputs.len());
    for (storage, layout) in &inputs {
        let (Storage::Cuda(storage), Some((start, _))) = (&**storage, layout.contiguous_offsets()) else {
            bail!("{}: expected a contiguous tensor on the device, got {layout:?}", launch.kernel);
        };
        if storage.device().id() != device.id() {
            bail!("{}: tensors on two devices", launch.kernel);
        }
        let (address, hold) = address(storage, &stream)?;
        addresses.push(address + (start * storage.dtype().size_in_bytes()) as u64);
        holds.push(hold);
    }
    let (output, hold) = address_mut(out, &stream)?;
    holds.push(hold);

    let fields = launch.params(&addresses, output)?;
    let mut params = Params([0; 16]);
    let Some(to) = params.0.get_mut(..fields.len()) else {
        bail!("{}: {} bytes of parameters", launch.kernel, 8 * fields.len());
    };
    to.copy_from_slice(&fields);
    let dims = |of: [usize; 3]| (of[0] as u32, of[1] as u32, of[2] as u32);
    let config = LaunchConfig {
        grid_dim: dims(launch.grid),
        block_dim: dims(launch.block),
        shared_mem_bytes: launch.shared as u32,
    };
    let mut builder = function.builder();
    builder.arg(&params);
    // SAFETY: whoever made the launch has promised that the kernel stays within its tensors.
    unsafe { builder.launch(config) }.w()?;
    drop(holds);
    Ok(())
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
