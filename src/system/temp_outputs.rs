//! Outputs that are being written, so that a program that must end at once can remove them first.
//!
//! A job that fails or is cancelled removes its own. This is for the case where nobody can wait for it: a
//! large network may compute for seconds before it looks whether the job was cancelled.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::system::{Error, Result};

/// First characters of the names of temporary files beside outputs, which file browsers hide.
pub(crate) const TEMP_PREFIX: &str = ".latentsync-";

static OUTPUTS: Outputs = Outputs::new();

/// Removes every output of this process that is not finished, and those that are begun from now on. To be called
/// right before the process ends: jobs that still run fail.
pub fn remove_unfinished_outputs() {
    OUTPUTS.close();
}

/// The files and directories that some part of a process is writing.
#[derive(Debug)]
struct Outputs(Mutex<State>);

#[derive(Debug)]
struct State {
    paths: Vec<PathBuf>,
    /// The process is about to end: what comes now is removed at once.
    closing: bool,
}

impl Outputs {
    const fn new() -> Self {
        Self(Mutex::new(State { paths: Vec::new(), closing: false }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&'static self, path: &Path) -> Result<Unfinished> {
        let mut state = self.lock();
        if state.closing {
            remove(path);
            return Err(Error::Interrupted);
        }
        state.paths.push(path.to_path_buf());
        Ok(Unfinished { path: path.to_path_buf(), outputs: self })
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        for path in state.paths.drain(..) {
            remove(&path);
        }
    }
}

fn remove(path: &Path) {
    // It may be gone already: the job itself cleans up, too.
    let _ = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
}

/// Keeps a path on the list as long as it lives.
#[derive(Debug)]
pub(crate) struct Unfinished {
    path: PathBuf,
    outputs: &'static Outputs,
}

impl Unfinished {
    /// # Errors
    /// [`Error::Interrupted`] where the process is about to end: nothing must be written any more.
    pub fn new(path: &Path) -> Result<Self> {
        OUTPUTS.begin(path)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.outputs.lock().paths.retain(|path| *path != self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_unfinished_is_removed() {
        static OUTPUTS: Outputs = Outputs::new();
        let directory = tempfile::tempdir().unwrap();
        let [done, half, late] = ["done", "half", "late"].map(|name| directory.path().join(name));
        for path in [&done, &half, &late] {
            std::fs::write(path, "x").unwrap();
        }
        let half_directory = directory.path().join("half-directory");
        std::fs::create_dir_all(half_directory.join("vae")).unwrap();
        drop(OUTPUTS.begin(&done).unwrap());
        let _half = [OUTPUTS.begin(&half).unwrap(), OUTPUTS.begin(&half_directory).unwrap()];
        OUTPUTS.close();
        assert!(done.exists() && !half.exists() && !half_directory.exists());
        // One that was being created while the others were removed.
        assert!(matches!(OUTPUTS.begin(&late), Err(Error::Interrupted)) && !late.exists());
    }
}
