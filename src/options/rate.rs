//! Frame rates as exact fractions, and the rate of the output.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use models::mel::{HOP, SAMPLE_RATE};

use crate::options::{InvalidOption, Result};

/// Frame rate of the model, in frames per second.
pub const FPS: usize = 25;
/// Rows of Whisper's output per frame of video at [`FPS`]: its second convolution halves the mel frames.
pub(crate) const WHISPER_ROWS_PER_FRAME: usize = SAMPLE_RATE / (2 * HOP) / FPS;

/// Rates of cameras and editing software.
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
/// Maximum relative deviation of a constant rate from a standard one: the rounding of timestamps.
const STEADY_TOLERANCE: f64 = 0.0004;
/// Maximum relative deviation of an average rate from a standard one. Phones deviate this far from their
/// nominal rate.
const AVERAGE_TOLERANCE: f64 = 0.005;
/// Maximum frame rate.
const MAX_RATE: u32 = 240;
/// Denominator of rates that are not standard ones, as in FFmpeg.
const MEASURED_DENOMINATOR: u32 = 1001;

/// Frames per second, 1 to 240, as a reduced fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameRate {
    numerator: u32,
    denominator: u32,
}

impl FrameRate {
    /// The rate of the model.
    pub const MODEL: Self = Self { numerator: crate::options::FPS as u32, denominator: 1 };

    /// `None` outside 1 to 240.
    pub fn new(numerator: u32, denominator: u32) -> Option<Self> {
        let within = denominator > 0
            && numerator >= denominator
            && u64::from(numerator) <= u64::from(MAX_RATE) * u64::from(denominator);
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

    /// Number of frames that begin within `seconds`.
    pub fn frames_in(self, seconds: f64) -> usize {
        // 0.28 s × 25 is 7.000000000000001 in floating point, which must not count as eight frames.
        (seconds * self.as_f64() - 1e-6).ceil().max(0.0) as usize
    }

    /// The nominal rate of a file with a measured rate: the nearest standard or integer rate within the
    /// tolerance, else the measured one, clamped to 1 to 240. 25 if `measured` is not a positive number.
    pub fn nominal(measured: f64, steady: Steadiness) -> Self {
        if !measured.is_finite() || measured <= 0.0 {
            return Self::MODEL;
        }
        let measured = measured.clamp(1.0, f64::from(MAX_RATE));
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

/// How a rate was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steadiness {
    /// All frames have the same duration.
    Steady,
    /// Number of frames divided by the duration.
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

/// Frame rate of the output. The model always works at 25.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputRate {
    /// The rate of the video; the average for a variable frame rate.
    Source,
    /// A given rate, 25 by default.
    Exact(FrameRate),
}

impl Default for OutputRate {
    fn default() -> Self {
        Self::Exact(FrameRate::MODEL)
    }
}

impl FromStr for OutputRate {
    type Err = InvalidOption;

    /// `source`, an integer such as `25`, a fraction such as `30000/1001`, or the decimal form of a standard
    /// rate such as `29.97`.
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
            expected: format!("`source`, or 1 to {MAX_RATE}, such as `25`, `29.97` or `30000/1001`"),
        })
    }
}

/// The standard rate for its decimal form.
fn short_form(number: f64) -> Option<FrameRate> {
    let rate = FrameRate::nominal(number, Steadiness::Steady);
    ((rate.as_f64() - number).abs() < 0.005 && (1.0..=f64::from(MAX_RATE)).contains(&number)).then_some(rate)
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
    fn rates_are_parsed_and_printed() {
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
    fn floating_point_errors_do_not_add_a_frame() {
        let frames = |seconds| FrameRate::MODEL.frames_in(seconds);
        assert_eq!([0.0, 0.28, 3.2, 3.201, 48.0].map(frames), [0, 7, 80, 81, 1200]);
    }

    #[test]
    fn the_nominal_rate_is_the_nearest_standard_one() {
        use Steadiness::{Average, Steady};
        for (measured, steadiness, nominal) in [
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
            assert_eq!(FrameRate::nominal(measured, steadiness).to_string(), nominal, "{measured}");
        }
    }
}
