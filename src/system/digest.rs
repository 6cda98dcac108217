//! SHA-256 of streams, and hexadecimal.

use std::io::Read;

use sha2::{Digest, Sha256};

/// Bytes between two calls of the progress callback.
const STEP: usize = 4 << 20;

/// Why hashing ended early.
pub(crate) enum HashError<E> {
    Read(std::io::Error),
    /// The progress callback's error.
    Stopped(E),
}

/// Hashes all of `file`, calling `on_step` with the number of bytes so far. Returns their total.
pub(crate) fn hash_into<E>(
    hasher: &mut Sha256,
    file: &mut impl Read,
    mut on_step: impl FnMut(u64) -> Result<(), E>,
) -> Result<u64, HashError<E>> {
    let mut buffer = vec![0; STEP];
    let mut done = 0;
    loop {
        on_step(done).map_err(HashError::Stopped)?;
        let read = file.read(&mut buffer).map_err(HashError::Read)?;
        if read == 0 {
            return Ok(done);
        }
        hasher.update(&buffer[..read]);
        done += read as u64;
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
