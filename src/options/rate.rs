//! Frame rates as exact fractions, and which of them an output has.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use models::mel::{HOP, SAMPLE_RATE};

use crate::options::{InvalidOption, Result};

/// Frames of video a second, everywhere between the first stage and the last: the networks know no other rate.
pub const FPS: usize = 25;
/// Rows of Whisper's output per frame of video at [`FPS`]: its second convolution halves the mel frames.
pub(crate) const WHISPER_ROWS_PER_FRAME: usize = SAMPLE_RATE / (2 * HOP) / FPS;

/// Number of frames at `rate` frames a second that begin within `seconds`: ceil(seconds × rate).
pub(crate) fn frames_in(seconds: f64, rate: f64) -> usize {
    // 0.28 × 25 is 7.000000000000001 in floating point, which must not round up to 8.
    (seconds * rate - 1e-6).ceil().max(0.0) as usize
}

/// The rates that cameras and editors use.
const STANDARD: [(u32, u32); 14] = [
    (12, 1),
    (25, 2),
    (15, 1),
    (24_000, 1001),
    (24, 1),
    (25, 1),
    (30_000, 1001),
    (30, 1),
    (48, 1),
    (50, 1),
    (60_000, 1001),
    (60, 1),
    (120_000, 1001),
    (120, 1),
];
/// A steady rate this near to a standard one is that one, written down with rounded time stamps.
const STEADY_TOLERANCE: f64 = 0.0004;
/// The same for an average over unsteady frames. Telephones stray this far from the rate they aim at.
const AVERAGE_TOLERANCE: f64 = 0.005;
/// Frames a second beyond which nothing is gained.
const FASTEST: u32 = 240;
/// Denominator of rates that are taken as measured, as FFmpeg writes the standard ones.
const MEASURED_DENOMINATOR: u32 = 1001;

/// Frames a second, 1 to 240, as a reduced fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameRate {
    numerator: u32,
    denominator: u32,
}

impl FrameRate {
    /// The rate that the model was trained at.
    pub const MODEL: Self = Self { numerator: crate::options::FPS as u32, denominator: 1 };

    /// `None` outside of 1 to 240.
    pub fn new(numerator: u32, denominator: u32) -> Option<Self> {
        let within = denominator > 0
            && numerator >= denominator
            && u64::from(numerator) <= u64::from(FASTEST) * u64::from(denominator);
        let divisor = greatest_common_divisor(numerator, denominator).max(1);
        within.then(|| Self { numerator: numerator / divisor, denominator: denominator / divisor })
    }

    pub fn numerator(self) -> u32 {
        self.numerator
    }

    pub fn denominator(self) -> u32 {
        self.denominator
    }

    pub fn as_f64(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator)
    }

    /// What a file's rate is meant to be: the nearest standard one where that is near, else the measured one, kept
    /// within 1 to 240. `steady`: every frame is shown equally long. 25 where there is no rate.
    pub fn meant_by(measured: f64, steady: Steadiness) -> Self {
        if !measured.is_finite() || measured <= 0.0 {
            return Self::MODEL;
        }
        let measured = measured.clamp(1.0, f64::from(FASTEST));
        let tolerance = match steady {
            Steadiness::Steady => STEADY_TOLERANCE,
            Steadiness::Average => AVERAGE_TOLERANCE,
        };
        let distance = |rate: &Self| (rate.as_f64() / measured - 1.0).abs();
        let standard = STANDARD.iter().map(|&(numerator, denominator)| Self { numerator, denominator });
        let whole = Self::new(measured.round() as u32, 1);
        let nearest = |rates: &mut dyn Iterator<Item = Self>| {
            rates
                .filter(|rate| distance(rate) < tolerance)
                .min_by(|a, b| distance(a).partial_cmp(&distance(b)).unwrap_or(Ordering::Equal))
        };
        nearest(&mut standard.into_iter())
            .or_else(|| nearest(&mut whole.into_iter()))
            .or_else(|| {
                Self::new((measured * f64::from(MEASURED_DENOMINATOR)).round() as u32, MEASURED_DENOMINATOR)
            })
            .unwrap_or(Self::MODEL)
    }
}

