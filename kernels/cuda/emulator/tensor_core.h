// Emulation of the tensor-core instructions of ../tensor_core.cuh, after their PTX definition: the lanes of a
// warp exchange their registers through slots.
#pragma once

#include "emulator.h"

namespace emulator {

// A lane's fragments of both operands.
struct Fragments {
    unsigned a[4], b[2];
};

// Element `which`, 0 or 1, of a register that holds two.
template <typename T>
float element(unsigned pair, unsigned which) {
    return widen(T{static_cast<std::uint16_t>(pair >> 16 * which)});
}

template <typename T>
void mma(float (&acc)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    auto& mine = slot<Fragments>(lane());
    std::memcpy(mine.a, a, sizeof(a));
    std::memcpy(mine.b, b, sizeof(b));
    wait_for_warp();
    const unsigned g = lane() / 4, t = lane() % 4;
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = g + i / 2 * 8, column = 2 * t + i % 2;
        for (unsigned k = 0; k < 16; ++k) {
            const unsigned owner = k % 8 / 2;
            const unsigned from_a = slot<Fragments>(row % 8 * 4 + owner).a[k / 8 * 2 + row / 8];
            const unsigned from_b = slot<Fragments>(column * 4 + owner).b[k / 8];
            acc[i] += element<T>(from_a, k % 2) * element<T>(from_b, k % 2);
        }
    }
    wait_for_warp();
}

template <typename T>
void ldmatrix_x4(unsigned (&to)[4], const T* row, bool is_transposed) {
    slot<const T*>(lane()) = row;
    wait_for_warp();
    const unsigned g = lane() / 4, t = lane() % 4;
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
        const auto at = [&](unsigned row, unsigned column) {
            return std::uint32_t{slot<const T*>(matrix * 8 + row)[column].bits};
        };
        to[matrix] = is_transposed ? at(2 * t, g) | at(2 * t + 1, g) << 16 : at(g, 2 * t) | at(g, 2 * t + 1) << 16;
    }
    wait_for_warp();
}

}  // namespace emulator

inline void mma(float (&acc)[4], const unsigned (&a)[4], const unsigned (&b)[2], __half) {
    emulator::mma<__half>(acc, a, b);
}

inline void mma(float (&acc)[4], const unsigned (&a)[4], const unsigned (&b)[2], __nv_bfloat16) {
    emulator::mma<__nv_bfloat16>(acc, a, b);
}

template <typename T>
void ldmatrix_x4(unsigned (&to)[4], const T* row) {
    emulator::ldmatrix_x4(to, row, false);
}

template <typename T>
void ldmatrix_x4_trans(unsigned (&to)[4], const T* row) {
    emulator::ldmatrix_x4(to, row, true);
}

inline void cp_async_16(void* to, const void* from, bool in_bounds) {
    emulator::begin_copy(to, in_bounds ? from : nullptr);
}

inline void cp_async_commit() { emulator::end_copy_group(); }

template <int N>
void cp_async_wait() {
    emulator::finish_copies(N);
}
