// Attention of f16 and bf16 on tensor cores, with a running softmax.

#include "attention.cuh"
#include "tensor_core.cuh"

// Keys of a tile.
constexpr int KEYS = 64;

// Tensors on 16 bytes; dim is a multiple of 8. Head sizes up to DIM, a multiple of 16.
// Grid: (⌈tokens / QUERIES⌉, heads, batch). Block: a warp for 16 queries each; of 128 queries where there are as many,
// which halves how often keys and values are read, of 64 else.
// Shared: two tiles of 64 keys and two of values, rows of DIM + 8 elements; while one is computed with, the next is
// on its way. A row is a multiple of 16 bytes but not of 128, so that eight of them lie in different banks.
//
// A warp keeps its queries, its 16 × 64 scores and its 16 × DIM sums in registers (DIM = 160: 40 + 32 + 80 per
// lane). The scores leave the first product in the very lanes in which the second needs them.
template <int DIM, int QUERIES, typename T>
__device__ __forceinline__ void attention_tensor_core(const Attention<T>& p) {
    DYNAMIC_SHARED(memory);
    constexpr int ROW = DIM + 8, TILE = KEYS * ROW, WARPS = QUERIES / 16;
    T* const shared = reinterpret_cast<T*>(memory);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int channels = p.heads * p.dim;
    const size_t head = static_cast<size_t>(blockIdx.y) * p.dim;
    const T* const k = p.k + static_cast<size_t>(blockIdx.z) * p.others * channels + head;
    const T* const v = p.v + static_cast<size_t>(blockIdx.z) * p.others * channels + head;

    // Zeros beyond the last key and the last dimension: they count nothing, but must be numbers.
    const auto begin_tile = [&](int tile) {
        T* const keys = shared + tile % 2 * 2 * TILE;
        for (int i = threadIdx.x; i < KEYS * (DIM / 8); i += WARPS * WARP) {
            const int key = i / (DIM / 8), d = i % (DIM / 8) * 8;
            const bool is_there = tile * KEYS + key < p.others && d < p.dim;
            const size_t from = is_there ? static_cast<size_t>(tile * KEYS + key) * channels + d : 0;
            copy_16_bytes(keys + key * ROW + d, k + from, is_there);
            copy_16_bytes(keys + TILE + key * ROW + d, v + from, is_there);
        }
        end_group();
    };
    begin_tile(0);

    // Rows g and g + 8 of this warp's queries.
    const int first = (static_cast<int>(blockIdx.x) * WARPS + warp) * 16 + g, rows[2] = {first, first + 8};
    const size_t image = static_cast<size_t>(blockIdx.z) * p.tokens * channels + head;
    unsigned queries[DIM / 16][4];
#pragma unroll
    for (int step = 0; step < DIM / 16; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = rows[i % 2], d = step * 16 + i / 2 * 8 + 2 * t;
            const bool is_there = row < p.tokens && d < p.dim;
            const T* const from = p.q + image + static_cast<size_t>(row) * channels + d;
            queries[step][i] = is_there ? *reinterpret_cast<const unsigned*>(from) : 0u;
        }
    }

    float out[DIM / 8][4] = {}, highest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    const int tiles = (p.others + KEYS - 1) / KEYS;
    for (int tile = 0; tile < tiles; ++tile) {
        if (tile + 1 < tiles) {
            begin_tile(tile + 1);
            wait_for_groups<1>();
        } else {
            wait_for_groups<0>();
        }
        __syncthreads();
        const T* const keys = shared + tile % 2 * 2 * TILE;
        const T* const values = keys + TILE;
        // Of the four matrices that a load brings, this lane names a row of one.
        const int matrix = lane / 8, row = lane % 8;

        float scores[KEYS / 8][4] = {};
#pragma unroll
        for (int step = 0; step < DIM / 16; ++step) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n += 2) {
                unsigned b[4];
                load_matrices(b, keys + (n * 8 + matrix / 2 * 8 + row) * ROW + step * 16 + matrix % 2 * 8);
                const unsigned left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
                multiply(scores[n], queries[step], left, T{});
                multiply(scores[n + 1], queries[step], right, T{});
            }
        }

        if ((tile + 1) * KEYS > p.others) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    if (tile * KEYS + n * 8 + 2 * t + i % 2 >= p.others) scores[n][i] = -INFINITY;
                }
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float most = highest[half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) most = fmaxf(most, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
            // The four lanes with the same row.
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
            // A tile has at least one key, so this is finite from the first on.
            const float shrink = exp2f((highest[half] - most) * p.scale);
            highest[half] = most;
            sum[half] *= shrink;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    scores[n][i] = exp2f((scores[n][i] - most) * p.scale);
                    sum[half] += scores[n][i];
                }
            }
#pragma unroll
            for (int n = 0; n < DIM / 8; ++n) {
                out[n][2 * half] *= shrink;
                out[n][2 * half + 1] *= shrink;
            }
        }

#pragma unroll
        for (int step = 0; step < KEYS / 16; ++step) {
            const float(&near)[4] = scores[2 * step];
            const float(&far)[4] = scores[2 * step + 1];
            const unsigned weights[4] = {pair<T>(near[0], near[1]), pair<T>(near[2], near[3]), pair<T>(far[0], far[1]),
                                         pair<T>(far[2], far[3])};
#pragma unroll
            for (int n = 0; n < DIM / 8; n += 2) {
                unsigned b[4];
                load_matrices_transposed(b, values + (step * 16 + matrix % 2 * 8 + row) * ROW + n * 8 + matrix / 2 * 8);
                const unsigned left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
                multiply(out[n], weights, left, T{});
                multiply(out[n + 1], weights, right, T{});
            }
        }
        // Before the tile after the next comes into this one's place.
        __syncthreads();
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float all = sum[half];
        all += __shfl_xor_sync(ALL_LANES, all, 1);
        all += __shfl_xor_sync(ALL_LANES, all, 2);
        const float share = 1.f / all;
        T* const to = p.out + image + static_cast<size_t>(rows[half]) * channels;
#pragma unroll
        for (int n = 0; n < DIM / 8; ++n) {
            const int d = n * 8 + 2 * t;
            if (rows[half] < p.tokens && d < p.dim) {
                *reinterpret_cast<unsigned*>(to + d) = pair<T>(out[n][2 * half] * share, out[n][2 * half + 1] * share);
            }
        }
    }
}

// The head sizes of the UNet (40, 80, 160) and of Whisper (64).
#define OF_SIZE(size, queries, type)                                                                              \
    KERNEL(attention_tensor_core_##size##x##queries##_##type, Attention<type>, (queries / 16 * WARP), \
           (attention_tensor_core<size, queries>))
#define SIZES(queries, type) \
    OF_SIZE(48, queries, type) OF_SIZE(64, queries, type) OF_SIZE(80, queries, type) OF_SIZE(160, queries, type)
SIZES(64, f16)
SIZES(128, f16)
SIZES(64, bf16)
SIZES(128, bf16)