/// How a measured rate came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steadiness {
    /// Every frame is shown equally long.
    Steady,
    /// Frames divided by seconds.
    Average,
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

impl fmt::Display for FrameRate {
    /// `25` or `30000/1001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.denominator {
            1 => write!(f, "{}", self.numerator),
            denominator => write!(f, "{}/{denominator}", self.numerator),
        }
    }
}

/// How many frames a second an output has. The model works at 25 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputRate {
    /// The video's own: of a file with frames of unequal length, their average.
    Source,
    /// This one, 25 by default.
    Exact(FrameRate),
}

impl Default for OutputRate {
    fn default() -> Self {
        Self::Exact(FrameRate::MODEL)
    }
}

impl FromStr for OutputRate {
    type Err = InvalidOption;

    /// `source`, a number such as `25`, a fraction such as `30000/1001`, or the usual short form of a standard one
    /// such as `29.97`.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.split_once('/') {
            _ if text == "source" => return Ok(Self::Source),
            Some((numerator, denominator)) => numerator
                .parse()
                .ok()
                .zip(denominator.parse().ok())
                .and_then(|(numerator, denominator)| FrameRate::new(numerator, denominator)),
            None if text.contains('.') => text.parse().ok().and_then(short_form),
            None => text.parse().ok().and_then(|number| FrameRate::new(number, 1)),
        };
        parsed.map(Self::Exact).ok_or_else(|| InvalidOption::Value {
            option: "fps",
            value: text.to_string(),
            expected: format!("`source`, or 1 to {FASTEST}, such as `25`, `29.97` or `30000/1001`"),
        })
    }
}

/// The standard rate that is meant by a decimal number.
fn short_form(number: f64) -> Option<FrameRate> {
    let rate = FrameRate::meant_by(number, Steadiness::Steady);
    ((rate.as_f64() - number).abs() < 0.005 && (1.0..=f64::from(FASTEST)).contains(&number)).then_some(rate)
}

impl fmt::Display for OutputRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => f.write_str("source"),
            Self::Exact(rate) => rate.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_printed_alike() {
        assert_eq!(OutputRate::default().to_string(), "25");
        for text in ["source", "25", "1", "240", "30000/1001", "25/2"] {
            assert_eq!(text.parse::<OutputRate>().unwrap().to_string(), text);
        }
        for (text, same) in
            [("29.97", "30000/1001"), ("23.976", "24000/1001"), ("50/2", "25"), ("25.0", "25")]
        {
            assert_eq!(text.parse::<OutputRate>().unwrap().to_string(), same);
        }
        for text in ["", "0", "241", "1/2", "30/0", "-25", "NaN", "1e1", "Source", "0.5", "inf.", "30000/"] {
            let message = text.parse::<OutputRate>().unwrap_err().to_string();
            assert!(message.starts_with(&format!("fps is {text}: ")), "{message}");
        }
    }

    #[test]
    fn a_files_rate_is_the_standard_one_that_is_meant() {
        use Steadiness::{Average, Steady};
        for (measured, steadiness, meant) in [
            (30_000.0 / 1001.0, Steady, "30000/1001"),
            (29.99, Average, "30"),
            (29.86, Average, "30000/1001"),
            (23.98, Average, "24000/1001"),
            (24.01, Average, "24"),
            (16.0, Steady, "16"),
            (12.5, Steady, "25/2"),
            (24.9, Steady, "24925/1001"),
            (0.1, Steady, "1"),
            (1000.0, Average, "240"),
            (0.0, Average, "25"),
            (f64::NAN, Average, "25"),
        ] {
            assert_eq!(FrameRate::meant_by(measured, steadiness).to_string(), meant, "{measured}");
        }
    }
}
