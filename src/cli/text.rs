//! Quantities in a person's units.

use std::time::Duration;

/// `83.9 MB`, in powers of ten as file managers and the hub count.
pub fn bytes(bytes: u64) -> String {
    let (unit, size) = match bytes {
        0..1_000 => return format!("{bytes} B"),
        1_000..1_000_000 => ("kB", 1e3),
        1_000_000..1_000_000_000 => ("MB", 1e6),
        _ => ("GB", 1e9),
    };
    format!("{:.1} {unit}", bytes as f64 / size)
}

/// `0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_change_units_where_a_person_would() {
        assert_eq!(
            [999, 1_000, 334_643_276, 5_072_222_488].map(bytes),
            ["999 B", "1.0 kB", "334.6 MB", "5.1 GB"]
        );
        assert_eq!(
            [0.44, 9.7, 59.4, 60.0, 3599.0, 7500.0].map(|s| duration(Duration::from_secs_f64(s))),
            ["0.4 s", "10 s", "59 s", "1 min 00 s", "59 min 59 s", "2 h 05 min"]
        );
    }
}
