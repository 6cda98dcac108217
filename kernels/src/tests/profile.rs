//! Tests of the profiler. Tests that run in parallel may be recorded too, so these use shapes of their own.

use candle_core::{DType, Result};

use super::random;
use crate::cpu::Isa;
use crate::cpu::peak::Loop;
use crate::profile::{self, Kind, Operation};
use crate::{Conv2d, Linear, Padding, attention};

#[test]
fn calls_are_recorded_with_their_flop_and_bytes() -> Result<()> {
    let x = random(&[3, 41], 1, DType::F32)?;
    let linear = Linear::new(random(&[46, 41], 2, DType::F32)?, None)?;
    let image = random(&[1, 6, 7, 3], 3, DType::BF16)?;
    let conv = Conv2d::new(random(&[5, 3, 3, 3], 4, DType::BF16)?, None, 2, Padding::all(1))?;
    let (q, k) = (random(&[1, 9, 8], 5, DType::F32)?, random(&[1, 11, 8], 6, DType::F32)?);

    linear.forward(&x)?;
    profile::start();
    linear.forward(&x)?;
    linear.forward_gelu(&x)?;
    // The halves are not multiples of a group of packed columns, so the activation is a separate operation.
    linear.forward_geglu(&x)?;
    conv.forward(&image)?;
    attention(&q, &k, &k, 2)?;
    let recorded = profile::stop();
    linear.forward(&x)?;

    let find = |kind: Kind, shape: &str| -> Vec<&Operation> {
        recorded.iter().filter(|op| op.kind == kind && op.shape == shape).collect()
    };
    let [of_linear] = find(Kind::Linear, "3×41→46")[..] else { panic!("{recorded:?}") };
    assert_eq!(of_linear.totals.calls, 3);
    assert_eq!(of_linear.totals.flop, (3 * 2 * 3 * 41 * 46) as f64);
    assert_eq!(of_linear.totals.bytes, (3 * 4 * (3 * 41 + 41 * 46 + 3 * 46)) as f64);
    assert!(of_linear.totals.seconds > 0.0);
    assert_eq!(find(Kind::Activation, "3×23").len(), 1, "{recorded:?}");
    let [of_conv] = find(Kind::Conv2d, "3×3 3→5 at 1×3×4, stride 2")[..] else { panic!("{recorded:?}") };
    assert_eq!(of_conv.totals.flop, (2 * 3 * 4 * 9 * 3 * 5) as f64);
    assert_eq!(of_conv.totals.bytes, (2 * (6 * 7 * 3 + 9 * 3 * 5 + 3 * 4 * 5)) as f64);
    let [of_attention] = find(Kind::CrossAttention, "1×2 heads of 4, 9 to 11")[..] else {
        panic!("{recorded:?}")
    };
    assert_eq!(of_attention.totals.flop, (4 * 9 * 11 * 8) as f64);

    let later = profile::stop();
    assert!(!later.iter().any(|op| op.shape == "3×41→46"), "recorded while off: {later:?}");
    Ok(())
}

/// Every available loop runs, and its FLOP count is proportional to the iterations.
#[test]
fn peak_loops_run() {
    let available = Loop::available();
    assert_eq!(available[0], Loop::PortableF32);
    for isa in Isa::available() {
        for dtype in [DType::F32, DType::BF16] {
            assert!(available.contains(&Loop::of(isa, dtype)), "{isa:?} {dtype:?}");
        }
    }
    for looped in available {
        assert!(looped.flop(1) > 0.0 && looped.flop(10) == 10.0 * looped.flop(1));
        looped.run(0);
        looped.run(1000);
    }
}
