// FlashAttention of f16 and bf16 on tensor cores, with an online softmax.

#include "attention.cuh"
#include "tensor_core.cuh"

// Keys per tile.
constexpr int BLOCK_N = 64;

// BLOCK_M queries per block, head dimensions up to HEAD_DIM, a multiple of 16. Tensors are aligned to 16
// bytes, and head_dim is a multiple of 8. Grid: (⌈q_len / BLOCK_M⌉, heads, batch). Block: one warp per 16
// queries. The launcher chooses BLOCK_M = 128 for long sequences, which halves the reads of keys and values,
// else 64. Shared memory: two tiles of keys and two of values (double buffering), in rows of HEAD_DIM + 8
// elements. The size of a row is a multiple of 16 bytes but not of 128, so that the eight rows of a matrix
// are in different banks.
//
// A warp keeps its queries, its 16 × BLOCK_N scores and its 16 × HEAD_DIM output accumulators in registers
// (40 + 32 + 80 per lane for HEAD_DIM = 160). The accumulator layout of the scores is the A operand layout of
// the second product, so the probabilities need no exchange between lanes.
template <int HEAD_DIM, int BLOCK_M, typename T>
__device__ __forceinline__ void attention_tensor_core(const Attention<T>& p) {
    DYNAMIC_SHARED(memory);
    constexpr int ROW = HEAD_DIM + 8, TILE = BLOCK_N * ROW, WARPS = BLOCK_M / 16;
    T* const shared = reinterpret_cast<T*>(memory);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int channels = p.heads * p.head_dim;
    const size_t head = static_cast<size_t>(blockIdx.y) * p.head_dim;
    const T* const k = p.k + static_cast<size_t>(blockIdx.z) * p.kv_len * channels + head;
    const T* const v = p.v + static_cast<size_t>(blockIdx.z) * p.kv_len * channels + head;

    // Starts the copy of a tile. Out-of-bounds keys and dimensions become zeros: they do not change the
    // result, but uninitialized memory could contain NaN.
    const auto load_tile = [&](int tile) {
        T* const keys = shared + tile % 2 * 2 * TILE;
        for (int i = threadIdx.x; i < BLOCK_N * (HEAD_DIM / 8); i += WARPS * WARP) {
            const int key = i / (HEAD_DIM / 8), d = i % (HEAD_DIM / 8) * 8;
            const bool in_bounds = tile * BLOCK_N + key < p.kv_len && d < p.head_dim;
            const size_t from = in_bounds ? static_cast<size_t>(tile * BLOCK_N + key) * channels + d : 0;
            cp_async_16(keys + key * ROW + d, k + from, in_bounds);
            cp_async_16(keys + TILE + key * ROW + d, v + from, in_bounds);
        }
        cp_async_commit();
    };
    load_tile(0);

    // This lane's rows of the warp's queries are g and g + 8.
    const int first = (static_cast<int>(blockIdx.x) * WARPS + warp) * 16 + g, rows[2] = {first, first + 8};
    const size_t image = static_cast<size_t>(blockIdx.z) * p.q_len * channels + head;
    unsigned queries[HEAD_DIM / 16][4];
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = rows[i % 2], d = step * 16 + i / 2 * 8 + 2 * t;
            const bool in_bounds = row < p.q_len && d < p.head_dim;
            const T* const from = p.q + image + static_cast<size_t>(row) * channels + d;
            queries[step][i] = in_bounds ? *reinterpret_cast<const unsigned*>(from) : 0u;
        }
    }

    float out[HEAD_DIM / 8][4] = {}, row_max[2] = {-INFINITY, -INFINITY}, row_sum[2] = {};
    const int tiles = (p.kv_len + BLOCK_N - 1) / BLOCK_N;
    for (int tile = 0; tile < tiles; ++tile) {
        if (tile + 1 < tiles) {
            load_tile(tile + 1);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        const T* const keys = shared + tile % 2 * 2 * TILE;
        const T* const values = keys + TILE;
        // ldmatrix loads four 8 × 8 matrices; this lane passes the address of `row` of `matrix`.
        const int matrix = lane / 8, row = lane % 8;

        // Scores: queries · keysᵀ.
        float scores[BLOCK_N / 8][4] = {};
#pragma unroll
        for (int step = 0; step < HEAD_DIM / 16; ++step) {
#pragma unroll
            for (int n = 0; n < BLOCK_N / 8; n += 2) {
                unsigned b[4];
                ldmatrix_x4(b, keys + (n * 8 + matrix / 2 * 8 + row) * ROW + step * 16 + matrix % 2 * 8);
                const unsigned left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
                mma(scores[n], queries[step], left, T{});
                mma(scores[n + 1], queries[step], right, T{});
            }
        }

        // Mask the padding of the last tile.
        if ((tile + 1) * BLOCK_N > p.kv_len) {
#pragma unroll
            for (int n = 0; n < BLOCK_N / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    if (tile * BLOCK_N + n * 8 + 2 * t + i % 2 >= p.kv_len) scores[n][i] = -INFINITY;
                }
            }
        }

        // Online softmax of this lane's two rows.
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float new_max = row_max[half];
#pragma unroll
            for (int n = 0; n < BLOCK_N / 8; ++n) {
                new_max = fmaxf(new_max, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
            }
            // A row is spread over four lanes.
            new_max = fmaxf(new_max, __shfl_xor_sync(ALL_LANES, new_max, 1));
            new_max = fmaxf(new_max, __shfl_xor_sync(ALL_LANES, new_max, 2));
            // Every tile has at least one key, so new_max is finite.
            const float rescale = exp2f((row_max[half] - new_max) * p.scale_log2);
            row_max[half] = new_max;
            row_sum[half] *= rescale;
#pragma unroll
            for (int n = 0; n < BLOCK_N / 8; ++n) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    scores[n][i] = exp2f((scores[n][i] - new_max) * p.scale_log2);
                    row_sum[half] += scores[n][i];
                }
            }
