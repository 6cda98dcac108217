//! CUDA emulator: the kernels' own source compiled for the host, with the threads of a block as fibers. For
//! tests, with the feature `cuda-emulator`; without the feature a launch on a CPU tensor is an error.

use std::cell::Cell;

use candle_core::{CpuStorage, DType, Result, Storage, bail};

use super::launch::Launch;

/// Whether this build contains the emulator.
pub const AVAILABLE: bool = cfg!(feature = "cuda-emulator");

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with the emulator active on this thread: operations on CPU tensors use the CUDA versions.
pub fn emulated<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
        }
    }
    let _restore = Restore(ACTIVE.replace(true));
    f()
}

pub(super) fn is_active() -> bool {
    ACTIVE.get()
}

/// Runs `launch` to its end; it writes `out`.
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
    bail!("{}: cannot run on the CPU, this build lacks the feature `cuda-emulator`", launch.kernel)
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
            message_size: usize,
        );
    }

    let kernel = CString::new(launch.kernel.to_string()).map_err(candle_core::Error::wrap)?;
    let dims = |of: [usize; 3]| of.map(|n| n as c_uint);
    let (grid, block) = (dims(launch.grid), dims(launch.block));
    let mut message = [0 as c_char; 256];
    // SAFETY: the emulator validates all arguments except the tensors' addresses; the caller of `Launch::run`
    // guarantees that the kernel accesses only its tensors. The emulator terminates the message with a zero
    // byte.
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
        _ => bail!("no CUDA kernel reads tensors of this dtype"),
    })
}

fn address_mut(storage: &mut CpuStorage) -> Result<u64> {
    Ok(match storage {
        CpuStorage::U8(x) => x.as_mut_ptr() as u64,
        CpuStorage::F32(x) => x.as_mut_ptr() as u64,
        CpuStorage::F16(x) => x.as_mut_ptr() as u64,
        CpuStorage::BF16(x) => x.as_mut_ptr() as u64,
        _ => bail!("no CUDA kernel writes tensors of this dtype"),
    })
}
