//! The most that this machine's arithmetic gives, with all operands in registers: the ceiling that a kernel's rate is
//! a share of.

use std::hint::black_box;
use std::time::Instant;

use candle_core::DType;

use super::Isa;

#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "aarch64")]
mod arm;

/// Seconds of a run: long beside looking at the clock, short beside the time between two interruptions.
const LONG_ENOUGH: f64 = 5e-4;
/// Runs on every thread.
const RUNS: usize = 101;

/// A loop of multiply-adds on registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// f32, what the compiler makes of plain Rust.
    PortableF32,
    Avx2F32,
    Avx512F32,
    /// Dot products of bf16 pairs.
    Avx512Bf16,
    /// Tiles of bf16.
    AmxBf16,
    NeonF32,
    /// Matrices of bf16.
    NeonBf16,
}

impl Loop {
    const ALL: [Loop; 7] = [
        Loop::PortableF32,
        Loop::Avx2F32,
        Loop::Avx512F32,
        Loop::Avx512Bf16,
        Loop::AmxBf16,
        Loop::NeonF32,
        Loop::NeonBf16,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Loop::PortableF32 => "portable_f32",
            Loop::Avx2F32 => "avx2_f32",
            Loop::Avx512F32 => "avx512_f32",
            Loop::Avx512Bf16 => "avx512_bf16",
            Loop::AmxBf16 => "amx_bf16",
            Loop::NeonF32 => "neon_f32",
            Loop::NeonBf16 => "neon_bf16",
        }
    }

    /// Those that this machine can run, the slowest first.
    pub fn available() -> Vec<Loop> {
        Self::ALL.into_iter().filter(|of| of.runs_here()).collect()
    }

    /// The one whose instructions the kernels of `isa` multiply `dtype` with.
    pub fn of(isa: Isa, dtype: DType) -> Loop {
        match isa {
            Isa::Portable => Loop::PortableF32,
            Isa::Avx2 => Loop::Avx2F32,
            Isa::Amx if dtype == DType::BF16 => Loop::AmxBf16,
            Isa::Avx512Bf16 if dtype == DType::BF16 => Loop::Avx512Bf16,
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => Loop::Avx512F32,
            Isa::NeonBf16 if dtype == DType::BF16 => Loop::NeonBf16,
            Isa::Neon | Isa::NeonBf16 => Loop::NeonF32,
            #[cfg(test)]
            Isa::TileModel => Loop::PortableF32,
        }
    }

    /// Operations a second of all cores that the pool uses, together; a multiply-add is two. Takes a tenth of a second,
    /// more on a busy machine.
    ///
    /// Every thread takes the median of many short runs, few of which another process interrupts: so the figure is the
    /// machine's also while others compute.
    pub fn measure(self) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut iterations = 1 << 10;
        while self.seconds(iterations) < LONG_ENOUGH {
            iterations *= 2;
        }
        let of_threads = rayon::broadcast(|thread| {
            let mut seconds = [0.; RUNS];
            for run in &mut seconds {
                *run = self.seconds(iterations);
            }
            seconds.sort_by(f64::total_cmp);
            // More threads than cores do not add up.
            if thread.index() < cores { self.flop(iterations) / seconds[RUNS / 2] } else { 0. }
        });
        of_threads.iter().sum()
    }

    fn seconds(self, iterations: usize) -> f64 {
        let started = Instant::now();
        self.run(iterations);
        started.elapsed().as_secs_f64()
    }

    /// Runs the loop on this thread; for benchmarks that time it themselves.
    pub fn run(self, iterations: usize) {
        match self {
            Loop::PortableF32 => portable(iterations),
            // SAFETY (all arms): `runs_here` is asked before, by `available` or by the choice of an `Isa`; where it
            // says no, nothing is run.
            _ if !self.runs_here() => {}
            #[cfg(target_arch = "x86_64")]
            Loop::Avx2F32 => unsafe { x86::avx2(iterations) },
            #[cfg(target_arch = "x86_64")]
            Loop::Avx512F32 => unsafe { x86::avx512(iterations) },
            #[cfg(target_arch = "x86_64")]
            Loop::Avx512Bf16 => unsafe { x86::avx512_bf16(iterations) },
            #[cfg(target_arch = "x86_64")]
            Loop::AmxBf16 => unsafe { x86::amx_bf16(iterations) },
            #[cfg(target_arch = "aarch64")]
            Loop::NeonF32 => unsafe { arm::neon(iterations) },
            #[cfg(target_arch = "aarch64")]
            Loop::NeonBf16 => unsafe { arm::neon_bf16(iterations) },
            _ => {}
        }
    }

    /// Operations of one thread in so many iterations.
    pub fn flop(self, iterations: usize) -> f64 {
        let each = match self {
            Loop::PortableF32 => 2 * PORTABLE_LANES,
            Loop::Avx2F32 => 2 * 8 * 12,
            Loop::Avx512F32 => 2 * 16 * 24,
            Loop::Avx512Bf16 => 4 * 16 * 24,
            Loop::AmxBf16 => 2 * 16 * 16 * 32 * 4,
            Loop::NeonF32 => 2 * 4 * 24,
            Loop::NeonBf16 => 2 * 16 * 24,
        };
        (each * iterations) as f64
    }

    #[cfg(target_arch = "x86_64")]
    fn runs_here(self) -> bool {
        match self {
            Loop::PortableF32 => true,
            Loop::Avx2F32 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Loop::Avx512F32 => is_x86_feature_detected!("avx512f"),
            Loop::Avx512Bf16 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16"),
            Loop::AmxBf16 => super::gemm::amx::is_available(),
            Loop::NeonF32 | Loop::NeonBf16 => false,
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn runs_here(self) -> bool {
        use std::arch::is_aarch64_feature_detected;

        match self {
            Loop::PortableF32 => true,
            Loop::NeonF32 => is_aarch64_feature_detected!("neon"),
            Loop::NeonBf16 => is_aarch64_feature_detected!("bf16"),
            _ => false,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn runs_here(self) -> bool {
        self == Loop::PortableF32
    }
}

const PORTABLE_LANES: usize = 64;

fn portable(iterations: usize) {
    let (a, b) = (black_box(0.999_f32), black_box(0.5_f32));
    let mut sums: [f32; PORTABLE_LANES] = std::array::from_fn(|i| black_box(i as f32));
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = *sum * a + b;
        }
    }
    black_box(sums);
}
