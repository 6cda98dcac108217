// Epilogue of a matrix product in one pass: bias, residual (or time embedding), activation.

#include "common.cuh"

constexpr int EPILOGUE_THREADS = 256;


template <typename T>
struct Epilogue {
    // (rows, columns).
    const T* x;
    // Null, or (columns).
    const T* bias;
    // Null, or (rows / rows_per_residual, columns): each row is added to rows_per_residual consecutive rows
    // of x.
    const T* residual;
    T* out;
    int rows, columns, rows_per_residual, activation;
};

// N elements per load. Grid: x over the rows. Block: x over the vectors of a row, y over the rows. A thread
// keeps its columns from row to row, so it reads their bias once; only a shared residual needs a division.
template <int N, typename T>
__device__ __forceinline__ void epilogue_vectors(const Epilogue<T>& p) {
    for (int column = threadIdx.x * N; column < p.columns; column += blockDim.x * N) {
        float bias[N] = {};
        if (p.bias != nullptr) load<N>(p.bias + column, bias);
        for (int row = blockIdx.x * blockDim.y + threadIdx.y; row < p.rows; row += gridDim.x * blockDim.y) {
            const size_t at = static_cast<size_t>(row) * p.columns + column;
            float x[N], residual[N];
            load<N>(p.x + at, x);
            for (int i = 0; i < N; ++i) x[i] += bias[i];
            if (p.residual != nullptr) {
                const int residual_row = p.rows_per_residual == 1 ? row : row / p.rows_per_residual;
                load<N>(p.residual + static_cast<size_t>(residual_row) * p.columns + column, residual);
                for (int i = 0; i < N; ++i) x[i] += residual[i];
            }
            for (int i = 0; i < N; ++i) {
                if (p.activation == ACTIVATION_SILU) x[i] = silu(x[i]);
                if (p.activation == ACTIVATION_GELU) x[i] = gelu(x[i]);
            }
            store<N>(x, p.out + at);
        }
    }
}

template <typename T>
__device__ __forceinline__ void epilogue(const Epilogue<T>& p) {
    if (is_vectorizable<T>(p.columns, p.x, p.bias, p.residual, p.out)) {
        epilogue_vectors<PACK<T>>(p);
    } else {
        epilogue_vectors<1>(p);
    }
}

KERNELS(epilogue, Epilogue, EPILOGUE_THREADS, epilogue)

template <typename T>
struct Geglu {
    // (rows, 2 × columns): the values, then the gates.
    const T* x;
    // Null, or (2 × columns).
    const T* bias;
    // (rows, columns).
    T* out;
    int rows, columns;
};

// Grid and block as for epilogue_vectors.
template <int N, typename T>
__device__ __forceinline__ void geglu_vectors(const Geglu<T>& p) {
    for (int column = threadIdx.x * N; column < p.columns; column += blockDim.x * N) {
        float value_bias[N] = {}, gate_bias[N] = {};
        if (p.bias != nullptr) {
            load<N>(p.bias + column, value_bias);
            load<N>(p.bias + p.columns + column, gate_bias);
        }
        for (int row = blockIdx.x * blockDim.y + threadIdx.y; row < p.rows; row += gridDim.x * blockDim.y) {
            const T* const from = p.x + static_cast<size_t>(row) * 2 * p.columns + column;
            float value[N], gate[N];
            load<N>(from, value);
            load<N>(from + p.columns, gate);
            for (int i = 0; i < N; ++i) value[i] = (value[i] + value_bias[i]) * gelu(gate[i] + gate_bias[i]);
            store<N>(value, p.out + static_cast<size_t>(row) * p.columns + column);
        }
    }
}

template <typename T>
__device__ __forceinline__ void geglu(const Geglu<T>& p) {
    if (is_vectorizable<T>(p.columns, p.x, p.bias, p.out)) {
        geglu_vectors<PACK<T>>(p);
    } else {
        geglu_vectors<1>(p);
    }
}

KERNELS(geglu, Geglu, EPILOGUE_THREADS, geglu)
