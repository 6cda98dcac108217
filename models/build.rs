//! Copies SeetaFace's trained model from the sources of the `rustface` package (BSD-2-Clause) to `OUT_DIR`,
//! from where the crate includes it. The package contains the file but does not export it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const MODEL: &str = "model/seeta_fd_frontal_v1.0.bin";
const LICENSE: &str = "LICENSE";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.toml");
    if let Err(message) = copy_model() {
        println!("cargo::error={message}");
    }
}

fn copy_model() -> Result<(), String> {
    let package = package_directory("rustface")?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    for (from, to) in [(MODEL, "seeta_frontal.bin"), (LICENSE, "seeta_license.txt")] {
        let from = package.join(from);
        println!("cargo::rerun-if-changed={}", from.display());
        std::fs::copy(&from, out.join(to)).map_err(|e| format!("cannot copy `{}`: {e}", from.display()))?;
    }
    Ok(())
}

/// Source directory of one of this crate's dependencies.
fn package_directory(name: &str) -> Result<PathBuf, String> {
    // All sources are already downloaded, so offline works except in unusual configurations. `--locked` keeps
    // the lock file unchanged.
    let metadata = cargo_metadata(&["--locked", "--offline"]).or_else(|_| cargo_metadata(&["--locked"]))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    packages
        .iter()
        .find(|package| package["name"] == name)
        .and_then(|package| Path::new(package["manifest_path"].as_str()?).parent().map(Path::to_path_buf))
        .ok_or_else(|| format!("cargo metadata does not list the package {name}"))
}

fn cargo_metadata(extra: &[&str]) -> Result<Value, String> {
    let manifest = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let output = Command::new(variable("CARGO")?)
        .args(["metadata", "--format-version", "1", "--filter-platform"])
        .arg(variable("TARGET")?)
        .arg("--manifest-path")
        .arg(manifest)
        .args(extra)
        .output()
        .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        return Err(format!("cargo metadata failed: {reason}"));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata is not JSON: {e}"))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e}"))
}
