//! Single operations at the shapes that they have in the published networks at 256 pixels, and the face stages' on a frame
//! of 1080×1920. `elem/s` are operations a second where an operation multiplies, else bytes of its input.
//!
//!     cargo bench --bench operations                        # all, in f32 and bf16
//!     cargo bench --bench operations -- 'bf16/unet/level 0'  # those whose names contain that

use std::time::Duration;

use candle_core::{DType, Device, Result, Tensor};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use kernels::blend::{Blend, blend};
use kernels::erode::erode;
use kernels::gaussian_blur::gaussian_blur;
use kernels::pixels::Rect;
use kernels::resize::{resize_bicubic, resize_lanczos4};
use kernels::warp_affine::{Affine, warp_affine};
use kernels::{Conv2d, GroupNorm, LayerNorm, Linear, Padding, attention, temporal_attention};
use latentsync::bench::Size;
use latentsync::bench::shapes::{self, Shape, Walk};
use latentsync::bench::subject::Plan;
use models::synthetic::unit_variance;

/// Rows of sound that a frame hears.
const AUDIO_ROWS: usize = 50;
const FRAME: [usize; 3] = [1080, 1920, 3];
/// Side of a face on that frame.
const FACE: usize = 400;

type Run = Box<dyn Fn() -> Result<Tensor>>;

fn networks(criterion: &mut Criterion) {
    let plan = Plan::synthetic(Size::Pixels256).expect("the built-in configuration");
    let mut cases = shapes::unet(&plan.unet, plan.frames, plan.latent_side(), AUDIO_ROWS);
    cases.extend(shapes::vae(&plan.vae, plan.resolution));
    for dtype in [DType::BF16, DType::F32] {
        let mut group = patient(criterion, dtype.as_str());
        for case in &cases {
            // Made only when it is measured: all of them together would not fit everywhere.
            let mut run = None;
            let flop = case.shape.flop();
            group.throughput(match flop {
                0 => Throughput::Bytes(input_bytes(&case.shape, dtype)),
                _ => Throughput::Elements(flop),
            });
            group.bench_function(case.name.as_str(), |bencher| {
                let run = run.get_or_insert_with(|| prepare(case.shape, dtype).expect("a valid shape"));
                bencher.iter(|| run().expect("the operation runs"));
            });
        }
        group.finish();
    }
}

fn patient<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3)).sample_size(10);
    group
}

fn input_bytes(shape: &Shape, dtype: DType) -> u64 {
    let elements = match *shape {
        Shape::GroupNorm { batch, positions, channels, .. } => batch * positions * channels,
        Shape::LayerNorm { rows, channels } => rows * channels,
        _ => 0,
    };
    (elements * dtype.size_in_bytes()) as u64
}

