//! The detector on generated frames.

use candle_core::{Device, Tensor};
use models::face::{FaceDetector, SeetaDlib};

use crate::dlib_model;

#[test]
#[ignore = "needs dlib's landmark model"]
fn frames_of_any_size_are_searched() {
    let mut detector = SeetaDlib::open(&dlib_model()).unwrap();
    for (height, width) in [(1, 1), (39, 41), (40, 40), (50, 50), (2, 3000), (3000, 2), (41, 900)] {
        let noise = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        let data: Vec<u8> = (0..height * width * 3).map(noise).collect();
        let frame = Tensor::from_vec(data, (height, width, 3), &Device::Cpu).unwrap();
        assert!(detector.detect(&frame).unwrap().is_empty(), "{height} × {width}");
    }
    let floats = Tensor::zeros((50, 50, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(detector.detect(&floats).unwrap_err().to_string().contains("u8"));
}