#pragma unroll
            for (int n = 0; n < HEAD_DIM / 8; ++n) {
                out[n][2 * half] *= rescale;
                out[n][2 * half + 1] *= rescale;
            }
        }

        // Output: probabilities · values.
#pragma unroll
        for (int step = 0; step < BLOCK_N / 16; ++step) {
            const float(&low)[4] = scores[2 * step];
            const float(&high)[4] = scores[2 * step + 1];
            const unsigned probs[4] = {pack_pair<T>(low[0], low[1]), pack_pair<T>(low[2], low[3]),
                                       pack_pair<T>(high[0], high[1]), pack_pair<T>(high[2], high[3])};
#pragma unroll
            for (int n = 0; n < HEAD_DIM / 8; n += 2) {
                unsigned b[4];
                ldmatrix_x4_trans(b, values + (step * 16 + matrix % 2 * 8 + row) * ROW + n * 8 + matrix / 2 * 8);
                const unsigned left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
                mma(out[n], probs, left, T{});
                mma(out[n + 1], probs, right, T{});
            }
        }
        // All warps must have read this tile before the tile after the next overwrites its buffer.
        __syncthreads();
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float total = row_sum[half];
        total += __shfl_xor_sync(ALL_LANES, total, 1);
        total += __shfl_xor_sync(ALL_LANES, total, 2);
        const float inverse_sum = 1.0f / total;
        T* const to = p.out + image + static_cast<size_t>(rows[half]) * channels;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; ++n) {
            const int d = n * 8 + 2 * t;
            if (rows[half] < p.q_len && d < p.head_dim) {
                *reinterpret_cast<unsigned*>(to + d) =
                    pack_pair<T>(out[n][2 * half] * inverse_sum, out[n][2 * half + 1] * inverse_sum);
            }
        }
    }
}

// Instances for the head dimensions of the UNet (40, 80, 160) and of Whisper (64).
#define INSTANCE(head_dim, block_m, type)                                                                   \
    KERNEL(attention_tensor_core_##head_dim##x##block_m##_##type, Attention<type>, (block_m / 16 * WARP), \
           (attention_tensor_core<head_dim, block_m>))
#define INSTANCES(block_m, type)                                                   \
    INSTANCE(48, block_m, type) INSTANCE(64, block_m, type) INSTANCE(80, block_m, type) \
    INSTANCE(160, block_m, type)
INSTANCES(64, f16)
INSTANCES(128, f16)
INSTANCES(64, bf16)
INSTANCES(128, bf16)
#undef INSTANCE
#undef INSTANCES
