//! Two records side by side.

use std::fmt::{self, Write};

use super::Part;
use super::record::{OperationRecord, Record};

/// `b` against `a`, the older one.
pub struct Comparison<'a> {
    pub a: &'a Record,
    pub b: &'a Record,
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { a, b } = self;
        for (name, record) in [("A", a), ("B", b)] {
            let setting = &record.setting;
            writeln!(
                f,
                "{name}: {}, {} on {}, {} threads, {}, {}",
                setting.model,
                setting.dtype,
                setting.device,
                setting.threads,
                record.machine.isa,
                record.commit.as_deref().unwrap_or("commit unknown")
            )?;
        }
        if (&a.machine.cpu, a.machine.cores) != (&b.machine.cpu, b.machine.cores) {
            writeln!(f, "the machines differ")?;
        }
        writeln!(f, "\n{:<34}{:>12}{:>12}{:>9}", "median seconds", "A", "B", "A / B")?;
        for part in Part::ALL {
            let (Some(of_a), Some(of_b)) = (a.parts.get(&part), b.parts.get(&part)) else { continue };
            line(f, part.name(), of_a.seconds.median, of_b.seconds.median)?;
            for operation in &of_a.operations {
                let same = |other: &&OperationRecord| other.kind == operation.kind;
                if let Some(other) = of_b.operations.iter().find(same) {
                    line(f, &format!("  {}", operation.kind), operation.seconds, other.seconds)?;
                }
            }
        }
        if let (Some(of_a), Some(of_b)) = (&a.job, &b.job) {
            line(f, "job", of_a.seconds.median, of_b.seconds.median)?;
        }
        if let (Some(of_a), Some(of_b)) = (a.seconds_per_output_second, b.seconds_per_output_second) {
            line(f, "networks, per second of output", of_a, of_b)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, a: f64, b: f64) -> fmt::Result {
    let mut ratio = String::new();
    if b > 0.0 {
        write!(ratio, "{:.2}", a / b)?;
    }
    writeln!(f, "{name:<34}{a:>12.4}{b:>12.4}{ratio:>9}")
}
