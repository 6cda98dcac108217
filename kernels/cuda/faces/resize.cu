// Resizing of face crops: Lanczos on u8 in fixed point, antialiased bicubic on float. The taps (source
// indices and weights) of every output row and column are computed on the CPU.

#include "pixels.cuh"

struct Lanczos {
    // (height, width, channels).
    const u8* image;
    // (new_height, 16) and (new_width, 16): eight indices, then their eight weights in units of 2⁻¹¹.
    const int* rows;
    const int* columns;
    u8* out;
    int width, channels, new_height, new_width;
};

// Grid: the tiles of the new image. All 64 samples of a pixel in one pass: the crops are small, and two
// passes would write and read an intermediate image of four bytes per value. Integer sums are exact in any
// order; ../../src/resize.rs proves that they do not overflow.
__device__ __forceinline__ void lanczos_pixel(const Lanczos& p) {
    if (tile_x() >= p.new_width || tile_y() >= p.new_height) return;
    const int* const row = p.rows + 16 * tile_y();
    const int* const column = p.columns + 16 * tile_x();
    u8* const to = p.out + (static_cast<size_t>(tile_y()) * p.new_width + tile_x()) * p.channels;
    for (int channel = 0; channel < p.channels; ++channel) {
        int sum = 1 << 21;
        for (int i = 0; i < 8; ++i) {
            const u8* const line = p.image + static_cast<size_t>(row[i]) * p.width * p.channels + channel;
            int across = 0;
            for (int j = 0; j < 8; ++j) across += column[8 + j] * line[static_cast<size_t>(column[j]) * p.channels];
            sum += row[8 + i] * across;
        }
        to[channel] = static_cast<u8>(min(max(sum >> 22, 0), 255));
    }
}

KERNEL(resize_lanczos4, Lanczos, TILE_THREADS, lanczos_pixel)

struct Bicubic {
    // (height, width, channels).
    const float* image;
    // (new_height, 2): first source row and number of taps.
    const int* rows;
    // (new_height, row_taps), padded with zeros.
    const float* row_weights;
    // (new_width, 2) and (new_width, column_taps): the same for the columns.
    const int* columns;
    const float* column_weights;
    float* out;
    int width, channels, new_height, new_width, row_taps, column_taps;
};

// Grid: the tiles of the new image. The sums have the order of two passes, first along the columns, as on the
// CPU.
__device__ __forceinline__ void bicubic_pixel(const Bicubic& p) {
    if (tile_x() >= p.new_width || tile_y() >= p.new_height) return;
    const int* const row = p.rows + 2 * tile_y();
    const int* const column = p.columns + 2 * tile_x();
    const float* const row_weights = p.row_weights + static_cast<size_t>(tile_y()) * p.row_taps;
    const float* const column_weights = p.column_weights + static_cast<size_t>(tile_x()) * p.column_taps;
    float* const to = p.out + (static_cast<size_t>(tile_y()) * p.new_width + tile_x()) * p.channels;
    for (int channel = 0; channel < p.channels; ++channel) {
        float sum = 0;
        for (int i = 0; i < row[1]; ++i) {
            const size_t line = static_cast<size_t>(row[0] + i) * p.width + column[0];
            float across = 0;
            for (int j = 0; j < column[1]; ++j) {
                across += column_weights[j] * p.image[(line + j) * p.channels + channel];
            }
            sum += row_weights[i] * across;
        }
        to[channel] = sum;
    }
}

KERNEL(resize_bicubic, Bicubic, TILE_THREADS, bicubic_pixel)
