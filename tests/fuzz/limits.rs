//! An allocator that counts, so that an input that eats the memory is found at once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static START: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Hands out the system's memory. Beyond the limit there is none: the program ends as it does on a full machine.
pub struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allows `bytes` more than are in use now, and forgets the peak.
pub fn allow(bytes: usize) {
    let live = LIVE.load(Ordering::Relaxed);
    START.store(live, Ordering::Relaxed);
    PEAK.store(live, Ordering::Relaxed);
    LIMIT.store(live.saturating_add(bytes), Ordering::Relaxed);
}

/// By how many bytes the memory in use grew at most since [`allow`].
pub fn peak() -> usize {
    PEAK.load(Ordering::Relaxed).saturating_sub(START.load(Ordering::Relaxed))
}

// SAFETY: everything is the system allocator's, whose rules are these; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        if live > LIMIT.load(Ordering::Relaxed) {
            LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract, and the pointer is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}
