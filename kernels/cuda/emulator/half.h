// CUDA's 16-bit floating-point types as bit patterns, with conversions that round to nearest, ties to even.
#pragma once

#include <cstdint>
#include <cstring>

struct __half {
    std::uint16_t bits;
};

struct __nv_bfloat16 {
    std::uint16_t bits;
};

namespace emulator {

inline std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits;
}

inline float from_bits(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
}

}  // namespace emulator

inline float __bfloat162float(__nv_bfloat16 x) { return emulator::from_bits(std::uint32_t{x.bits} << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    const std::uint32_t bits = emulator::bits_of(x);
    if (x != x) return {static_cast<std::uint16_t>(bits >> 16 | 0x40)};
    return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float __half2float(__half x) {
    const std::uint32_t sign = std::uint32_t{x.bits & 0x8000u} << 16;
    const std::uint32_t exponent = x.bits >> 10 & 0x1f, fraction = x.bits & 0x3ff;
    if (exponent == 0) {
        // Subnormal: multiples of 2⁻²⁴.
        const float size = static_cast<float>(fraction) * 5.9604644775390625e-8f;
        return emulator::from_bits(emulator::bits_of(size) | sign);
    }
    const std::uint32_t wide = exponent == 31 ? 255 : exponent + 112;
    return emulator::from_bits(sign | wide << 23 | fraction << 13);
}

inline __half __float2half_rn(float x) {
    const std::uint32_t bits = emulator::bits_of(x);
    const std::uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    std::uint32_t narrow;
    if (size > 0x7f800000) {
        narrow = 0x7e00;
    } else if (size >= 0x477ff000) {
        // Rounds to infinity: at least 65520, half a step above the largest finite f16.
        narrow = 0x7c00;
    } else if (size < 0x38800000) {
        // Subnormal: the addition of 0.5 rounds to a multiple of 2⁻²⁴ and leaves its count in the low bits.
        narrow = emulator::bits_of(emulator::from_bits(size) + 0.5f) - 0x3f000000;
    } else {
        const std::uint32_t rounded = size + 0xfff + (size >> 13 & 1);
        narrow = (rounded >> 13) - (112 << 10);
    }
    return {static_cast<std::uint16_t>(sign | narrow)};
}
