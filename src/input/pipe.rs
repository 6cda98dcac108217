//! Inputs that can be read only once: the standard input, pipes, devices.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tempfile::TempPath;

use super::Input;
use super::spool::{FetchLimits, Spool, SpoolFile};
use crate::input::{Error, Result};
use crate::system;
use crate::system::cancel::CancelToken;
use crate::system::temp_outputs::Unfinished;

/// How often it is looked whether the job was cancelled.
const TICK: Duration = Duration::from_millis(100);
/// Bytes that are read at a time.
const PIECE: usize = 1 << 16;

/// Is a path the standard input, a pipe or a device such as a terminal? A directory is not, and is refused later.
pub(super) fn is_read_once(path: &Path) -> bool {
    if path == Path::new("-") {
        return true;
    }
    #[cfg(unix)]
    if let Ok(metadata) = std::fs::metadata(path) {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        return kind.is_fifo() || kind.is_char_device();
    }
    false
}

/// Reads all of it into a temporary file.
pub(super) fn read(
    input: &Input,
    path: &Path,
    spool: &Spool,
    cancel: &CancelToken,
) -> Result<(TempPath, Unfinished)> {
    let problem = |problem| Error::Fetch { input: input.to_string(), problem };
    let extension = path.extension().and_then(|extension| extension.to_str());
    // A program may think for a while before it writes: only the time for all of it counts.
    let limits = FetchLimits { stall: spool.limits.total, ..spool.limits };
    let mut file = SpoolFile::create(&Spool { limits, ..spool.clone() }, extension)?;
    let pieces = read_apart(path.to_path_buf());
    loop {
        cancel.check()?;
        file.check_time().map_err(problem)?;
        match pieces.recv_timeout(TICK) {
            Ok(Ok(piece)) => file.write(&piece)?.map_err(problem)?,
            Ok(Err(source)) => {
                return Err(system::Error::ReadFile { path: path.to_path_buf(), source }.into());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    file.finish()?.map_err(problem)
}

/// Reads on a thread of its own: opening a pipe waits for its writer, and nothing ends a read that waits. Such a
/// thread is left to itself.
fn read_apart(path: PathBuf) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = sync_channel(4);
    std::thread::spawn(move || {
        if let Err(error) = send_pieces(&path, &sender) {
            // Nobody may listen any more.
            let _ = sender.send(Err(error));
        }
    });
    receiver
}

fn send_pieces(path: &Path, sender: &SyncSender<io::Result<Vec<u8>>>) -> io::Result<()> {
    let mut input: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut piece = vec![0; PIECE];
    loop {
        match input.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) if sender.send(Ok(piece[..n].to_vec())).is_err() => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
