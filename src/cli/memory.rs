//! How the program's allocator treats large blocks.

/// Keeps freed memory for the next operation. Every tensor is a block of megabytes that lives for one operation;
/// given back to the system each time, its pages have to be made and cleared anew, which takes a fifth of a
/// denoising step. One arena for all threads, since only that one keeps what it has.
///
/// Only for glibc, and only in the program: a library leaves its caller's allocator alone.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_freed() {
    // SAFETY: plain settings, made before other threads start. A refusal leaves the defaults.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed() {}
