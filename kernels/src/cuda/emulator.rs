//! The kernels on a CPU: their own source, compiled for the host, with a block's threads as fibers. For tests, with
//! the feature `cuda-emulator`; without it, a launch on a CPU is an error.

use std::cell::Cell;

use candle_core::{CpuStorage, DType, Result, Storage, bail};

use super::launch::Launch;

/// Whether the kernels were compiled for the host.
pub const AVAILABLE: bool = cfg!(feature = "cuda-emulator");

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`; meanwhile, on this thread, operations on tensors of the CPU go the way of those on a CUDA device.
pub fn emulated<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ON.set(self.0);
        }
    }
    let _restore = Restore(ON.replace(true));
    f()
}

pub(super) fn is_on() -> bool {
    ON.get()
}

/// Runs `launch`, which writes `out`.
pub(super) fn run(launch: &Launch, out: &mut CpuStorage) -> Result<()> {
    let inputs: Vec<_> = launch.tensors().map(|x| x.storage_and_layout()).collect();
    let mut addresses = Vec::with_capacity(inputs.len());
    for (storage, layout) in &inputs {
        let (Storage::Cpu(storage), Some((start, _))) = (&**storage, layout.contiguous_offsets()) else {
            bail!("{}: expected a contiguous tensor on the CPU, got {layout:?}", launch.kernel);
        };
        let (address, dtype) = address(storage)?;
        addresses.push(address + (start * dtype.size_in_bytes()) as u64);
    }
    call(launch, launch.params(&addresses, address_mut(out)?)?.bytes())
}

#[cfg(not(feature = "cuda-emulator"))]
fn call(launch: &Launch, _: &[u8]) -> Result<()> {
    bail!("{}: built without the feature `cuda-emulator`", launch.kernel)
}

#[cfg(feature = "cuda-emulator")]
fn call(launch: &Launch, params: &[u8]) -> Result<()> {
    use std::ffi::{CStr, CString, c_char, c_uint, c_void};

    unsafe extern "C" {
        fn emulator_launch(
            kernel: *const c_char,
            grid: *const c_uint,
            block: *const c_uint,
            shared: usize,
            params: *const c_void,
            params_size: usize,
            message: *mut c_char,
            room: usize,
        );
    }

    let kernel = CString::new(launch.kernel.to_string()).map_err(candle_core::Error::wrap)?;
    let dims = |of: [usize; 3]| of.map(|n| n as c_uint);
    let (grid, block) = (dims(launch.grid), dims(launch.block));
    let mut message = [0 as c_char; 256];
    // SAFETY: the emulator checks what it is given but for the tensors, and whoever made the launch has promised that
    // the kernel stays within those. It ends the message with a zero.
    let message = unsafe {
        emulator_launch(
            kernel.as_ptr(),
            grid.as_ptr(),
            block.as_ptr(),
            launch.shared,
            params.as_ptr().cast(),
            params.len(),
            message.as_mut_ptr(),
            message.len(),
        );
        CStr::from_ptr(message.as_ptr())
    };
    if !message.is_empty() {
        bail!("{}: {}", launch.kernel, message.to_string_lossy());
    }
    Ok(())
}

fn address(storage: &CpuStorage) -> Result<(u64, DType)> {
    Ok(match storage {
        CpuStorage::U8(x) => (x.as_ptr() as u64, DType::U8),
        CpuStorage::I32(x) => (x.as_ptr() as u64, DType::I32),
        CpuStorage::F32(x) => (x.as_ptr() as u64, DType::F32),
        CpuStorage::F16(x) => (x.as_ptr() as u64, DType::F16),
        CpuStorage::BF16(x) => (x.as_ptr() as u64, DType::BF16),
        _ => bail!("no kernel takes such a tensor"),
    })
}

fn address_mut(storage: &mut CpuStorage) -> Result<u64> {
    Ok(match storage {
        CpuStorage::U8(x) => x.as_mut_ptr() as u64,
        CpuStorage::F32(x) => x.as_mut_ptr() as u64,
        CpuStorage::F16(x) => x.as_mut_ptr() as u64,
        CpuStorage::BF16(x) => x.as_mut_ptr() as u64,
        _ => bail!("no kernel writes such a tensor"),
    })
}
