//! The small checkpoint by the CUDA kernels, which the emulator runs on the CPU; with the feature `cuda-emulator`.

use candle_core::{DType, Device, Result};
use candle_nn::VarBuilder;
use kernels::cuda::emulator::{AVAILABLE, emulated};
use models::vae::AutoencoderKL;

use crate::common::{Golden, relative_error, to_channels_last};
use crate::networks::{image_channels_last, load_unet, small, vae_config, vae_weights};

/// Element types, and how far they may be from the original's f32.
const TOLERANCES: [(DType, f64); 3] = [(DType::F32, 1e-3), (DType::F16, 3e-2), (DType::BF16, 3e-2)];

/// The small UNet's numbers are not kept by bf16, by any arithmetic: on the CPU its error is 3.3e-2. What the kernels add to
/// that must be little.
const OVER_THE_CPU: f64 = 1.1;

/// `None`, said on stderr, where there is nothing to test.
fn golden() -> Option<Golden> {
    if !AVAILABLE {
        eprintln!("skipped: built without the feature `cuda-emulator`");
        return None;
    }
    Golden::open()
}

#[test]
fn emulated_unet() -> Result<()> {
    let Some(golden) = golden() else {
        return Ok(());
    };
    let Some(model) = small(&golden) else {
        return Ok(());
    };
    let Some(tensors) = golden.tensors(model.join("unet_golden.safetensors")) else {
        return Ok(());
    };
    let case = |name: &str| &tensors[&format!("b1f16hw8.{name}")];
    let timestep = case("timestep").to_vec1::<i64>()?[0] as usize;
    let want = to_channels_last(case("output"))?;
    for (dtype, tolerance) in TOLERANCES {
        let sample = to_channels_last(case("sample"))?.to_dtype(dtype)?;
        let audio = case("audio").to_dtype(dtype)?;
        let output = emulated(|| {
            let unet = load_unet(&golden, &model, dtype)?;
            let context = unet.context(&audio)?;
            Ok::<_, candle_core::Error>(unet.forward_full(&sample, timestep, &context)?.0)
        })?;
        let error = relative_error(&output, &want)?;
        eprintln!("{dtype:?}: {error:.1e}");
        let tolerance = match dtype {
            DType::BF16 => {
                let unet = load_unet(&golden, &model, dtype)?;
                let on_cpu = unet.forward_full(&sample, timestep, &unet.context(&audio)?)?.0;
                OVER_THE_CPU * relative_error(&on_cpu, &want)?
            }
            _ => tolerance,
        };
        assert!(error <= tolerance, "{dtype:?}: {error:.1e}, tolerated {tolerance:.1e}");
    }
    Ok(())
}

#[test]
fn emulated_vae() -> Result<()> {
    let Some(golden) = golden() else {
        return Ok(());
    };
    let Some(model) = small(&golden) else {
        return Ok(());
    };
    let Some(tensors) = golden.tensors(model.join("vae_golden.safetensors")) else {
        return Ok(());
    };
    let dir = golden.path(&model).join("vae");
    for (dtype, tolerance) in TOLERANCES {
        let of = |name: &str| image_channels_last(&tensors[name])?.to_dtype(dtype);
        let (image, latent) = (of("image")?, of("latent_in")?);
        let (mean, decoded) = emulated(|| {
            let vb = VarBuilder::from_tensors(vae_weights(&dir), dtype, &Device::Cpu);
            let vae = AutoencoderKL::load(&vae_config(&dir.join("config.json")), vb)?;
            Ok::<_, candle_core::Error>((vae.encode(&image)?.mean, vae.decode(&latent)?))
        })?;
        for (name, got) in [("mean", mean), ("decoded", decoded)] {
            let error = relative_error(&got, &image_channels_last(&tensors[name])?)?;
            eprintln!("{dtype:?} {name}: {error:.1e}");
            assert!(error <= tolerance, "{dtype:?} {name}: {error:.1e}");
        }
    }
    Ok(())
}
