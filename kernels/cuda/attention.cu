// FlashAttention without tensor cores: an online softmax over blocks of keys, so the score matrix is never
// stored. For f32, and for f16 and bf16 tensors that the tensor-core kernel does not support (alignment,
// head_dim not a multiple of 8).

#include "attention.cuh"

constexpr int ATTENTION_WARPS = 4, ATTENTION_THREADS = ATTENTION_WARPS * WARP;
// Queries per warp.
constexpr int ATTENTION_QUERIES = 4;

// Head dimensions up to HEAD_DIM, a multiple of 32. Grid: (⌈q_len / 16⌉, heads, batch). Block: four warps.
// Shared memory: HEAD_DIM × 16 floats of queries (the four of a warp are one float4), the probabilities of 32
// keys for the 16 queries, and a tile of 32 keys or values × 32 dimensions.
//
// A warp computes four queries. For the scores, a lane holds one key; for the output, one dimension of every
// 32. In both products an element of the tile is read once for four queries. Keys and values are loaded 32
// dimensions at a time, so the tile has 4 KiB for every head dimension. Its rows are padded to 33 floats to
// avoid bank conflicts.
template <int HEAD_DIM, typename T>
__device__ __forceinline__ void attention(const Attention<T>& p) {
    DYNAMIC_SHARED(memory);
    constexpr int QUERIES = ATTENTION_QUERIES, ROW = WARP + 1;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float4* const queries = reinterpret_cast<float4*>(memory);
    float4* const probs = queries + ATTENTION_WARPS * HEAD_DIM;
    float* const tile = reinterpret_cast<float*>(probs + ATTENTION_WARPS * WARP);

    const int channels = p.heads * p.head_dim;
    const size_t head = static_cast<size_t>(blockIdx.y) * p.head_dim;
    const T* const q = p.q + static_cast<size_t>(blockIdx.z) * p.q_len * channels + head;
    const T* const k = p.k + static_cast<size_t>(blockIdx.z) * p.kv_len * channels + head;
    const T* const v = p.v + static_cast<size_t>(blockIdx.z) * p.kv_len * channels + head;
    const int first = (blockIdx.x * ATTENTION_WARPS + warp) * QUERIES;

    for (int d = lane; d < HEAD_DIM; d += WARP) {
        float query[QUERIES];
        for (int i = 0; i < QUERIES; ++i) {
            const bool in_bounds = d < p.head_dim && first + i < p.q_len;
            query[i] = in_bounds ? widen(q[static_cast<size_t>(first + i) * channels + d]) * p.scale_log2 : 0.0f;
        }
        queries[warp * HEAD_DIM + d] = {query[0], query[1], query[2], query[3]};
    }

    // Loads 32 keys or values from row `begin` on, 32 dimensions from `d` on; zeros out of bounds.
    const auto load_tile = [&](const T* from, int begin, int d) {
        __syncthreads();
        for (int i = warp; i < WARP; i += ATTENTION_WARPS) {
            const bool in_bounds = begin + i < p.kv_len && d + lane < p.head_dim;
            const size_t at = static_cast<size_t>(begin + i) * channels + d + lane;
            tile[i * ROW + lane] = in_bounds ? widen(from[at]) : 0.0f;
        }
        __syncthreads();
    };

    float row_max[QUERIES], row_sum[QUERIES] = {}, out[QUERIES][HEAD_DIM / WARP] = {};
    for (int i = 0; i < QUERIES; ++i) row_max[i] = -INFINITY;
    for (int begin = 0; begin < p.kv_len; begin += WARP) {
        float scores[QUERIES] = {};
        for (int d = 0; d < p.head_dim; d += WARP) {
            load_tile(k, begin, d);
#pragma unroll 8
            for (int i = 0; i < WARP; ++i) {
                const float key = tile[lane * ROW + i];
                const float4 query = queries[warp * HEAD_DIM + d + i];
                scores[0] += query.x * key;
                scores[1] += query.y * key;
                scores[2] += query.z * key;
                scores[3] += query.w * key;
            }
        }
#pragma unroll
        for (int i = 0; i < QUERIES; ++i) {
            // Every block of keys has at least one, so row_max is finite after the first.
            const float score = begin + lane < p.kv_len ? scores[i] : -INFINITY;
            const float previous_max = row_max[i];
            row_max[i] = fmaxf(previous_max, warp_max(score));
            const float rescale = exp2f(previous_max - row_max[i]);
            scores[i] = exp2f(score - row_max[i]);
            // The sum over this lane's keys; the lanes are summed at the end.
            row_sum[i] = row_sum[i] * rescale + scores[i];
#pragma unroll
            for (int j = 0; j < HEAD_DIM / WARP; ++j) out[i][j] *= rescale;
        }
        probs[warp * WARP + lane] = {scores[0], scores[1], scores[2], scores[3]};
#pragma unroll
        for (int j = 0; j < HEAD_DIM / WARP; ++j) {
            if (j * WARP < p.head_dim) {
                // The first barrier of load_tile also makes probs visible to the warp.
                load_tile(v, begin, j * WARP);
#pragma unroll 8
                for (int i = 0; i < WARP; ++i) {
                    const float value = tile[i * ROW + lane];
                    const float4 prob = probs[warp * WARP + i];
                    out[0][j] += prob.x * value;
                    out[1][j] += prob.y * value;
                    out[2][j] += prob.z * value;
                    out[3][j] += prob.w * value;
                }
            }
        }
    }

    T* const to = p.out + static_cast<size_t>(blockIdx.z) * p.q_len * channels + head;
#pragma unroll
    for (int i = 0; i < QUERIES; ++i) {
        const float inverse_sum = 1.0f / warp_sum(row_sum[i]);
#pragma unroll
        for (int j = 0; j < HEAD_DIM / WARP; ++j) {
            const int d = j * WARP + lane;
            if (first + i < p.q_len && d < p.head_dim) {
                narrow(out[i][j] * inverse_sum, to[static_cast<size_t>(first + i) * channels + d]);
            }
        }
    }
}

KERNELS(attention_64, Attention, ATTENTION_THREADS, attention<64>)
KERNELS(attention_160, Attention, ATTENTION_THREADS, attention<160>)
KERNELS(attention_512, Attention, ATTENTION_THREADS, attention<512>)
