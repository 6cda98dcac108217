// Linear layers and convolutions of f16 and bf16 as one product on tensor cores: of the patches of x, which are
// gathered on the way and never stored, and the weight. Bias, residual and activation follow in registers.

#include "tensor_core.cuh"

constexpr int PRODUCT_THREADS = 256;
// Channels of a step, and steps that are on their way at once.
constexpr int STEP = 32, STAGES = 4;
// Elements from one row of a tile to the next: 16 bytes more than a step, so that eight rows lie in different banks.
constexpr int TILE_ROW = STEP + 8;

// The numbers that the launcher passes; any other is nothing.
constexpr int PRODUCT_SILU = 1, PRODUCT_GELU = 2, PRODUCT_GEGLU = 3;

template <typename T>
struct Product {
    // (images, height, width, channels); channels are a multiple of 8. On 16 bytes, as the weight is.
    const T* x;
    // (columns, kernel, kernel, channels). For GEGLU, eight columns of values, then the eight of their gates, and
    // so on; the result has half as many, and no residual.
    const T* weight;
    // Null, or (columns), likewise.
    const T* bias;
    // Null, or (rows / rows_per_residual, columns): each row goes to as many consecutive rows of the result.
    const T* residual;
    // (rows, columns), the rows being (images, out_height, out_width).
    T* out;
    int rows, columns, channels, height, width, kernel, stride, top, left, out_height, out_width;
    int rows_per_residual, then;
    // 1 where the patches are those of x doubled by nearest neighbour.
    int doubled;
};

// One of the rows whose 16 bytes a thread brings, step by step.
template <typename T>
struct PatchRow {
    const T* image;
    int y, x;
};

// Two neighbours of a row.
template <typename T>
__device__ __forceinline__ void finish(const Product<T>& p, int row, int column, const float (&sums)[2]) {
    const size_t residual = static_cast<size_t>(row / p.rows_per_residual) * p.columns + column;
    float y[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        if (column + i >= p.columns) continue;
        y[i] = sums[i];
        if (p.bias != nullptr) y[i] += widen(p.bias[column + i]);
        if (p.residual != nullptr) y[i] += widen(p.residual[residual + i]);
        if (p.then == PRODUCT_SILU) y[i] = silu(y[i]);
        if (p.then == PRODUCT_GELU) y[i] = gelu(y[i]);
    }
    T* const to = p.out + static_cast<size_t>(row) * p.columns + column;
    if (p.columns % 2 == 0) {
        if (column < p.columns) store<2>(y, to);
    } else {
        if (column < p.columns) narrow(y[0], to[0]);
        if (column + 1 < p.columns) narrow(y[1], to[1]);
    }
}

// Two neighbours of a row, whose gates are eight columns further on. The columns are whole groups of sixteen.
template <typename T>
__device__ __forceinline__ void finish_geglu(const Product<T>& p, int row, int column, const float (&values)[2],
                                             const float (&gates)[2]) {
    if (column >= p.columns) return;
    float y[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float value_bias = p.bias == nullptr ? 0.f : widen(p.bias[column + i]);
        const float gate_bias = p.bias == nullptr ? 0.f : widen(p.bias[column + 8 + i]);
        y[i] = (values[i] + value_bias) * gelu(gates[i] + gate_bias);
    }
    store<2>(y, p.out + static_cast<size_t>(row) * (p.columns / 2) + column / 16 * 8 + column % 8);
}

