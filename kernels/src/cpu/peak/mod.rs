//! Peak arithmetic throughput of this CPU, measured with all operands in registers: the upper bound against
//! which the efficiency of a kernel is reported.

use std::hint::black_box;
use std::time::Instant;

use candle_core::DType;

use super::Isa;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "aarch64")]
mod aarch64;

/// Minimum duration of a run in seconds: long compared with a clock read, short compared with a scheduler
/// time slice.
const MIN_RUN_SECONDS: f64 = 5e-4;
/// Runs per thread.
const RUNS: usize = 101;

/// Benchmark loop of multiply-adds on registers, named after its instruction set and element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// Plain Rust, vectorised by the compiler.
    PortableF32,
    Avx2F32,
    Avx512F32,
    /// Dot products of bf16 pairs (`vdpbf16ps`).
    Avx512Bf16,
    /// Products of bf16 tiles (`tdpbf16ps`).
    AmxBf16,
    NeonF32,
    /// Products of bf16 matrices (`bfmmla`).
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

    /// Loops that this CPU can run, slowest first.
    pub fn available() -> Vec<Loop> {
        Self::ALL.into_iter().filter(|looped| looped.runs_here()).collect()
    }

    /// Loop of the instructions that the kernels of `isa` use for matrix products of `dtype`.
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

    /// FLOP/s of all cores used by the rayon pool together; a multiply-add counts as two. Takes about 0.1 s,
    /// longer on a busy machine.
    ///
    /// Every thread takes the median of many short runs. Other processes interrupt only a few of them, so the
    /// result is also valid on a busy machine.
    pub fn measure(self) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut iterations = 1 << 10;
        while self.seconds(iterations) < MIN_RUN_SECONDS {
            iterations *= 2;
        }
        let per_thread = rayon::broadcast(|thread| {
            let mut seconds = [0.0; RUNS];
            for run in &mut seconds {
                *run = self.seconds(iterations);
            }
            seconds.sort_by(f64::total_cmp);
            // Threads beyond the number of cores add no throughput.
            if thread.index() < cores { self.flop(iterations) / seconds[RUNS / 2] } else { 0.0 }
        });
        per_thread.iter().sum()
    }

    fn seconds(self, iterations: usize) -> f64 {
        let started = Instant::now();
        self.run(iterations);
        started.elapsed().as_secs_f64()
    }

    /// Runs the loop on this thread, for benchmarks with their own timer. Does nothing if this CPU cannot run
    /// it.
    pub fn run(self, iterations: usize) {
        if !self.runs_here() {
            return;
        }
        match self {
            Loop::PortableF32 => portable(iterations),
            #[cfg(target_arch = "x86_64")]
            Loop::Avx2F32 => {
                // SAFETY: `runs_here` returned true, so the CPU has AVX2 and FMA.
                unsafe { x86_64::avx2(iterations) }
            }
            #[cfg(target_arch = "x86_64")]
            Loop::Avx512F32 => {
                // SAFETY: `runs_here` returned true, so the CPU has AVX-512 F.
                unsafe { x86_64::avx512(iterations) }
            }
            #[cfg(target_arch = "x86_64")]
            Loop::Avx512Bf16 => {
                // SAFETY: `runs_here` returned true, so the CPU has AVX-512 F and BF16.
                unsafe { x86_64::avx512_bf16(iterations) }
            }
            #[cfg(target_arch = "x86_64")]
            Loop::AmxBf16 => {
                // SAFETY: `runs_here` returned true, so AMX is available.
                unsafe { x86_64::amx_bf16(iterations) }
            }
            #[cfg(target_arch = "aarch64")]
            Loop::NeonF32 => {
                // SAFETY: `runs_here` returned true, so the CPU has NEON.
                unsafe { aarch64::neon(iterations) }
            }
            #[cfg(target_arch = "aarch64")]
            Loop::NeonBf16 => {
                // SAFETY: `runs_here` returned true, so the CPU has NEON and FEAT_BF16.
                unsafe { aarch64::neon_bf16(iterations) }
            }
            _ => {}
        }
    }

    /// Floating-point operations of one thread in `iterations`: per iteration, 2 × products × accumulators.
    pub fn flop(self, iterations: usize) -> f64 {
        let per_iteration = match self {
            Loop::PortableF32 => 2 * PORTABLE_LANES,
            Loop::Avx2F32 => 2 * 8 * 12,
            Loop::Avx512F32 => 2 * 16 * 24,
            Loop::Avx512Bf16 => 4 * 16 * 24,
            Loop::AmxBf16 => 2 * 16 * 16 * 32 * 4,
            Loop::NeonF32 => 2 * 4 * 24,
            Loop::NeonBf16 => 2 * 16 * 24,
        };
        (per_iteration * iterations) as f64
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

/// Accumulators of the portable loop.
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
