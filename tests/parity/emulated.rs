//! The small model on the CUDA kernels, which the emulator runs on the CPU; needs the feature `cuda-emulator`.

use candle_core::{DType, Result};
use kernels::cuda::emulator::emulated;

use crate::golden::{GoldenSet, image_channels_last, relative_error};
use crate::networks::{UnetCase, VaeInputs, load_unet, load_vae, unet_cases};

/// Element types, and the tolerated relative error against the original's f32.
const TOLERANCES: [(DType, f64); 3] = [(DType::F32, 1e-3), (DType::F16, 3e-2), (DType::BF16, 3e-2)];

/// bf16 is too coarse for the small UNet in any arithmetic: on the CPU its error is 3.3e-2. The error of the kernels
/// may exceed that of the CPU by this factor.
const MAX_ERROR_OVER_CPU: f64 = 1.1;

#[test]
#[cfg_attr(not(feature = "cuda-emulator"), ignore = "needs the feature `cuda-emulator`")]
fn the_unet_equals_the_original() -> Result<()> {
    let set = GoldenSet::in_repository();
    let UnetCase { sample, audio, timestep, output: want, .. } =
        unet_cases(&set)?.remove("b1f16hw8").unwrap();
    for (dtype, tolerance) in TOLERANCES {
        let (sample, audio) = (sample.to_dtype(dtype)?, audio.to_dtype(dtype)?);
        let output = emulated(|| {
            let unet = load_unet(&set, dtype)?;
            let context = unet.context(&audio)?;
            Ok::<_, candle_core::Error>(unet.forward_full(&sample, timestep, &context)?.0)
        })?;
        let error = relative_error(&output, &want)?;
        eprintln!("{dtype:?}: {error:.1e}");
        let tolerance = match dtype {
            DType::BF16 => {
                let unet = load_unet(&set, dtype)?;
                let on_cpu = unet.forward_full(&sample, timestep, &unet.context(&audio)?)?.0;
                MAX_ERROR_OVER_CPU * relative_error(&on_cpu, &want)?
            }
            _ => tolerance,
        };
        assert!(error <= tolerance, "{dtype:?}: {error:.1e}, tolerated {tolerance:.1e}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "cuda-emulator"), ignore = "needs the feature `cuda-emulator`")]
fn the_vae_equals_the_original() -> Result<()> {
    let set = GoldenSet::in_repository();
    let tensors = set.outputs("vae");
    let inputs = VaeInputs::of(&set, &tensors)?;
    for (dtype, tolerance) in TOLERANCES {
        let (image, latents) = (inputs.image.to_dtype(dtype)?, inputs.latents.to_dtype(dtype)?);
        let (mean, decoded) = emulated(|| {
            let vae = load_vae(&set, "vae", dtype)?;
            Ok::<_, candle_core::Error>((vae.encode(&image)?.mean, vae.decode(&latents)?))
        })?;
        for (name, got) in [("mean", mean), ("decoded", decoded)] {
            let error = relative_error(&got, &image_channels_last(&tensors[name])?)?;
            eprintln!("{dtype:?} {name}: {error:.1e}");
            assert!(error <= tolerance, "{dtype:?} {name}: {error:.1e}");
        }
    }
    Ok(())
}
