//! The DDIM schedule.

use candle_core::Result;
use models::ddim::DdimSchedule;

use crate::golden::{GoldenSet, relative_error};

pub fn check_ddim(set: &GoldenSet) -> Result<()> {
    let tensors = set.outputs("ddim");
    let mut schedules = 0;
    for (key, timesteps) in &tensors {
        let Some(steps) = key.strip_prefix("timesteps_") else {
            continue;
        };
        let schedule = DdimSchedule::new(steps.parse().unwrap())?;
        let want: Vec<usize> = timesteps.to_vec1::<i64>()?.into_iter().map(|t| t as usize).collect();
        assert_eq!(schedule.timesteps(), want, "{steps} steps");
        schedules += 1;

        let mut sample = tensors[&format!("x_start_{steps}")].clone();
        for (i, &timestep) in schedule.timesteps().iter().enumerate() {
            let Some(noise) = tensors.get(&format!("eps_{steps}_{i}")) else {
                assert!(i > 0, "{steps} steps: no step to compare");
                break;
            };
            sample = schedule.step(noise, timestep, &sample)?;
            let error = relative_error(&sample, &tensors[&format!("x_{steps}_{i}")])?;
            eprintln!("{steps} steps, step {i}: {error:.1e}");
            assert!(error <= 1e-5, "{steps} steps, step {i}: {error:.1e}");
        }
    }
    assert!(schedules > 0, "ddim_golden has no schedule");
    Ok(())
}

#[test]
fn timesteps_and_steps_equal_the_original() -> Result<()> {
    check_ddim(&GoldenSet::in_repository())
}
