// Linear layers and convolutions of f16 and bf16 as an implicit GEMM on tensor cores: the im2col matrix of x
// times the weight. The patches are gathered while they are loaded and never stored. Bias, residual and
// activation are applied to the accumulators in registers.

#include "tensor_core.cuh"

constexpr int GEMM_THREADS = 256;
// K dimension of a step of the main loop, and number of steps in the software pipeline.
constexpr int BLOCK_K = 32, STAGES = 4;
// Elements per row of a tile in shared memory: padded by 16 bytes, so that eight rows are in different banks.
constexpr int TILE_ROW = BLOCK_K + 8;

template <typename T>
struct ImplicitGemm {
    // (images, height, width, channels), aligned to 16 bytes; channels is a multiple of 8.
    const T* x;
    // (columns, kernel, kernel, channels), aligned to 16 bytes. For GEGLU, the columns alternate between
    // eight columns of values and their eight columns of gates; the output then has columns / 2 columns and
    // no residual.
    const T* weight;
    // Null, or (columns), in the order of the weight.
    const T* bias;
    // Null, or (rows / rows_per_residual, columns): each row is added to rows_per_residual consecutive output
    // rows.
    const T* residual;
    // (rows, columns), where the rows are (images, out_height, out_width).
    T* out;
    int rows, columns, channels, height, width, kernel, stride, top, left, out_height, out_width;
    int rows_per_residual, activation;
    // 1 if the patches are those of x upsampled 2× by nearest neighbour, else 0.
    int doubled;
};

// Row of the im2col matrix from which a thread loads 16 bytes per step: image and top left corner of its
// patch.
template <typename T>
struct PatchRow {
    const T* image;
    int y, x;
};

// Epilogue of two adjacent columns of a row.
template <typename T>
__device__ __forceinline__ void apply_epilogue(const ImplicitGemm<T>& p, int row, int column,
                                               const float (&acc)[2]) {
    const size_t residual = static_cast<size_t>(row / p.rows_per_residual) * p.columns + column;
    float y[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        if (column + i >= p.columns) continue;
        y[i] = acc[i];
        if (p.bias != nullptr) y[i] += widen(p.bias[column + i]);
        if (p.residual != nullptr) y[i] += widen(p.residual[residual + i]);
        if (p.activation == ACTIVATION_SILU) y[i] = silu(y[i]);
        if (p.activation == ACTIVATION_GELU) y[i] = gelu(y[i]);
    }
    T* const to = p.out + static_cast<size_t>(row) * p.columns + column;
    if (p.columns % 2 == 0) {
        if (column < p.columns) store<2>(y, to);
    } else {
        if (column < p.columns) narrow(y[0], to[0]);
        if (column + 1 < p.columns) narrow(y[1], to[1]);
    }
}

// GEGLU epilogue of two adjacent columns of values; their gates are eight columns to the right. The number of
// columns is a multiple of 16.
template <typename T>
__device__ __forceinline__ void apply_geglu_epilogue(const ImplicitGemm<T>& p, int row, int column,
                                                     const float (&values)[2], const float (&gates)[2]) {
    if (column >= p.columns) return;
    float y[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float value_bias = p.bias == nullptr ? 0.0f : widen(p.bias[column + i]);
        const float gate_bias = p.bias == nullptr ? 0.0f : widen(p.bias[column + 8 + i]);
        y[i] = (values[i] + value_bias) * gelu(gates[i] + gate_bias);
    }
    store<2>(y, p.out + static_cast<size_t>(row) * (p.columns / 2) + column / 16 * 8 + column % 8);
}

