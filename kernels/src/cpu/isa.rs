//! Which instruction set the CPU versions use: found once at start, overridable, shown by `doctor`.

use std::fmt;
use std::sync::OnceLock;

/// The environment variable that overrides the choice, by [`Isa::name`].
const OVERRIDE: &str = "LATENTSYNC_CPU";

/// An instruction set that the CPU versions are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// What the compiler makes of plain Rust for the build's target.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The same with dot products of bf16 pairs.
    Avx512Bf16,
    /// The same with products of bf16 tiles; what is not bf16 is computed as without them.
    Amx,
    /// NEON.
    Neon,
    /// The same with products of bf16 matrices.
    NeonBf16,
    /// The tile version with tiles in software: its loops can be tested on any machine.
    #[cfg(test)]
    TileModel,
}

impl Isa {
    /// Best first.
    const ALL: [Isa; 7] =
        [Isa::Amx, Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::NeonBf16, Isa::Neon, Isa::Portable];

    /// The value of `LATENTSYNC_CPU` that stands for it.
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

    /// Whether products of bf16 are faster than those of f32, not only smaller.
    pub const fn has_fast_bf16(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Amx | Isa::NeonBf16)
    }

    /// Whether products of bf16 are of tiles.
    #[cfg(test)]
    pub(crate) fn has_tiles(self) -> bool {
        matches!(self, Isa::Amx | Isa::TileModel)
    }

    /// What this machine can run, best first; never empty.
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.runs_here()).collect()
    }

    /// The one in use: the override where it is set and can run here, else the best.
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

    /// What `LATENTSYNC_CPU` asks for; an error, for the user, when that is no instruction set or one
    /// that this machine lacks.
    pub fn requested() -> Result<Option<Isa>, String> {
        let Some(wanted) = std::env::var_os(OVERRIDE) else {
            return Ok(None);
        };
        let available = Self::available();
        match available.iter().find(|isa| wanted == isa.name()) {
            Some(isa) => Ok(Some(*isa)),
            None => Err(format!(
                "{OVERRIDE}={} cannot be used here, expected one of {}",
                wanted.display(),
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

/// What the CPU versions found and use; [`fmt::Display`] is one line for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    pub current: Isa,
    pub available: Vec<Isa>,
    pub threads: usize,
    /// The message for an override that cannot be followed.
    pub refused_override: Option<String>,
}

/// See [`Features`].
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

/// Compiles a function once per instruction set and adds a first argument, `isa`, that chooses. The body
/// must be plain Rust without `mul_add`: then all versions compute the same numbers.
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
                // SAFETY: only this crate can pass an `Isa`, and it passes those that it found on this CPU.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Isa::Avx512 | $crate::cpu::Isa::Avx512Bf16 | $crate::cpu::Isa::Amx => unsafe {
                    avx512($($arg),*)
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Isa::Avx2 => unsafe { avx2($($arg),*) },
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
    fn portable_is_always_there_and_the_current_one_can_run() {
        let found = features();
        assert_eq!(found.available.last(), Some(&Isa::Portable));
        assert!(found.available.contains(&found.current));
        assert_eq!(found.refused_override, None);
        assert!(found.to_string().starts_with(found.current.name()));
    }
}
