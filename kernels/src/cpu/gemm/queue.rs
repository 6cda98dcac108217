//! Tasks in a queue per worker: a worker takes its own in order, so that it knows which one follows and can
//! prefetch its data, and then those that other workers have not begun.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// The claims of one worker.
pub struct Claims<'a> {
    queues: &'a [Queue],
    own: usize,
}

struct Queue {
    next: AtomicUsize,
    end: usize,
}

impl Claims<'_> {
    /// The next task and, where it is known, the one that this worker claims after it.
    pub fn next(&self) -> Option<(usize, Option<usize>)> {
        let count = self.queues.len();
        (0..count).find_map(|i| {
            let queue = &self.queues[(self.own + i) % count];
            if queue.next.load(Ordering::Relaxed) >= queue.end {
                return None;
            }
            let task = queue.next.fetch_add(1, Ordering::Relaxed);
            (task < queue.end).then(|| (task, Some(task + 1).filter(|&next| next < queue.end)))
        })
    }
}

/// Runs `worker` on all threads; together their claims are every one of `tasks` once.
pub fn for_each_worker(tasks: usize, worker: impl Fn(Claims) + Sync) {
    let workers = rayon::current_num_threads().min(tasks).max(1);
    let queues: Vec<Queue> = (0..workers)
        .map(|i| Queue { next: AtomicUsize::new(tasks * i / workers), end: tasks * (i + 1) / workers })
        .collect();
    (0..workers).into_par_iter().with_max_len(1).for_each(|own| worker(Claims { queues: &queues, own }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_claimed_once() {
        for tasks in [0, 1, 2, 7, 100] {
            let claimed: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            for_each_worker(tasks, |claims| {
                while let Some((task, next)) = claims.next() {
                    claimed[task].fetch_add(1, Ordering::Relaxed);
                    assert!(next.is_none_or(|next| next == task + 1 && next < tasks));
                }
            });
            assert!(claimed.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{tasks}");
        }
    }
}
