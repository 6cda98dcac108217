//! A 3×3 convolution of an image that is first doubled by nearest neighbour, as four 2×2 convolutions of the
//! image as it is: three neighbouring pixels of the double are only two of the original, so that taps which meet
//! the same one are added up beforehand. Each of the four computes every second pixel in both directions. 4 taps
//! instead of 9 for every pixel.

use std::ops::Range;

use super::{ConvGeometry, Element, Packed};

/// The row and the column (of the pixels 0 and 1) at which each convolution's output begins.
const PLACES: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

/// Of all four.
pub const TAPS: usize = 16;

/// The weights of the four. `whole`: nine taps.
pub fn pack<T: Element>(whole: &Packed<T>) -> [Packed<T>; 4] {
    PLACES.map(|(down, across)| {
        Packed::new(whole.out, whole.channels, 4, |i| {
            let (at, tap) = (i / 4, i % 4);
            let (o, c) = (at / whole.channels, at % whole.channels);
            let rows = taps(down, tap / 2);
            let all = rows.flat_map(|y| taps(across, tap % 2).map(move |x| 3 * y + x));
            T::narrow(all.map(|tap| whole.get(o, c, tap).widen()).sum())
        })
    })
}

/// Which of three taps meet the first or the second of the two original pixels under them. Those of an even
/// pixel of the double begin with the one before its original, those of an odd one with its own.
fn taps(place: usize, tap: usize) -> Range<usize> {
    match (place, tap) {
        (0, 0) => 0..1,
        (0, _) => 1..3,
        (_, 0) => 0..2,
        _ => 2..3,
    }
}

/// How the four walk over an image with a border of one. `height`, `width`: before it is doubled.
pub fn geometries(height: usize, width: usize) -> [ConvGeometry; 4] {
    PLACES.map(|(down, across)| ConvGeometry {
        height,
        width,
        kernel: 2,
        stride: 1,
        top: 1 - down,
        left: 1 - across,
        out_height: height,
        out_width: width,
        quarter: Some((down, across)),
    })
}