fn random(name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
    unit_variance(name, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// An operation with its weights packed and its inputs made.
fn prepare(shape: Shape, dtype: DType) -> Result<Run> {
    let x = |dims: &[usize]| random("x", dims, dtype);
    let vector = |name: &str, n: usize| random(name, &[n], dtype);
    let linear = |input: usize, output: usize| {
        Linear::new(random("weight", &[output, input], dtype)?, Some(vector("bias", output)?))
    };
    Ok(match shape {
        Shape::Conv { images, side, input, output, walk } => {
            let stride = if walk == Walk::Halving { 2 } else { 1 };
            let weight = random("weight", &[output, input, 3, 3], dtype)?;
            let conv = Conv2d::new(weight, Some(vector("bias", output)?), stride, Padding::all(1))?;
            let x = x(&[images, side, side, input])?;
            match walk {
                Walk::Doubling => Box::new(move || conv.forward_upsampled(&x)),
                _ => Box::new(move || conv.forward(&x)),
            }
        }
        Shape::Linear { rows, input, output } => {
            let (linear, x) = (linear(input, output)?, x(&[rows, input])?);
            Box::new(move || linear.forward(&x))
        }
        Shape::Geglu { rows, input, output } => {
            let weight = random("weight", &[output, input], dtype)?;
            let (linear, x) = (Linear::for_geglu(weight, Some(vector("bias", output)?))?, x(&[rows, input])?);
            Box::new(move || linear.forward_geglu(&x))
        }
        Shape::Attention { batch, tokens, others, channels, heads } => {
            let q = x(&[batch, tokens, channels])?;
            let (k, v) = (x(&[batch, others, channels])?, x(&[batch, others, channels])?);
            Box::new(move || attention(&q, &k, &v, heads))
        }
        Shape::TemporalAttention { frames, positions, channels, heads } => {
            let x = x(&[1, frames, positions, channels])?;
            Box::new(move || temporal_attention(&x, &x, &x, heads))
        }
        Shape::GroupNorm { batch, positions, channels, groups } => {
            let norm = GroupNorm::new(vector("weight", channels)?, vector("bias", channels)?, groups, 1e-5)?;
            let x = x(&[batch, positions, channels])?;
            Box::new(move || norm.forward_silu(&x))
        }
        Shape::LayerNorm { rows, channels } => {
            let norm = LayerNorm::new(vector("weight", channels)?, vector("bias", channels)?, 1e-5)?;
            let x = x(&[rows, channels])?;
            Box::new(move || norm.forward(&x))
        }
    })
}

fn faces(criterion: &mut Criterion) {
    let mut group = patient(criterion, "faces");
    for (name, input, run) in face_operations().expect("valid shapes") {
        group.throughput(Throughput::Bytes((input.elem_count() * input.dtype().size_in_bytes()) as u64));
        group.bench_function(name, |bencher| bencher.iter(|| run(&input).expect("the operation runs")));
    }
    group.finish();
}

type OnImage = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// Name, input, and what is done to it.
fn face_operations() -> Result<Vec<(&'static str, Tensor, OnImage)>> {
    let bytes = |dims: &[usize]| ((random("pixels", dims, DType::F32)? * 60.)? + 128.)?.to_dtype(DType::U8);
    let plane = |dims: &[usize]| random("plane", dims, DType::F32)?.abs()?.clamp(0., 1.);
    let frame = bytes(&FRAME)?;
    // A face of FACE pixels, slightly turned, to a square of 256; and the way back.
    let scale = 256. / FACE as f64;
    let (sin, cos) = (0.1f64.sin() * scale, 0.1f64.cos() * scale);
    let to_face = Affine([[cos, -sin, -400.], [sin, cos, -150.]]);
    let to_frame = to_face.invert()?;
    let square = Rect { x: 0, y: 0, width: 256, height: 256 };
    let place = Rect { x: 500, y: 150, width: FACE, height: FACE };
    let (face, mask) = (random("face", &[FACE, FACE, 3], DType::F32)?, plane(&[FACE, FACE])?);
    let soft = plane(&[FACE, FACE])?;
    let mut all: Vec<(_, _, OnImage)> = Vec::new();
    let cut = move |x: &Tensor| warp_affine(x, &to_face, square, 127.);
    all.push(("warp frame to face", frame.clone(), Box::new(cut)));
    let paste = move |x: &Tensor| warp_affine(x, &to_frame, place, -1.);
    all.push(("warp face to frame", random("face", &[256, 256, 3], DType::F32)?, Box::new(paste)));
    all.push(("lanczos 400 to 256", bytes(&[FACE, FACE, 3])?, Box::new(|x| resize_lanczos4(x, 256, 256))));
    all.push((
        "bicubic 256 to 400",
        random("face", &[256, 256, 3], DType::F32)?,
        Box::new(|x| resize_bicubic(x, FACE, FACE)),
    ));
    all.push(("erode by 20", mask.clone(), Box::new(|x| erode(x, 20))));
    all.push(("blur 41", mask.clone(), Box::new(|x| gaussian_blur(x, 41, 8.))));
    let over = move |x: &Tensor| blend(Blend { frame: x, face: &face, face_mask: &mask, weight: &soft });
    all.push(("blend", bytes(&[FACE, FACE, 3])?, Box::new(over)));
    Ok(all)
}

criterion_group!(benches, networks, faces);
criterion_main!(benches);
