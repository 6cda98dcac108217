//! Compiles the CUDA kernels in `cuda/`: to PTX for the `cuda` feature, for the host for `cuda-emulator`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Minimum compute capability of the tensor-core kernels: 8.0, NVIDIA Ampere (2020).
const MIN_CAPABILITY: u32 = 80;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cuda");
    #[cfg(feature = "cuda-emulator")]
    compile_for_the_host();
    if env::var_os("CARGO_FEATURE_CUDA").is_some()
        && let Err(message) = compile_to_ptx()
    {
        println!("cargo::error={message}");
    }
}

#[cfg(feature = "cuda-emulator")]
fn compile_for_the_host() {
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("cuda/emulator/kernels.cc")
        // No fused multiply-add: the face kernels must equal the Rust versions bit for bit.
        .flag("-ffp-contract=off")
        // The vector loads (`Pack`) read elements through pointers of another type.
        .flag("-fno-strict-aliasing")
        // A barrier switches fibers with longjmp to another stack, which the fortified longjmp rejects.
        .flag("-U_FORTIFY_SOURCE")
        .flag_if_supported("-Wno-unknown-pragmas")
        .opt_level(2)
        .compile("cuda_emulator");
}

/// Compiles every .cu file to a PTX module and writes `modules.rs`, a list of (module name, PTX text).
fn compile_to_ptx() -> Result<(), String> {
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "PATH", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| format!("OUT_DIR: {e}"))?);
    let (nvcc, capability) = (nvcc()?, capability()?);
    let mut modules = String::from("&[\n");
    // No fused multiply-add in the face kernels: they must equal the CPU versions bit for bit.
    for (folder, flags) in [("cuda", &[][..]), ("cuda/faces", &["--fmad=false"][..])] {
        for source in sources(Path::new(folder))? {
            let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let ptx = out.join(format!("{name}.ptx"));
            let mut command = Command::new(&nvcc);
            command.args(["--ptx", "-O3", "-std=c++17", "-o"]).arg(&ptx).args(flags);
            command.arg(format!("-arch=compute_{capability}")).arg(&source);
            run(command)?;
            modules += &format!("    ({name:?}, include_str!({:?})),\n", ptx.display().to_string());
        }
    }
    let list = out.join("modules.rs");
    std::fs::write(&list, modules + "]\n").map_err(|e| format!("cannot write `{}`: {e}", list.display()))
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries =
        std::fs::read_dir(folder).map_err(|e| format!("cannot read `{}`: {e}", folder.display()))?;
    let mut sources: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();
    Ok(sources)
}

/// Path of nvcc: `NVCC`, else `bin/nvcc` of the toolkit in `CUDA_HOME`, `CUDA_PATH` or `CUDA_ROOT`, else from
/// `PATH`.
fn nvcc() -> Result<PathBuf, String> {
    let toolkits = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"].into_iter().filter_map(env::var_os);
    let named = env::var_os("NVCC").map(PathBuf::from);
    let candidates = named.into_iter().chain(toolkits.map(|home| Path::new(&home).join("bin/nvcc")));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    candidates.chain(on_path).find(|nvcc| nvcc.is_file()).ok_or_else(|| {
        "the feature `cuda` needs nvcc, which was not found in NVCC, CUDA_HOME, CUDA_PATH, CUDA_ROOT or PATH; \
         install a CUDA toolkit, or run `scripts/cuda_toolkit cargo ...`"
            .to_string()
    })
}

/// Compute capability to compile for: `CUDA_COMPUTE_CAP`, else the minimum. Newer GPUs run PTX for an older
/// capability.
fn capability() -> Result<u32, String> {
    let Ok(text) = env::var("CUDA_COMPUTE_CAP") else {
        return Ok(MIN_CAPABILITY);
    };
    // `8.6`, `86` and `90a` are all common spellings.
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    match digits.parse() {
        Ok(capability) if capability >= MIN_CAPABILITY => Ok(capability),
        _ => Err(format!("CUDA_COMPUTE_CAP: expected {MIN_CAPABILITY} (Ampere) or more, got `{text}`")),
    }
}

fn run(mut command: Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        return Err(format!("{command:?} failed: {reason}"));
    }
    Ok(())
}
