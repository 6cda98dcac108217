//! Not tests: `cargo test --release -p latentsync-kernels speed -- --ignored --nocapture` prints GFLOP/s
//! at the UNet's large shapes, the best of a few runs: by the clock, and per second of processor time,
//! which other processes disturb less.

use std::time::Instant;

use candle_core::{DType, Result, Tensor};

use super::random;
use crate::{Conv2d, GroupNorm, LayerNorm, Linear, Padding, attention, temporal_attention};

fn measure(what: &str, flop: f64, run: impl Fn() -> Result<Tensor>) -> Result<()> {
    if std::env::var("SPEED_FILTER").is_ok_and(|filter| !what.contains(&filter)) {
        return Ok(());
    }
    let (mut best, mut least) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..8 {
        let (start, used) = (Instant::now(), processor_seconds());
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
        least = least.min(processor_seconds() - used);
    }
    let (clock, core) = (flop / best * 1e-9, flop / least * 1e-9);
    println!("{what}: {:.1} ms, {clock:.0} GFLOP/s; {core:.0} per core", best * 1e3);
    Ok(())
}

/// What all threads of this process have run for, on Linux; else 0.
fn processor_seconds() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return 0.;
    };
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() * 1e-9
}

#[test]
#[ignore = "prints figures"]
fn speed() -> Result<()> {
    println!("{}", crate::cpu::features());
    // SPEED=bf16 or SPEED=f32 measures only that; SPEED_FILTER only what contains it.
    let only = std::env::var("SPEED").unwrap_or_default();
    for dtype in [DType::F32, DType::BF16] {
        if !only.is_empty() && !format!("{dtype:?}").eq_ignore_ascii_case(&only) {
            continue;
        }
        for (images, size, channels) in
            [(16, 32, 320), (16, 16, 640), (16, 8, 1280), (1, 256, 128), (1, 128, 256), (1, 64, 512)]
        {
            let x = random(&[images, size, size, channels], 1, dtype)?;
            let weight = random(&[channels, channels, 3, 3], 2, dtype)?;
            let layer = Conv2d::new(weight, None, 1, Padding::all(1))?;
            let flop = (2 * images * size * size * channels * channels * 9) as f64;
            let what = format!("{dtype:?} conv 3x3 {channels} at {images}x{size}x{size}");
            measure(&what, flop, || layer.forward(&x))?;
        }
        for (rows, inner, out) in [
            (16384, 320, 320),
            (16384, 320, 960),
            (16384, 1280, 320),
            (4096, 640, 640),
            (4096, 640, 1920),
            (4096, 2560, 640),
            (1024, 1280, 1280),
            (1024, 1280, 3840),
            (1024, 5120, 1280),
            (256, 1280, 1280),
        ] {
            let x = random(&[rows, inner], 1, dtype)?;
            let layer = Linear::new(random(&[out, inner], 2, dtype)?, None)?;
            let flop = (2 * rows * inner * out) as f64;
            measure(&format!("{dtype:?} linear {rows}x{inner}x{out}"), flop, || layer.forward(&x))?;
        }
        for (rows, inner) in [(16384, 320), (4096, 640), (1024, 1280)] {
            let x = random(&[rows, inner], 1, dtype)?;
            let weight = (random(&[8 * inner, inner], 2, dtype)? * 0.1)?;
            let layer = Linear::for_geglu(weight, None)?;
            let flop = (16 * rows * inner * inner) as f64;
            measure(&format!("{dtype:?} geglu {rows}x{inner}x{}", 8 * inner), flop, || {
                layer.forward_geglu(&x)
            })?;
        }
        let tokens = |tokens: usize, seed| random(&[16, tokens, 320], seed, dtype);
        for others in [1024, 50] {
            let (q, k, v) = (tokens(1024, 1)?, tokens(others, 2)?, tokens(others, 3)?);
            let what = format!("{dtype:?} attention 16x8x1024x{others}x40");
            measure(&what, (4 * 16 * 1024 * others * 320) as f64, || attention(&q, &k, &v, 8))?;
        }
        let frames = |seed| random(&[1, 16, 1024, 320], seed, dtype);
        let (q, k, v) = (frames(1)?, frames(2)?, frames(3)?);
        let flop = (4 * 1024 * 16 * 16 * 320) as f64;
        let what = format!("{dtype:?} temporal attention 16x1024x8x40");
        measure(&what, flop, || temporal_attention(&q, &k, &v, 8))?;
        let vector = |seed| random(&[320], seed, dtype);
        let group = GroupNorm::new(vector(1)?, vector(2)?, 32, 1e-5)?;
        measure(&format!("{dtype:?} group norm and SiLU 16384x320"), 0., || group.forward_silu(&q))?;
        let layer = LayerNorm::new(vector(1)?, vector(2)?, 1e-5)?;
        measure(&format!("{dtype:?} layer norm 16384x320"), 0., || layer.forward(&q))?;
    }
    Ok(())
}
