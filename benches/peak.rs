//! Multiply-adds on registers, on one thread: what every share of the peak is a share of. `elem/s` are operations a
//! second, a multiply-add being two.
//!
//!     cargo bench --bench peak

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernels::cpu::peak::Loop;

const ITERATIONS: usize = 1 << 16;

fn peak(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("peak");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    for of in Loop::available() {
        group.throughput(Throughput::Elements(of.flop(ITERATIONS) as u64));
        group.bench_function(of.name(), |bencher| bencher.iter(|| of.run(black_box(ITERATIONS))));
    }
    group.finish();
}

criterion_group!(benches, peak);
criterion_main!(benches);
