//! Conversion of checkpoints to safetensors.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use latentsync::ModelChoice;
use latentsync::system;
use latentsync::weights::Error;
use latentsync::weights::{ConvertOptions, convert};

use crate::checkpoint::{no_hub, open, small_checkpoint, unet_pt};

const CPU: Device = Device::Cpu;

#[test]
fn a_converted_copy_is_smaller_and_loads_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    small_checkpoint(dir.path());
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let output = dir.path().join(format!("out/{}", dtype.as_str()));
        let options = ConvertOptions {
            source: ModelChoice::Directory(dir.path().to_owned()),
            output: output.clone(),
            dtype,
        };
        let mut files = Vec::new();
        let mut note = |progress: latentsync::weights::Progress<'_>| {
            if progress.done == progress.total {
                files.push(progress.file.to_owned());
            }
            Ok(())
        };
        let converted = convert(&options, &no_hub(dir.path()), &mut note).unwrap();
        assert_eq!(converted.directory, output);
        assert!(files.contains(&"latentsync_unet.safetensors".to_owned()), "{files:?}");

        let load = |root: &Path| {
            let get = |vb: candle_nn::VarBuilder<'_>| vb.get((2, 3), "conv_in.weight");
            open(root).unwrap().load_unet(dtype, &CPU, get).unwrap()
        };
        let (before, after) = (load(dir.path()), load(&output));
        assert_eq!(before.dtype(), dtype);
        let difference = (before - after).unwrap().abs().unwrap().sum_all().unwrap();
        assert_eq!(difference.to_dtype(DType::F32).unwrap().to_scalar::<f32>().unwrap(), 0.);
        let copy = open(&output).unwrap();
        assert_eq!(copy.whisper_dims::<HashMap<String, i64>>().unwrap()["n_audio_state"], 48);
        // The file has the hash of its source and the current names of the keys.
        let bytes = fs::read(output.join("latentsync_unet.safetensors")).unwrap();
        let hash = crate::hub::sha256(&unet_pt());
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["source_sha256"], hash);
        let vae = fs::read(output.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
        let vae = safetensors::SafeTensors::deserialize(&vae).unwrap();
        assert_eq!(vae.tensor("decoder.mid_block.attentions.0.to_q.weight").unwrap().shape(), [2, 2]);

        let again = convert(&options, &no_hub(dir.path()), &mut |_| Ok(())).unwrap_err();
        assert!(
            matches!(again, Error::OutputExists { .. }) && again.to_string().contains("exists already"),
            "{again}"
        );
    }
    let mut left: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(
        left,
        ["latentsync_unet.pt", "out", "unet_config.yaml", "vae", "whisper"],
        "beside the sources"
    );
}

#[test]
fn a_cancelled_conversion_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    small_checkpoint(dir.path());
    let options = ConvertOptions {
        source: ModelChoice::Directory(dir.path().to_owned()),
        output: dir.path().join("out/copy"),
        dtype: DType::F16,
    };
    let mut stop = |progress: latentsync::weights::Progress<'_>| match progress.file.starts_with("whisper") {
        true => Err(system::Error::Interrupted.into()),
        false => Ok(()),
    };
    assert!(matches!(
        convert(&options, &no_hub(dir.path()), &mut stop),
        Err(Error::System(system::Error::Interrupted))
    ));
    assert_eq!(fs::read_dir(dir.path().join("out")).unwrap().count(), 0);
}
