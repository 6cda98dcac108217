// Attention over the frames of each position by itself, on (batch, frames, positions, channels) as it lies:
// nothing is transposed.

#include "common.cuh"

constexpr int TEMPORAL_THREADS = 256;

template <typename T>
struct TemporalAttention {
    // (batch, frames, positions, heads × dim).
    const T* q;
    const T* k;
    const T* v;
    T* out;
    int frames, positions, heads, dim, heads_per_block;
    // log2(e) / √dim.
    float scale;
};

// Up to FRAMES frames. Grid: (positions, heads / heads_per_block, batch). Block: x: FRAMES queries, y: heads.
// Shared: the keys and values of these heads, 2 × frames × heads_per_block × dim elements.
//
// A thread has one query of one head, and all its scores in registers: softmax needs no exchange. Keys and
// values are read from shared memory 16 bytes at a time, at one address per head, so a read serves all of
// its queries. Several heads lie side by side, so loads from memory are of whole lines.
template <int N, int FRAMES, typename T>
__device__ __forceinline__ void temporal_attention_of(const TemporalAttention<T>& p) {
    DYNAMIC_SHARED(memory);
    const int channels = p.heads * p.dim, width = p.heads_per_block * p.dim;
    const size_t stride = static_cast<size_t>(p.positions) * channels;
    const size_t first = blockIdx.z * p.frames * stride + static_cast<size_t>(blockIdx.x) * channels +
                         static_cast<size_t>(blockIdx.y) * width;
    T* const keys = reinterpret_cast<T*>(memory);
    T* const values = keys + p.frames * width;

    const int thread = threadIdx.y * FRAMES + threadIdx.x, threads = FRAMES * p.heads_per_block;
    for (int at = thread * N; at < p.frames * width; at += threads * N) {
        const size_t from = first + at / width * stride + at % width;
        *reinterpret_cast<Pack<T, N>*>(keys + at) = *reinterpret_cast<const Pack<T, N>*>(p.k + from);
        *reinterpret_cast<Pack<T, N>*>(values + at) = *reinterpret_cast<const Pack<T, N>*>(p.v + from);
    }
    __syncthreads();

    const int frame = threadIdx.x;
    // No barrier follows.
    if (frame >= p.frames) return;
    const int head = threadIdx.y * p.dim;
    const size_t row = first + frame * stride + head;

    float scores[FRAMES] = {};
    for (int d = 0; d < p.dim; d += N) {
        float query[N];
        load<N>(p.q + row + d, query);
#pragma unroll
        for (int i = 0; i < N; ++i) query[i] *= p.scale;
#pragma unroll
        for (int other = 0; other < FRAMES; ++other) {
            if (other < p.frames) {
                float key[N];
                load<N>(keys + other * width + head + d, key);
#pragma unroll
                for (int i = 0; i < N; ++i) scores[other] += query[i] * key[i];
            }
        }
    }

    float highest = scores[0], sum = 0;
#pragma unroll
    for (int other = 1; other < FRAMES; ++other) {
        if (other < p.frames) highest = fmaxf(highest, scores[other]);
    }
#pragma unroll
    for (int other = 0; other < FRAMES; ++other) {
        scores[other] = other < p.frames ? exp2f(scores[other] - highest) : 0.f;
        sum += scores[other];
    }
    const float share = 1.f / sum;

    for (int d = 0; d < p.dim; d += N) {
        float out[N] = {};
#pragma unroll
        for (int other = 0; other < FRAMES; ++other) {
            if (other < p.frames) {
                float value[N];
                load<N>(values + other * width + head + d, value);
#pragma unroll
                for (int i = 0; i < N; ++i) out[i] += scores[other] * value[i];
            }
        }
#pragma unroll
        for (int i = 0; i < N; ++i) out[i] *= share;
        store<N>(out, p.out + row + d);
    }
}

template <int FRAMES, typename T>
__device__ __forceinline__ void temporal_attention(const TemporalAttention<T>& p) {
    if (is_wide<T>(p.dim, p.q, p.k, p.v, p.out)) {
        temporal_attention_of<PACK<T>, FRAMES>(p);
    } else {
        temporal_attention_of<1, FRAMES>(p);
    }
}

// 16 frames are a chunk, 24 one with the frames that overlap.
KERNELS(temporal_attention_16, TemporalAttention, TEMPORAL_THREADS, temporal_attention<16>)
KERNELS(temporal_attention_24, TemporalAttention, TEMPORAL_THREADS, temporal_attention<24>)
KERNELS(temporal_attention_32, TemporalAttention, TEMPORAL_THREADS, temporal_attention<32>)
