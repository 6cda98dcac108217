//! Global allocator for programs that run the networks on a CPU.
//!
//! Blocks of 16 KB and more are whole cache lines (tile loads then never split a line) inside one address range with
//! transparent huge pages (with 4 KB pages half of the memory bandwidth is lost to page walks). Freed blocks are kept,
//! because every tensor is a block of megabytes that lives for one operation, until [`give_back`] returns their
//! pages to the system. Smaller blocks come from the system's allocator.

use std::alloc::{GlobalAlloc, Layout, System};

/// The allocator; install it with `#[global_allocator]`.
#[derive(Debug)]
pub struct Allocator;

/// Returns the pages of all free large blocks to the system.
pub fn give_back() {
    large::give_back();
}

/// Bytes of large blocks in use, and bytes of free ones that are kept.
pub fn large_bytes() -> (usize, usize) {
    large::bytes()
}

#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod large {
    use std::alloc::Layout;
    use std::collections::{BTreeMap, BTreeSet};
    use std::ptr;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Smallest block, in bytes.
    const MIN_BYTES: usize = 16 << 10;
    /// Blocks are multiples of this.
    const LINE: usize = 64;
    const PAGE: usize = 4 << 10;
    const HUGE_PAGE: usize = 2 << 20;
    /// Reserved addresses, not memory.
    const RESERVED: usize = 1 << 40;
    /// Lines after each block, so that large blocks do not all begin at the same offset of a page: equal offsets
    /// compete for the same sets of the L1 cache.
    const STAGGER: usize = 17 * LINE;
    /// A recently freed block is reused for a request of at least this share of it, in 1/16.
    const MIN_USE: usize = 15;

    /// The address range and its free parts. Internal nodes are small and come from the system's allocator.
    struct Heap {
        start: usize,
        /// Never used beyond.
        top: usize,
        end: usize,
        /// Freed blocks (start, bytes), oldest first: the last one is the most likely to be in a cache.
        recent: Vec<(usize, usize)>,
        /// Coalesced free ranges by start and by size.
        by_start: BTreeMap<usize, usize>,
        by_size: BTreeSet<(usize, usize)>,
        used: usize,
    }

    static HEAP: Mutex<Heap> = Mutex::new(Heap {
        start: 0,
        top: 0,
        end: 0,
        recent: Vec::new(),
        by_start: BTreeMap::new(),
        by_size: BTreeSet::new(),
        used: 0,
    });

    /// Set where the system refuses the address range: all blocks then come from its own allocator.
    static REFUSED: AtomicBool = AtomicBool::new(false);

    /// Blocks freed last that are searched for a fit before the coalesced ranges.
    const MAX_RECENT: usize = 64;

    fn heap() -> MutexGuard<'static, Heap> {
        HEAP.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn supports(layout: Layout) -> bool {
        layout.size() >= MIN_BYTES && layout.align() <= LINE && !REFUSED.load(Ordering::Relaxed)
    }

    fn block_bytes(layout: Layout) -> usize {
        layout.size().next_multiple_of(LINE) + STAGGER
    }

    /// Null where the range is exhausted.
    pub fn allocate(layout: Layout) -> *mut u8 {
        let bytes = block_bytes(layout);
        let mut heap = heap();
        let start = heap.take_recent(bytes).or_else(|| heap.take_range(bytes)).or_else(|| {
            heap.coalesce(0);
            heap.take_range(bytes).or_else(|| heap.extend(bytes))
        });
        match start {
            Some(start) => {
                heap.used += bytes;
                ptr::with_exposed_provenance_mut(start)
            }
            None => ptr::null_mut(),
        }
    }

    /// `block` must come from [`allocate`] with this layout.
    pub fn free(block: *mut u8, layout: Layout) {
        let bytes = block_bytes(layout);
        let mut heap = heap();
        heap.used -= bytes;
        heap.recent.push((block.expose_provenance(), bytes));
        if heap.recent.len() > MAX_RECENT {
            heap.coalesce(MAX_RECENT / 2);
        }
    }

    pub fn bytes() -> (usize, usize) {
        let heap = heap();
        (heap.used, heap.top - heap.start.next_multiple_of(HUGE_PAGE).min(heap.top) - heap.used)
    }

    pub fn give_back() {
        let mut heap = heap();
        heap.coalesce(0);
        // Free ranges at the end are no longer part of the heap.
        if let Some((&start, &bytes)) = heap.by_start.last_key_value()
            && start + bytes == heap.top
        {
            heap.remove_range(start, bytes);
            release(start, heap.top);
            heap.top = start;
        }
        for (&start, &bytes) in &heap.by_start {
            release(start, start + bytes);
        }
    }

    /// Returns the whole pages of an unused range to the system.
    fn release(start: usize, end: usize) {
        let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if start < end {
            // SAFETY: pages of the heap's own mapping that belong to no block; they read as zeros afterwards.
            unsafe {
                libc::madvise(ptr::with_exposed_provenance_mut(start), end - start, libc::MADV_DONTNEED)
            };
        }
    }

    impl Heap {
        /// The most recently freed block that fits closely; the rest of it stays free.
        fn take_recent(&mut self, bytes: usize) -> Option<usize> {
            let fits = |&(_, size): &(usize, usize)| size >= bytes && size / 16 * MIN_USE <= bytes;
            let at = self.recent.iter().rposition(fits)?;
            let (start, size) = self.recent.remove(at);
            if size > bytes {
                self.add_range(start + bytes, size - bytes);
            }
            Some(start)
        }

        /// The smallest coalesced range that fits.
        fn take_range(&mut self, bytes: usize) -> Option<usize> {
            let &(size, start) = self.by_size.range((bytes, 0)..).next()?;
            self.remove_range(start, size);
            if size > bytes {
                self.add_range(start + bytes, size - bytes);
            }
            Some(start)
        }

        /// Moves all but the last `keep` freed blocks to the coalesced ranges.
        fn coalesce(&mut self, keep: usize) {
            let count = self.recent.len().saturating_sub(keep);
            let moved: Vec<_> = self.recent.drain(..count).collect();
            moved.into_iter().for_each(|(start, bytes)| self.add_range(start, bytes));
        }

        fn add_range(&mut self, mut start: usize, mut bytes: usize) {
            if let Some((&before, &size)) = self.by_start.range(..start).next_back()
                && before + size == start
            {
                self.remove_range(before, size);
                (start, bytes) = (before, size + bytes);
            }
            if let Some(&size) = self.by_start.get(&(start + bytes)) {
                self.remove_range(start + bytes, size);
                bytes += size;
            }
            self.by_start.insert(start, bytes);
            self.by_size.insert((bytes, start));
        }

        fn remove_range(&mut self, start: usize, bytes: usize) {
            self.by_start.remove(&start);
            self.by_size.remove(&(bytes, start));
        }

        fn extend(&mut self, bytes: usize) -> Option<usize> {
            if self.start == 0 && self.reserve().is_none() {
                REFUSED.store(true, Ordering::Relaxed);
                return None;
            }
            let start = self.top;
            let end = start + bytes;
            (end <= self.end).then(|| {
                self.top = end;
                start
            })
        }

        fn reserve(&mut self) -> Option<()> {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // A system may limit the address space of a process.
            let (start, bytes) = [RESERVED, RESERVED >> 4, RESERVED >> 6].into_iter().find_map(|bytes| {
                // SAFETY: a new mapping at an address that the system chooses.
                let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
                (start != libc::MAP_FAILED).then_some((start, bytes))
            })?;
            // SAFETY: the mapping that was just made; a refusal leaves pages of 4 KB.
            unsafe { libc::madvise(start, bytes, libc::MADV_HUGEPAGE) };
            self.start = start.expose_provenance();
            self.top = self.start.next_multiple_of(HUGE_PAGE);
            self.end = self.start + bytes;
            Some(())
        }
    }
}