// A tile of ROWS × COLUMNS of the result. Grid: x: ⌈rows / ROWS⌉ × ⌈columns / COLUMNS⌉, the columns first: blocks that
// run together then share their patches, and the weight, smaller than x, stays in the L2 cache. Block: eight warps,
// two along the rows and four along the columns. Shared: STAGES × (ROWS + COLUMNS) × TILE_ROW elements.
//
// The summed dimension is (kernel, kernel, channels) in steps of 32: four threads bring the 64 bytes of a row, each
// always the same quarter, so that a thread moves through taps and channels by additions. What lies beyond the image
// or the tensors is brought as zeros. While a step is computed with, the next three are on their way.
template <int ROWS, int COLUMNS, typename T>
__device__ __forceinline__ void product(const Product<T>& p) {
    DYNAMIC_SHARED(memory);
    T* const shared = reinterpret_cast<T*>(memory);
    constexpr int TILE = (ROWS + COLUMNS) * TILE_ROW, AT_ONCE = PRODUCT_THREADS / 4;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int column_tiles = (p.columns + COLUMNS - 1) / COLUMNS;
    const int first_row = blockIdx.x / column_tiles * ROWS, first_column = blockIdx.x % column_tiles * COLUMNS;
    const int depth = p.kernel * p.kernel * p.channels, steps = (depth + STEP - 1) / STEP;

    const int quarter = threadIdx.x % 4 * 8;
    PatchRow<T> patches[ROWS / AT_ONCE];
#pragma unroll
    for (int i = 0; i < ROWS / AT_ONCE; ++i) {
        const int row = first_row + threadIdx.x / 4 + i * AT_ONCE;
        const int pixel = row % (p.out_height * p.out_width), image = row / (p.out_height * p.out_width);
        patches[i].image = p.x + static_cast<size_t>(image) * p.height * p.width * p.channels;
        // Far outside where there is no such row.
        patches[i].y = row < p.rows ? pixel / p.out_width * p.stride - p.top : -p.kernel - 2 * p.height;
        patches[i].x = pixel % p.out_width * p.stride - p.left;
    }
    // Where this thread's quarter of the next step lies in the summed dimension.
    int tap_y = 0, tap_x = 0, channel = quarter, at = quarter;
    const auto begin_step = [&](int step) {
        while (channel >= p.channels) {
            channel -= p.channels;
            if (++tap_x == p.kernel) {
                tap_x = 0;
                ++tap_y;
            }
        }
        T* const to = shared + step % STAGES * TILE + threadIdx.x / 4 * TILE_ROW + quarter;
#pragma unroll
        for (int i = 0; i < ROWS / AT_ONCE; ++i) {
            const int y = patches[i].y + tap_y, x = patches[i].x + tap_x;
            const bool is_inside = y >= 0 && x >= 0 && y < p.height << p.doubled && x < p.width << p.doubled;
            const bool is_there = at < depth && is_inside;
            const size_t pixel = static_cast<size_t>(y >> p.doubled) * p.width + (x >> p.doubled);
            const T* const from = is_there ? patches[i].image + pixel * p.channels + channel : p.x;
            copy_16_bytes(to + i * AT_ONCE * TILE_ROW, from, is_there);
        }
#pragma unroll
        for (int i = 0; i < COLUMNS / AT_ONCE; ++i) {
            const int column = first_column + threadIdx.x / 4 + i * AT_ONCE;
            const bool is_there = at < depth && column < p.columns;
            const T* const from = p.weight + (is_there ? static_cast<size_t>(column) * depth + at : 0);
            copy_16_bytes(to + (ROWS + i * AT_ONCE) * TILE_ROW, from, is_there);
        }
        channel += STEP;
        at += STEP;
    };

    constexpr int HIGH = ROWS / 2, WIDE = COLUMNS / 4;
    static_assert(HIGH % 16 == 0 && WIDE % 16 == 0 && ROWS % AT_ONCE == 0 && COLUMNS % AT_ONCE == 0);
    const int warp_row = warp / 4 * HIGH, warp_column = warp % 4 * WIDE;
    float sums[HIGH / 16][WIDE / 8][4] = {};

    // A group per step even where there is none, so that the count of those on their way is right to the end.
    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < steps) begin_step(step);
        end_group();
    }
    for (int step = 0; step < steps; ++step) {
        wait_for_groups<STAGES - 2>();
        // All have their part of this step, and none still computes with the one before, whose place is next.
        __syncthreads();
        if (step + STAGES - 1 < steps) begin_step(step + STAGES - 1);
        end_group();

        const T* const rows = shared + step % STAGES * TILE;
        const T* const columns = rows + ROWS * TILE_ROW;
        const int matrix = lane / 8, row = lane % 8;
#pragma unroll
        for (int k = 0; k < STEP; k += 16) {
            unsigned a[HIGH / 16][4], b[WIDE / 16][4];
#pragma unroll
            for (int i = 0; i < HIGH / 16; ++i) {
                load_matrices(a[i], rows + (warp_row + i * 16 + matrix % 2 * 8 + row) * TILE_ROW + k + matrix / 2 * 8);
            }
#pragma unroll
            for (int j = 0; j < WIDE / 16; ++j) {
                const int column = warp_column + j * 16 + matrix / 2 * 8 + row;
                load_matrices(b[j], columns + column * TILE_ROW + k + matrix % 2 * 8);
            }
#pragma unroll
            for (int i = 0; i < HIGH / 16; ++i) {
#pragma unroll
                for (int j = 0; j < WIDE / 8; ++j) {
                    const unsigned pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                    multiply(sums[i][j], a[i], pair, T{});
                }
            }
        }
    }

#pragma unroll
    for (int i = 0; i < HIGH / 8; ++i) {
        const int row = first_row + warp_row + i * 8 + g;
        if (row >= p.rows) continue;
#pragma unroll
        for (int j = 0; j < WIDE / 8; ++j) {
            const int column = first_column + warp_column + j * 8 + 2 * t;
            const float y[2] = {sums[i / 2][j][i % 2 * 2], sums[i / 2][j][i % 2 * 2 + 1]};
            if (p.then != PRODUCT_GEGLU) {
                finish(p, row, column, y);
            } else if (j % 2 == 0) {
                const float gates[2] = {sums[i / 2][j + 1][i % 2 * 2], sums[i / 2][j + 1][i % 2 * 2 + 1]};
                finish_geglu(p, row, column, y, gates);
            }
        }
    }
}

#define OF_TILE(rows, columns, type) \
    KERNEL(product_##rows##x##columns##_##type, Product<type>, PRODUCT_THREADS, (product<rows, columns>))
#define TILES(type) OF_TILE(128, 128, type) OF_TILE(128, 64, type) OF_TILE(64, 64, type)
TILES(f16)
TILES(bf16)
