//! Tests that need the right to mount a file system.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

use latentsync::Error;
use tempfile::tempdir;

use crate::common::{PLAIN, demo_video, files, open, read_all, write};

/// A mounted file system of 64 KiB. Dropping it unmounts it.
struct TinyDisk(PathBuf);

impl TinyDisk {
    fn mount(at: &Path) -> Self {
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(at).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(at.to_path_buf())
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
#[ignore = "needs the right to mount a file system"]
fn a_full_disk_is_an_error_and_leaves_no_file() {
    let (video, dir) = (demo_video(), tempdir().unwrap());
    let disk = TinyDisk::mount(dir.path());
    let pictures = read_all(&video);
    let error = write(&disk.0.join("out.mp4"), open(&video).info(), &video, &pictures, PLAIN).unwrap_err();
    assert!(error.is_disk_full(), "{error:?}");
    assert_eq!(files(&disk.0), [] as [String; 0]);
    let mut store = latentsync::media::frame_store::FrameStore::create(&disk.0).unwrap();
    let error = store.put(0, &pictures[0], &[]).unwrap_err();
    assert!(Error::from(error).is_disk_full());
}
