//! Instruction set of the CPU versions: detected once per process, overridable by `LATENTSYNC_CPU`, shown by
//! `doctor`.

use std::fmt;
use std::sync::OnceLock;

/// Environment variable that selects an instruction set by its [`Isa::name`].
const OVERRIDE: &str = "LATENTSYNC_CPU";

/// Instruction set for which CPU kernels exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, compiled for the build's target.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// [`Isa::Avx512`] and AVX-512 BF16: dot products of bf16 pairs.
    Avx512Bf16,
    /// [`Isa::Avx512Bf16`] and AMX-BF16: products of bf16 tiles. All other work uses the AVX-512 kernels.
    Amx,
    /// NEON.
    Neon,
    /// [`Isa::Neon`] and FEAT_BF16: products of bf16 matrices.
    NeonBf16,
    /// The AMX kernels on a software model of the tiles, so that their loops can be tested on any machine.
    #[cfg(test)]
    TileModel,
}

impl Isa {
    /// Fastest first.
    const ALL: [Isa; 7] =
        [Isa::Amx, Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::NeonBf16, Isa::Neon, Isa::Portable];

    /// Name of the instruction set, the value of `LATENTSYNC_CPU` that selects it.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::NeonBf16 => "neonbf16",
            #[cfg(test)]
            Isa::TileModel => "tile model",
        }
    }

    /// Whether bf16 matrix products are faster than f32 ones, instead of only using less memory.
    pub const fn has_fast_bf16(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Amx | Isa::NeonBf16)
    }

    /// Whether bf16 matrix products use tiles, in hardware or in the software model.
    #[cfg(test)]
    pub(crate) fn has_tiles(self) -> bool {
        matches!(self, Isa::Amx | Isa::TileModel)
    }

    /// Instruction sets supported by this CPU, fastest first; never empty.
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.runs_here()).collect()
    }

    /// The instruction set in use: the override if it is set and supported, else the fastest one.
    pub fn current() -> Isa {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            Self::requested()
                .ok()
                .flatten()
                .or_else(|| Self::ALL.into_iter().find(|isa| isa.runs_here()))
                .unwrap_or(Isa::Portable)
        })
    }

    /// Instruction set requested by `LATENTSYNC_CPU`, if it is set. The error is a message for the user: the
    /// name is unknown, or this CPU does not support the instruction set.
    pub fn requested() -> Result<Option<Isa>, String> {
        let Some(requested) = std::env::var_os(OVERRIDE) else {
            return Ok(None);
        };
        let available = Self::available();
        match available.iter().find(|isa| requested == isa.name()) {
            Some(isa) => Ok(Some(*isa)),
            None => Err(format!(
                "{OVERRIDE}={} cannot be used here, expected one of {}",
                requested.display(),
                names(&available)
            )),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn runs_here(self) -> bool {
        let avx512 = || {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        };
        match self {
            Isa::Portable => true,
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Isa::Avx512 => avx512(),
            Isa::Avx512Bf16 => avx512() && is_x86_feature_detected!("avx512bf16"),
            Isa::Amx => Isa::Avx512Bf16.runs_here() && super::gemm::amx::is_available(),
            Isa::Neon | Isa::NeonBf16 => false,
            #[cfg(test)]
            Isa::TileModel => true,
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn runs_here(self) -> bool {
        use std::arch::is_aarch64_feature_detected;

        match self {
            Isa::Portable => true,
            Isa::Neon => is_aarch64_feature_detected!("neon"),
            Isa::NeonBf16 => Isa::Neon.runs_here() && is_aarch64_feature_detected!("bf16"),
            _ => false,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn runs_here(self) -> bool {
        self == Isa::Portable
    }
}

/// Detected and selected CPU features; [`fmt::Display`] is one line for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    pub current: Isa,
    pub available: Vec<Isa>,
    /// Threads of the global rayon pool.
    pub threads: usize,
    /// Message about an override that is not supported.
    pub refused_override: Option<String>,
}

/// CPU features of this process.
pub fn features() -> Features {
    Features {
        current: Isa::current(),
        available: Isa::available(),
        threads: rayon::current_num_threads(),
        refused_override: Isa::requested().err(),
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (isa, threads) = (self.current.name(), self.threads);
        write!(f, "{isa} (of {}), {threads} threads", names(&self.available))?;
        match &self.refused_override {
            Some(message) => write!(f, "; {message}"),
            None => Ok(()),
        }
    }
}

fn names(all: &[Isa]) -> String {
    all.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
}

/// Compiles a function once per instruction set and adds a first argument, `isa`, that selects the version.
/// The body must be plain Rust without `mul_add`, so that all versions compute the same bits.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$t:ident: $bound:path>)? ($($arg:ident: $ty:ty),* $(,)?)
        $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name $(<$t: $bound>)? (isa: $crate::cpu::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512 $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            match isa {
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Isa::Avx512 | $crate::cpu::Isa::Avx512Bf16 | $crate::cpu::Isa::Amx => {
                    // SAFETY: these functions are private to the crate, which only uses an `Isa` that this
                    // CPU supports.
                    unsafe { avx512($($arg),*) }
                }
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Isa::Avx2 => {
                    // SAFETY: these functions are private to the crate, which only uses an `Isa` that this
                    // CPU supports.
                    unsafe { avx2($($arg),*) }
                }
                _ => body($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portable_is_always_available_and_the_current_isa_is_supported() {
        let features = features();
        assert_eq!(features.available.last(), Some(&Isa::Portable));
        assert!(features.available.contains(&features.current));
        assert_eq!(features.refused_override, None);
        assert!(features.to_string().starts_with(features.current.name()));
    }
}
