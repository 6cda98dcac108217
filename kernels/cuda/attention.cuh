// Parameters of both attention kernels.

#pragma once

#include "common.cuh"

template <typename T>
struct Attention {
    // (batch, q_len, heads × head_dim).
    const T* q;
    // (batch, kv_len, heads × head_dim).
    const T* k;
    const T* v;
    // The shape of q.
    T* out;
    int q_len, kv_len, heads, head_dim;
    // log2(e) / √head_dim: the softmax uses exp2.
    float scale_log2;
};
