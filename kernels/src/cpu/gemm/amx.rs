//! Intel's tile registers (AMX): whether they can be used here, and their instructions, which stable Rust only
//! has as inline assembly.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

use super::tiles::{ROW_BYTES, ROWS, Tiles};

/// Whether the CPU has bf16 tiles and the system lets this process use them. Linux wants to be asked for that,
/// once per process, since the registers are larger than what it saves for a thread otherwise; a refusal means
/// that they are not available.
pub fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| cpu_has_tiles() && system_permits())
}

fn cpu_has_tiles() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    /// The configuration and the data of tiles among what the system saves.
    const SAVED: u64 = 1 << 17 | 1 << 18;

    /// # Safety
    /// The system must have switched `xgetbv` on (OSXSAVE).
    #[target_feature(enable = "xsave")]
    unsafe fn saved() -> u64 {
        // SAFETY: the caller's promise.
        unsafe { _xgetbv(0) }
    }

    let (basic, extended) = (__cpuid(1), __cpuid_count(7, 0));
    // SAFETY: only asked where OSXSAVE is set.
    __cpuid(0).eax >= 7
        && basic.ecx & OSXSAVE != 0
        && extended.edx & AMX_BF16 != 0
        && extended.edx & AMX_TILE != 0
        && unsafe { saved() } & SAVED == SAVED
}

#[cfg(target_os = "linux")]
fn system_permits() -> bool {
    /// `ARCH_REQ_XCOMP_PERM` of `asm/prctl.h`, and the number of the tiles' data in XCR0.
    const REQUEST: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: the request changes nothing but what this process may do; it takes no pointer.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

/// Other systems have not been tried.
#[cfg(not(target_os = "linux"))]
fn system_permits() -> bool {
    false
}

/// The layout that `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles as large as they can be.
static CONFIG: Config = {
    let mut config =
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let mut tile = 0;
    while tile < 8 {
        config.row_bytes[tile] = ROW_BYTES as u16;
        config.rows[tile] = ROWS as u8;
        tile += 1;
    }
    config
};

pub struct Amx;

// Names of registers must be literal: one arm of assembly for each number. The compiler has no other use for tiles,
// so they keep their contents from one piece of assembly to the next.
//
// SAFETY (all methods): the trait's: the tiles may be used and are configured, pointers are good. Sixteen rows of
// 64 bytes are what `CONFIG` makes every access.
impl Tiles for Amx {
    unsafe fn configure() {
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, preserves_flags, readonly))
        }
    }

    unsafe fn release() {
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
    }

    #[inline(always)]
    unsafe fn zero<const TILE: usize>() {
        const { assert!(TILE < 8, "a tile that `zero` does not name") };
        macro_rules! arms {
            ($($n:literal $name:tt)*) => {
                match TILE {
                    $($n => unsafe {
                        asm!(concat!("tilezero ", $name), out($name) _, options(nostack, preserves_flags, nomem))
                    },)*
                    _ => unreachable!("tile {TILE}"),
                }
            };
        }
        arms!(0 "tmm0" 1 "tmm1" 2 "tmm2" 3 "tmm3" 4 "tmm4" 5 "tmm5" 6 "tmm6" 7 "tmm7")
    }

    #[inline(always)]
    unsafe fn load<const TILE: usize>(from: *const u8, stride: usize) {
        const { assert!(TILE < 8, "a tile that `load` does not name") };
        macro_rules! arms {
            ($($n:literal $name:tt)*) => {
                match TILE {
                    $($n => unsafe {
                        asm!(
                            concat!("tileloadd ", $name, ", [{from} + {stride}*1]"),
                            from = in(reg) from,
                            stride = in(reg) stride,
                            out($name) _,
                            options(nostack, preserves_flags, readonly),
                        )
                    },)*
                    _ => unreachable!("tile {TILE}"),
                }
            };
        }
        arms!(0 "tmm0" 1 "tmm1" 2 "tmm2" 3 "tmm3" 4 "tmm4" 5 "tmm5" 6 "tmm6" 7 "tmm7")
    }

    #[inline(always)]
    unsafe fn load_streamed<const TILE: usize>(from: *const u8) {
        const { assert!(TILE == 6 || TILE == 7, "a tile that `load_streamed` does not name") };
        macro_rules! arms {
            ($($n:literal $name:tt)*) => {
                match TILE {
                    $($n => unsafe {
                        asm!(
                            concat!("tileloaddt1 ", $name, ", [{from} + {stride}*1]"),
                            from = in(reg) from,
                            stride = in(reg) ROW_BYTES,
                            out($name) _,
                            options(nostack, preserves_flags, readonly),
                        )
                    },)*
                    _ => unreachable!("tile {TILE}"),
                }
            };
        }
        arms!(6 "tmm6" 7 "tmm7")
    }

    #[inline(always)]
    fn prefetch(line: *const u8) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint, which reads nothing; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }

    #[inline(always)]
    unsafe fn store<const TILE: usize>(to: *mut u8, stride: usize) {
        const { assert!(TILE < 4, "a tile that `store` does not name") };
        macro_rules! arms {
            ($($n:literal $name:literal)*) => {
                match TILE {
                    $($n => unsafe {
                        asm!(
                            concat!("tilestored [{to} + {stride}*1], ", $name),
                            to = in(reg) to,
                            stride = in(reg) stride,
                            options(nostack, preserves_flags),
                        )
                    },)*
                    _ => unreachable!("tile {TILE}"),
                }
            };
        }
        arms!(0 "tmm0" 1 "tmm1" 2 "tmm2" 3 "tmm3")
    }

    #[inline(always)]
    unsafe fn dot<const SUM: usize, const LEFT: usize, const RIGHT: usize>() {
        const {
            let named = matches!((SUM, LEFT, RIGHT), (0, 4, 6) | (1, 4, 7) | (2, 5, 6) | (3, 5, 7));
            assert!(named, "tiles that `dot` does not name");
        }
        macro_rules! arms {
            ($($n:tt $sum:tt $left:literal $right:literal)*) => {
                match (SUM, LEFT, RIGHT) {
                    $($n => unsafe {
                        asm!(
                            concat!("tdpbf16ps ", $sum, ", ", $left, ", ", $right),
                            out($sum) _,
                            options(nostack, preserves_flags, nomem),
                        )
                    },)*
                    other => unreachable!("tiles {other:?}"),
                }
            };
        }
        arms!(
            (0, 4, 6) "tmm0" "tmm4" "tmm6"
            (1, 4, 7) "tmm1" "tmm4" "tmm7"
            (2, 5, 6) "tmm2" "tmm5" "tmm6"
            (3, 5, 7) "tmm3" "tmm5" "tmm7"
        )
    }
}
