//! What the allocator does with memory that is freed.

/// Keeps freed memory for the next operation. Every tensor is a block of megabytes that lives for one operation;
/// given back to the system each time, its pages have to be made and cleared anew. One arena for all threads,
/// since only that one keeps what it has.
///
/// For a program's first line. The library itself leaves its caller's allocator alone. Only glibc needs it.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: plain settings. A refusal leaves the defaults.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Returns the memory that [`keep_freed`] and [`kernels::allocator`] keep: for when nothing is to be computed for a
/// while.
pub fn give_back() {
    kernels::allocator::give_back();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointer, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