/// On other systems all blocks come from the system's allocator.
#[cfg(not(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")))]
mod large {
    use std::alloc::Layout;

    pub fn supports(_: Layout) -> bool {
        false
    }

    pub fn allocate(_: Layout) -> *mut u8 {
        std::ptr::null_mut()
    }

    pub fn free(_: *mut u8, _: Layout) {}

    pub fn give_back() {}

    pub fn bytes() -> (usize, usize) {
        (0, 0)
    }
}

// SAFETY: a block belongs to the system's allocator or to `large`, which its layout decides; `large` hands out
// disjoint ranges of at least the requested bytes, aligned to 64 bytes.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if large::supports(layout) {
            let block = large::allocate(layout);
            if !block.is_null() || large::supports(layout) {
                return block;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !large::supports(layout) {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: a new block of that many bytes.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if large::supports(layout) {
            return large::free(block, layout);
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size`, rounded up to the alignment, does not overflow.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if !large::supports(layout) && !large::supports(wanted) {
            // SAFETY: the caller's promise.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller's promise about `block` and `layout`; the two blocks do not overlap.
        unsafe {
            let new = self.alloc(wanted);
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(block, new, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn large_blocks_are_aligned_disjoint_and_keep_their_contents() {
        let mut blocks: Vec<Vec<u8>> = Vec::new();
        for round in 0..200usize {
            let bytes = (16 << 10) + round * 7919 % (3 << 20);
            let block = vec![round as u8; bytes];
            assert_eq!(block.as_ptr().addr() % 64, 0);
            blocks.push(block);
            if round % 3 == 2 {
                blocks.swap_remove(round % blocks.len());
            }
            if round % 50 == 0 {
                give_back();
            }
        }
        for block in &mut blocks {
            let first = block[0];
            assert!(block.iter().all(|x| *x == first));
            block.resize(block.len() + 100_000, first);
            assert!(block.iter().all(|x| *x == first));
        }
    }

    #[test]
    fn freed_pages_are_returned_to_the_system() {
        const BYTES: usize = 256 << 20;
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
            let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
            pages.unwrap_or_default() * 4096
        };
        let block = vec![1u8; BYTES];
        let full = resident();
        drop(block);
        give_back();
        let empty = resident();
        // Other tests of this process allocate meanwhile.
        assert!(full > empty + BYTES / 2, "{full} bytes before, {empty} after");
    }
}
