// The last step of pasting: a warped face over its frame.

#include "pixels.cuh"

struct Blend {
    // (height, width, 3).
    const u8* frame;
    // (height, width, 3), −1 is black and 1 white.
    const float* face;
    // (height, width), in 0..=1: multiplies the face; the share of the face.
    const float* face_mask;
    const float* weight;
    u8* out;
    int height, width;
};

// Grid: tiles of the frame.
__device__ __forceinline__ void blend_pixel(const Blend& p) {
    if (tile_x() >= p.width || tile_y() >= p.height) return;
    const size_t pixel = static_cast<size_t>(tile_y()) * p.width + tile_x();
    const float weight = p.weight[pixel], mask = p.face_mask[pixel];
    for (size_t at = 3 * pixel; at < 3 * pixel + 3; ++at) {
        const u8 frame = p.frame[at];
        const float face = mask * (fminf(fmaxf(p.face[at] / 2.f + 0.5f, 0.f), 1.f) * 255.f);
        p.out[at] = weight == 0.f ? frame : truncated(weight * face + (1.f - weight) * widen(frame));
    }
}

KERNEL(blend, Blend, TILE_THREADS, blend_pixel)
