// Attention with a running softmax: the scores are never stored. For f32, and for what the tensor-core version
// does not take (odd head sizes, the VAE's 512).

#include "attention.cuh"

constexpr int ATTENTION_WARPS = 4, ATTENTION_THREADS = ATTENTION_WARPS * WARP;
// Queries of a warp.
constexpr int ATTENTION_QUERIES = 4;

// Head sizes up to DIM, a multiple of 32. Grid: (⌈tokens / 16⌉, heads, batch). Block: four warps.
// Shared: DIM × 16 floats (the queries, four neighbours of a warp in one load), a tile of 32 keys or values by
// 32 dimensions, and the weights of 32 keys for the 16 queries.
//
// A warp has four queries. For the scores a lane has a key, for the output a dimension in 32; either way a
// tile's element is read once for four queries. Keys come in pieces of 32 dimensions, so that a tile has 4 KiB
// whatever the head size, and a row of 33 floats: lanes then read 32 different banks.
template <int DIM, typename T>
__device__ __forceinline__ void attention(const Attention<T>& p) {
    DYNAMIC_SHARED(memory);
    constexpr int QUERIES = ATTENTION_QUERIES, ROW = WARP + 1;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float4* const queries = reinterpret_cast<float4*>(memory);
    float4* const weights = queries + ATTENTION_WARPS * DIM;
    float* const tile = reinterpret_cast<float*>(weights + ATTENTION_WARPS * WARP);

    const int channels = p.heads * p.dim;
    const size_t head = static_cast<size_t>(blockIdx.y) * p.dim;
    const T* const q = p.q + static_cast<size_t>(blockIdx.z) * p.tokens * channels + head;
    const T* const k = p.k + static_cast<size_t>(blockIdx.z) * p.others * channels + head;
    const T* const v = p.v + static_cast<size_t>(blockIdx.z) * p.others * channels + head;
    const int first = (blockIdx.x * ATTENTION_WARPS + warp) * QUERIES;

    for (int d = lane; d < DIM; d += WARP) {
        float of[QUERIES];
        for (int i = 0; i < QUERIES; ++i) {
            const bool is_there = d < p.dim && first + i < p.tokens;
            of[i] = is_there ? widen(q[static_cast<size_t>(first + i) * channels + d]) * p.scale : 0.f;
        }
        queries[warp * DIM + d] = {of[0], of[1], of[2], of[3]};
    }

    // 32 keys or values from `begin`, 32 dimensions from `d`; zeros where there are none.
    const auto load_tile = [&](const T* from, int begin, int d) {
        __syncthreads();
        for (int i = warp; i < WARP; i += ATTENTION_WARPS) {
            const bool is_there = begin + i < p.others && d + lane < p.dim;
            const size_t at = static_cast<size_t>(begin + i) * channels + d + lane;
            tile[i * ROW + lane] = is_there ? widen(from[at]) : 0.f;
        }
        __syncthreads();
    };

    float highest[QUERIES], sum[QUERIES] = {}, out[QUERIES][DIM / WARP] = {};
    for (int i = 0; i < QUERIES; ++i) highest[i] = -INFINITY;
    for (int begin = 0; begin < p.others; begin += WARP) {
        float scores[QUERIES] = {};
        for (int d = 0; d < p.dim; d += WARP) {
            load_tile(k, begin, d);
#pragma unroll 8
            for (int i = 0; i < WARP; ++i) {
                const float key = tile[lane * ROW + i];
                const float4 query = queries[warp * DIM + d + i];
                scores[0] += query.x * key;
                scores[1] += query.y * key;
                scores[2] += query.z * key;
                scores[3] += query.w * key;
            }
        }
#pragma unroll
        for (int i = 0; i < QUERIES; ++i) {
            // A tile has at least one key, so the highest is finite from the first tile on.
            const float score = begin + lane < p.others ? scores[i] : -INFINITY;
            const float before = highest[i];
            highest[i] = fmaxf(before, warp_max(score));
            const float shrink = exp2f(before - highest[i]);
            scores[i] = exp2f(score - highest[i]);
            // Of this lane's keys; the lanes are added up at the end.
            sum[i] = sum[i] * shrink + scores[i];
#pragma unroll
            for (int j = 0; j < DIM / WARP; ++j) out[i][j] *= shrink;
        }
        weights[warp * WARP + lane] = {scores[0], scores[1], scores[2], scores[3]};
#pragma unroll
        for (int j = 0; j < DIM / WARP; ++j) {
            if (j * WARP < p.dim) {
                // Its first barrier also makes the weights visible to the warp.
                load_tile(v, begin, j * WARP);
#pragma unroll 8
                for (int i = 0; i < WARP; ++i) {
                    const float value = tile[i * ROW + lane];
                    const float4 weight = weights[warp * WARP + i];
                    out[0][j] += weight.x * value;
                    out[1][j] += weight.y * value;
                    out[2][j] += weight.z * value;
                    out[3][j] += weight.w * value;
                }
            }
        }
    }

    T* const to = p.out + static_cast<size_t>(blockIdx.z) * p.tokens * channels + head;
#pragma unroll
    for (int i = 0; i < QUERIES; ++i) {
        const float share = 1.f / warp_sum(sum[i]);
#pragma unroll
        for (int j = 0; j < DIM / WARP; ++j) {
            const int d = j * WARP + lane;
            if (first + i < p.tokens && d < p.dim) {
                narrow(out[i][j] * share, to[static_cast<size_t>(first + i) * channels + d]);
            }
        }
    }
}

KERNELS(attention_64, Attention, ATTENTION_THREADS, attention<64>)
KERNELS(attention_160, Attention, ATTENTION_THREADS, attention<160>)
KERNELS(attention_512, Attention, ATTENTION_THREADS, attention<512>)
