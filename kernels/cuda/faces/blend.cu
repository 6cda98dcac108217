// Blending of a warped face over its frame.

#include "pixels.cuh"

struct Blend {
    // (height, width, 3).
    const u8* frame;
    // (height, width, 3); −1 is black and 1 white.
    const float* face;
    // (height, width), in 0..=1: coverage of the face, by which it is multiplied.
    const float* face_mask;
    // (height, width), in 0..=1: blend weight of the masked face.
    const float* weight;
    u8* out;
    int height, width;
};

// Grid: the tiles of the frame.
__device__ __forceinline__ void blend_pixel(const Blend& p) {
    if (tile_x() >= p.width || tile_y() >= p.height) return;
    const size_t pixel = static_cast<size_t>(tile_y()) * p.width + tile_x();
    const float weight = p.weight[pixel], mask = p.face_mask[pixel];
    for (size_t at = 3 * pixel; at < 3 * pixel + 3; ++at) {
        const u8 frame = p.frame[at];
        const float face = mask * (fminf(fmaxf(p.face[at] / 2.0f + 0.5f, 0.0f), 1.0f) * 255.0f);
        p.out[at] = weight == 0.0f ? frame : truncated(weight * face + (1.0f - weight) * widen(frame));
    }
}

KERNEL(blend, Blend, TILE_THREADS, blend_pixel)
