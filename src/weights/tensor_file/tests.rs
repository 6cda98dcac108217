//! Files good and bad: formats, damage, accounts.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::weights::pt;
use crate::weights::vars::Wanted;

/// A file in a directory that goes away with it.
struct Written {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn written(name: &str, bytes: &[u8]) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    Written { _dir: dir, path }
}

fn open(name: &str, bytes: &[u8]) -> Result<TensorFile> {
    TensorFile::open(written(name, bytes).path.clone().into())
}

fn pickled(key: &'static str, shape: &'static [u32], strides: &'static [u32]) -> pt::Pickled<'static> {
    pt::Pickled { key, class: "FloatStorage", storage: ("0", 6), offset: 0, shape, strides }
}

const SIX: [f32; 6] = [0., 1., 2., 3., 4., 5.];

/// One storage of six numbers, seen as `tensors`.
fn checkpoint(tensors: &[pt::Pickled<'_>]) -> Vec<u8> {
    pt::archive(&pt::pickle(Some("state_dict"), tensors), &[("0", &pt::f32_bytes(&SIX))])
}

fn safetensors(tensors: &[(&str, Tensor)]) -> Vec<u8> {
    let tensors = tensors.iter().map(|(key, tensor)| (*key, tensor.clone()));
    safetensors::serialize(tensors, None).unwrap()
}

fn rows(file: &TensorFile, key: &str, dtype: DType) -> Vec<Vec<f32>> {
    let tensor = file.read(&file.tensors()[key], dtype, &Device::Cpu).unwrap();
    assert_eq!(tensor.dtype(), dtype);
    tensor.to_dtype(DType::F32).unwrap().to_vec2().unwrap()
}

#[test]
fn views_of_a_storage_are_read_as_they_are_strided() {
    let file = open(
        "w.pt",
        &checkpoint(&[
            pickled("rows", &[2, 3], &[3, 1]),
            pickled("transposed", &[3, 2], &[1, 3]),
            pickled("column", &[2, 1], &[3, 1]),
            pt::Pickled { offset: 4, ..pickled("tail", &[1, 2], &[2, 1]) },
        ]),
    )
    .unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        assert_eq!(rows(&file, "rows", dtype), [[0., 1., 2.], [3., 4., 5.]]);
        assert_eq!(rows(&file, "transposed", dtype), [[0., 3.], [1., 4.], [2., 5.]]);
        assert_eq!(rows(&file, "column", dtype), [[0.], [3.]]);
        assert_eq!(rows(&file, "tail", dtype), [[4., 5.]]);
    }
}

#[test]
fn every_dtype_of_the_formats_is_read() {
    let halves: Vec<u8> = SIX.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let brains: Vec<u8> = SIX.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
    let longs: Vec<u8> = (0..6_i64).flat_map(i64::to_le_bytes).collect();
    for (class, bytes, dtype) in [
        ("HalfStorage", halves, DType::F16),
        ("BFloat16Storage", brains, DType::BF16),
        ("LongStorage", longs, DType::I64),
    ] {
        let tensor = pt::Pickled { class, ..pickled("w", &[2, 3], &[3, 1]) };
        let file = open("w.pt", &pt::archive(&pt::pickle(None, &[tensor]), &[("0", &bytes)])).unwrap();
        assert_eq!(file.tensors()["w"].dtype, dtype);
        assert_eq!(rows(&file, "w", DType::F32), [[0., 1., 2.], [3., 4., 5.]], "{class}");
    }
}

#[test]
fn a_view_beyond_its_storage_is_refused() {
    let outside = [
        pickled("w", &[2, 4], &[4, 1]),
        pickled("w", &[2, 3], &[4, 1]),
        pickled("w", &[0x7fff_ffff, 0x7fff_ffff, 0x7fff_ffff], &[0, 0, 0]),
        pt::Pickled { offset: 5, ..pickled("w", &[2], &[1]) },
        pt::Pickled { storage: ("0", 7), ..pickled("w", &[6], &[1]) },
        pt::Pickled { storage: ("1", 6), ..pickled("w", &[6], &[1]) },
    ];
    for tensor in outside {
        let error = open("w.pt", &checkpoint(&[tensor])).unwrap_err().to_string();
        assert!(error.contains("`w`") && error.contains("data"), "{error}");
    }
}

#[test]
fn code_in_an_archive_or_bare_is_refused_by_name() {
    let evil = b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.";
    for bytes in [pt::archive(evil, &[]), evil.to_vec()] {
        let error = open("x.pt", &bytes).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("x.pt` contains code (posix.system) and was refused"), "{error}");
    }
    let plain = open("x.pt", b"\x80\x02}.").unwrap_err().to_string();
    assert!(plain.contains("outside an archive"), "{plain}");
}

/// The length of the header comes first: 1 file in 32 looked like a pickle, some like an archive.
#[test]
fn a_safetensors_file_may_begin_with_any_bytes() {
    for length in [0x80_u64, 0x4b50] {
        let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let header = format!("{header:<width$}", width = length as usize);
        let bytes = [&length.to_le_bytes()[..], header.as_bytes(), &1f32.to_le_bytes()[..]].concat();
        let file = open("w.safetensors", &bytes).unwrap();
        assert!(file.tensors().contains_key("a"), "header of {length} bytes");
    }
}

