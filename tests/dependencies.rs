//! Crates that a library user builds: the command line and the server stay behind their features.

use std::process::Command;

#[test]
fn the_library_needs_no_crate_of_the_command_line_or_the_server() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none", "--format", "{p}"];
    let tree = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(arguments)
        .args(["-p", "latentsync", "--no-default-features", "--features", "media"])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let crates: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    for needed in ["candle-core", "ffmpeg-next", "hf-hub"] {
        assert!(crates.contains(&needed), "`{needed}` is not in the tree: {tree}");
    }
    for unwanted in ["clap", "indicatif", "ctrlc", "anyhow", "tracing-subscriber", "axum", "rusqlite"] {
        assert!(!crates.contains(&unwanted), "the library depends on `{unwanted}`");
    }
}
