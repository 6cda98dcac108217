// What both kernels of attention are given.

#pragma once

#include "common.cuh"

template <typename T>
struct Attention {
    // (batch, tokens, heads × dim).
    const T* q;
    // (batch, others, heads × dim).
    const T* k;
    const T* v;
    T* out;
    int tokens, others, heads, dim;
    // log2(e) / √dim.
    float scale;
};
