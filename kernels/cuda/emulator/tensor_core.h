// The tensor core's instructions as their definition has them: lanes show each other their registers.
#pragma once

#include "emulator.h"

namespace emulator {

struct Operands {
    unsigned a[4], b[2];
};

template <typename T>
float half_of(unsigned pair, unsigned which) {
    return widen(T{static_cast<std::uint16_t>(pair >> 16 * which)});
}

template <typename T>
void multiply(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    auto& mine = slot<Operands>(lane());
    std::memcpy(mine.a, a, sizeof(a));
    std::memcpy(mine.b, b, sizeof(b));
    wait_for_warp();
    const unsigned g = lane() / 4, t = lane() % 4;
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = g + i / 2 * 8, column = 2 * t + i % 2;
        for (unsigned k = 0; k < 16; ++k) {
            const unsigned of_k = k % 8 / 2;
            const unsigned from_a = slot<Operands>(row % 8 * 4 + of_k).a[k / 8 * 2 + row / 8];
            const unsigned from_b = slot<Operands>(column * 4 + of_k).b[k / 8];
            sums[i] += half_of<T>(from_a, k % 2) * half_of<T>(from_b, k % 2);
        }
    }
    wait_for_warp();
}

template <typename T>
void load_matrices(unsigned (&to)[4], const T* row, bool is_transposed) {
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

inline void multiply(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2], __half) {
    emulator::multiply<__half>(sums, a, b);
}

inline void multiply(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2], __nv_bfloat16) {
    emulator::multiply<__nv_bfloat16>(sums, a, b);
}

template <typename T>
void load_matrices(unsigned (&to)[4], const T* row) {
    emulator::load_matrices(to, row, false);
}

template <typename T>
void load_matrices_transposed(unsigned (&to)[4], const T* row) {
    emulator::load_matrices(to, row, true);
}

inline void copy_16_bytes(void* to, const void* from, bool is_there) {
    emulator::begin_copy(to, is_there ? from : nullptr);
}

inline void end_group() { emulator::end_copy_group(); }

template <int N>
void wait_for_groups() {
    emulator::finish_copies(N);
}