// Computes an output tile of BLOCK_M × BLOCK_N. Grid: x over ⌈rows / BLOCK_M⌉ × ⌈columns / BLOCK_N⌉ tiles,
// the columns innermost: concurrent blocks then share their patches, and the weight, which is smaller than x,
// stays in the L2 cache. Block: eight warps, two along the rows and four along the columns. Shared memory:
// STAGES × (BLOCK_M + BLOCK_N) × TILE_ROW elements.
//
// The K dimension is (kernel, kernel, channels), in steps of BLOCK_K = 32. Four threads load the 64 bytes of
// a row, each always the same quarter, so a thread advances through taps and channels by additions only.
// Elements outside the image or the tensors are loaded as zeros. While one step is computed, the next three
// are in flight.
template <int BLOCK_M, int BLOCK_N, typename T>
__device__ __forceinline__ void implicit_gemm(const ImplicitGemm<T>& p) {
    DYNAMIC_SHARED(memory);
    T* const shared = reinterpret_cast<T*>(memory);
    constexpr int TILE = (BLOCK_M + BLOCK_N) * TILE_ROW, ROWS_PER_LOAD = GEMM_THREADS / 4;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int column_tiles = (p.columns + BLOCK_N - 1) / BLOCK_N;
    const int first_row = blockIdx.x / column_tiles * BLOCK_M, first_column = blockIdx.x % column_tiles * BLOCK_N;
    const int depth = p.kernel * p.kernel * p.channels, steps = (depth + BLOCK_K - 1) / BLOCK_K;

    const int quarter = threadIdx.x % 4 * 8;
    PatchRow<T> patches[BLOCK_M / ROWS_PER_LOAD];
#pragma unroll
    for (int i = 0; i < BLOCK_M / ROWS_PER_LOAD; ++i) {
        const int row = first_row + threadIdx.x / 4 + i * ROWS_PER_LOAD;
        const int pixel = row % (p.out_height * p.out_width), image = row / (p.out_height * p.out_width);
        patches[i].image = p.x + static_cast<size_t>(image) * p.height * p.width * p.channels;
        // Rows past the end get a patch outside the image, so that they are loaded as zeros.
        patches[i].y = row < p.rows ? pixel / p.out_width * p.stride - p.top : -p.kernel - 2 * p.height;
        patches[i].x = pixel % p.out_width * p.stride - p.left;
    }
    // Position in K of this thread's quarter of the next step: (tap_y, tap_x, channel), and its flat index k.
    int tap_y = 0, tap_x = 0, channel = quarter, k = quarter;
    const auto load_step = [&](int step) {
        while (channel >= p.channels) {
            channel -= p.channels;
            if (++tap_x == p.kernel) {
                tap_x = 0;
                ++tap_y;
            }
        }
        T* const to = shared + step % STAGES * TILE + threadIdx.x / 4 * TILE_ROW + quarter;
#pragma unroll
        for (int i = 0; i < BLOCK_M / ROWS_PER_LOAD; ++i) {
            const int y = patches[i].y + tap_y, x = patches[i].x + tap_x;
            const bool is_inside = y >= 0 && x >= 0 && y < p.height << p.doubled && x < p.width << p.doubled;
            const bool in_bounds = k < depth && is_inside;
            const size_t pixel = static_cast<size_t>(y >> p.doubled) * p.width + (x >> p.doubled);
            const T* const from = in_bounds ? patches[i].image + pixel * p.channels + channel : p.x;
            cp_async_16(to + i * ROWS_PER_LOAD * TILE_ROW, from, in_bounds);
        }
#pragma unroll
        for (int i = 0; i < BLOCK_N / ROWS_PER_LOAD; ++i) {
            const int column = first_column + threadIdx.x / 4 + i * ROWS_PER_LOAD;
            const bool in_bounds = k < depth && column < p.columns;
            const T* const from = p.weight + (in_bounds ? static_cast<size_t>(column) * depth + k : 0);
            cp_async_16(to + (BLOCK_M + i * ROWS_PER_LOAD) * TILE_ROW, from, in_bounds);
        }
        channel += BLOCK_K;
        k += BLOCK_K;
    };

    constexpr int WARP_M = BLOCK_M / 2, WARP_N = BLOCK_N / 4;
    static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0);
    static_assert(BLOCK_M % ROWS_PER_LOAD == 0 && BLOCK_N % ROWS_PER_LOAD == 0);
    const int warp_row = warp / 4 * WARP_M, warp_column = warp % 4 * WARP_N;
    float acc[WARP_M / 16][WARP_N / 8][4] = {};

    // Every iteration commits a group, also an empty one past the last step, so that the same number of
    // groups is in flight in all iterations.
    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < steps) load_step(step);
        cp_async_commit();
    }
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        // After the barrier the copies of all threads for this step have arrived, and no thread still reads
        // the previous step, whose buffer is overwritten next.
        __syncthreads();
        if (step + STAGES - 1 < steps) load_step(step + STAGES - 1);
        cp_async_commit();

        const T* const tile_a = shared + step % STAGES * TILE;
        const T* const tile_b = tile_a + BLOCK_M * TILE_ROW;
        // ldmatrix loads four 8 × 8 matrices; this lane passes the address of `row` of `matrix`.
        const int matrix = lane / 8, row = lane % 8;
#pragma unroll
        for (int kk = 0; kk < BLOCK_K; kk += 16) {
            unsigned a[WARP_M / 16][4], b[WARP_N / 16][4];
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i) {
                const int tile_row = warp_row + i * 16 + matrix % 2 * 8 + row;
                ldmatrix_x4(a[i], tile_a + tile_row * TILE_ROW + kk + matrix / 2 * 8);
            }
#pragma unroll
            for (int j = 0; j < WARP_N / 16; ++j) {
                const int tile_row = warp_column + j * 16 + matrix / 2 * 8 + row;
                ldmatrix_x4(b[j], tile_b + tile_row * TILE_ROW + kk + matrix % 2 * 8);
            }
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i) {
#pragma unroll
                for (int j = 0; j < WARP_N / 8; ++j) {
                    const unsigned fragment[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                    mma(acc[i][j], a[i], fragment, T{});
                }
            }
        }
    }

#pragma unroll
    for (int i = 0; i < WARP_M / 8; ++i) {
        const int row = first_row + warp_row + i * 8 + g;
        if (row >= p.rows) continue;
#pragma unroll
        for (int j = 0; j < WARP_N / 8; ++j) {
            const int column = first_column + warp_column + j * 8 + 2 * t;
            const float y[2] = {acc[i / 2][j][i % 2 * 2], acc[i / 2][j][i % 2 * 2 + 1]};
            if (p.activation != ACTIVATION_GEGLU) {
                apply_epilogue(p, row, column, y);
            } else if (j % 2 == 0) {
                const float gates[2] = {acc[i / 2][j + 1][i % 2 * 2], acc[i / 2][j + 1][i % 2 * 2 + 1]};
                apply_geglu_epilogue(p, row, column, y, gates);
            }
        }
    }
}

#define INSTANCE(block_m, block_n, type)                                                     \
    KERNEL(implicit_gemm_##block_m##x##block_n##_##type, ImplicitGemm<type>, GEMM_THREADS, \
           (implicit_gemm<block_m, block_n>))
#define INSTANCES(type) INSTANCE(128, 128, type) INSTANCE(128, 64, type) INSTANCE(64, 64, type)
INSTANCES(f16)
INSTANCES(bf16)
#undef INSTANCE
#undef INSTANCES