#[test]
fn a_truncated_file_says_what_it_should_be() {
    let whole = safetensors(&[("a", Tensor::new(&SIX, &Device::Cpu).unwrap())]);
    for end in 1..8 {
        let error = open("w.safetensors", &whole[..end]).unwrap_err().to_string();
        assert!(error.ends_with(&format!("it is no checkpoint, only {end} bytes")), "{error}");
    }
    for end in 8..whole.len() {
        let error = open("w.safetensors", &whole[..end]).unwrap_err().to_string();
        assert!(error.contains(&format!("is truncated: {end} bytes, expected")), "{error}");
    }
    let error = open("w.safetensors", &whole[..whole.len() - 1]).unwrap_err().to_string();
    assert!(error.ends_with(&format!("expected {}", whole.len())), "{error}");

    let whole = checkpoint(&[pickled("w", &[6], &[1])]);
    let pickle_ends = 400;
    for end in pickle_ends..whole.len() - 30 {
        let error = open("w.pt", &whole[..end]).unwrap_err();
        assert!(matches!(error, Error::Truncated { model: None, .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.contains(&format!("is truncated: {end} bytes, expected")), "{error}");
    }
}

#[test]
fn cut_or_altered_anywhere_it_never_panics() {
    let archive = checkpoint(&[pickled("w", &[2, 3], &[3, 1])]);
    let tensors = safetensors(&[("a", Tensor::new(&SIX, &Device::Cpu).unwrap())]);
    for (name, good) in [("w.pt", archive), ("w.safetensors", tensors)] {
        let file = written(name, &good);
        for end in 0..good.len() {
            fs::write(&file.path, &good[..end]).unwrap();
            let _ = TensorFile::open(file.path.clone().into());
        }
        for at in 0..good.len() {
            for byte in [0xff, good[at] ^ 1, good[at] ^ 0x80] {
                let mut bad = good.clone();
                bad[at] = byte;
                fs::write(&file.path, &bad).unwrap();
                if let Ok(opened) = TensorFile::open(file.path.clone().into()) {
                    for tensor in opened.tensors().values() {
                        let _ = opened.read(tensor, DType::F32, &Device::Cpu);
                    }
                }
            }
        }
    }
}

#[test]
fn lengths_that_cannot_be_are_no_allocation() {
    for length in [u64::MAX, 1 << 62, 100 << 20, 9] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(b"garbage");
        assert!(open("w.safetensors", &bytes).is_err(), "{length}");
    }
    assert!(open("w.safetensors", b"").unwrap_err().to_string().contains("is truncated: 0 bytes"));
    assert!(open("w.pt", b"PK\x03\x04").unwrap_err().to_string().contains("is truncated: 4 bytes"));
}

fn wanted() -> Wanted<'static> {
    Wanted { dtype: DType::F32, device: &Device::Cpu, unused: |key| key.ends_with(".pe") }
}

#[test]
fn every_key_is_accounted_for() {
    let file = written(
        "w.pt",
        &checkpoint(&[
            pickled("a.weight", &[2, 3], &[3, 1]),
            pickled("a.bias", &[6], &[1]),
            pickled("b.pe", &[6], &[1]),
        ]),
    );
    let file = TensorFile::open(file.path.clone().into()).unwrap();
    let sum = file
        .load(&wanted(), |vb| {
            let vb = vb.pp("a");
            vb.get((2, 3), "weight")?.flatten_all()?.add(&vb.get(6, "bias")?)?.sum_all()?.to_scalar::<f32>()
        })
        .unwrap();
    assert_eq!(sum, 30.);

    let missing = file.load(&wanted(), |vb| vb.get(6, "c.weight")).unwrap_err().to_string();
    assert!(missing.contains("w.pt`: missing key `c.weight`"), "{missing}");
    let shape = file.load(&wanted(), |vb| vb.get((3, 2), "a.weight")).unwrap_err().to_string();
    assert!(shape.ends_with("shape of `a.weight`: expected [3, 2], got [2, 3]"), "{shape}");
    let unexpected = file.load(&wanted(), |vb| vb.get(6, "a.bias")).unwrap_err().to_string();
    assert!(unexpected.ends_with("w.pt`: unexpected key `a.weight`"), "{unexpected}");
    let twice = file.load(&wanted(), |vb| {
        vb.get((2, 3), "a.weight")?;
        vb.get(6, "a.bias")?;
        vb.get(6, "a.bias")
    });
    assert!(twice.unwrap_err().to_string().contains("`a.bias` was read 2 times"));
}

#[test]
fn many_unexpected_keys_are_counted() {
    let keys = ["k0", "k1", "k2", "k3", "k4"].map(|key| pickled(key, &[6], &[1]));
    let file = open("w.pt", &checkpoint(&keys)).unwrap();
    let error = file.load(&wanted(), |_| Ok(())).unwrap_err().to_string();
    assert!(error.ends_with("unexpected keys `k0`, `k1`, `k2` and 2 more"), "{error}");
}
