//! Writer of PyTorch checkpoints, valid and invalid ones.

use std::io::{Cursor, Write};

/// A tensor in a pickle.
#[derive(Clone)]
pub struct Pickled<'a> {
    pub key: &'a str,
    /// `FloatStorage`, `HalfStorage`, …
    pub class: &'a str,
    /// Name of the storage in the archive, and its length in elements.
    pub storage: (&'a str, u32),
    pub offset: u8,
    pub shape: &'a [u32],
    pub strides: &'a [u32],
}

/// The pickle of `{name: OrderedDict of tensors}`, or of the dictionary itself if `name` is `None`.
pub fn pickle(name: Option<&str>, tensors: &[Pickled<'_>]) -> Vec<u8> {
    let mut out = vec![0x80, 2];
    if let Some(name) = name {
        out.extend(b"}q\0(X\x0b\0\0\0global_stepK\x07");
        text(&mut out, name);
    }
    out.extend(b"ccollections\nOrderedDict\n)R(");
    for tensor in tensors {
        text(&mut out, tensor.key);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage");
        out.extend(format!("ctorch\n{}\n", tensor.class).bytes());
        text(&mut out, tensor.storage.0);
        text(&mut out, "cpu");
        int(&mut out, tensor.storage.1);
        out.extend(b"tQK");
        out.push(tensor.offset);
        for sizes in [tensor.shape, tensor.strides] {
            out.push(b'(');
            sizes.iter().for_each(|&size| int(&mut out, size));
            out.push(b't');
        }
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.push(b'u');
    if name.is_some() {
        out.push(b'u');
    }
    out.push(b'.');
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}

fn int(out: &mut Vec<u8>, value: u32) {
    out.push(b'J');
    out.extend(value.to_le_bytes());
}

/// The zip archive of a pickle, in the layout of `torch.save`.
pub fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add("data.pkl", pickle);
    add("byteorder", b"little");
    for (key, bytes) in storages {
        add(&format!("data/{key}"), bytes);
    }
    add("version", b"3\n");
    zip.finish().unwrap().into_inner()
}

/// The little-endian bytes of the values.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
