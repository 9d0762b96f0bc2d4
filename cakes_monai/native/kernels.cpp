// Copyright (c) The cakes-monai authors.
// SPDX-License-Identifier: Apache-2.0
//
// Convolutions whose output channels have their own taps, with their gradients, instance norms, and up-sampling, on
// volumes (N, D, H, W, C).
//
// Compiled for one number of input channels (CHANNELS), one stride along W (STRIDE) and one type (BFLOAT16 or not), so
// that all addresses of a tile are one register plus constants. A block is as many output channels as a vector has
// lanes. A tile is the blocks of a group, which have the same taps, times some neighbouring voxels of a row: its sums
// stay in registers while all taps and input channels are gone through. So the time follows the taps.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>
#ifdef BFLOAT16
#include <immintrin.h>
#endif

#ifdef __AVX512F__
constexpr int LANES = 16, ACCUMULATORS = 24;
#else
constexpr int LANES = 8, ACCUMULATORS = 12;
#endif
#define UNROLL _Pragma("GCC unroll 32")
#define CHANNEL_LOOP _Pragma("omp simd")

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#ifndef BFLOAT16
using Value = float;
constexpr long TOGETHER = 1;  // input channels that one instruction multiplies
using Weights = Vector;

static inline Vector add_product(Vector sum, const Value* x, Weights weights) { return sum + *x * weights; }

static inline void store(Value* y, Vector values) { *reinterpret_cast<Vector*>(y) = values; }

static inline Value narrow(float value) { return value; }

static inline float widen(Value value) { return value; }
#else
struct Value {
    uint16_t bits;
};
constexpr long TOGETHER = 2;
using Weights = __m512bh;

static inline Vector add_product(Vector sum, const Value* x, Weights weights) {
    int pair;
    __builtin_memcpy(&pair, x, sizeof pair);
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), weights);
}

static inline void store(Value* y, Vector values) {
    __m256bh narrowed = _mm512_cvtneps_pbh((__m512)values);
    __builtin_memcpy(y, &narrowed, sizeof narrowed);
}

static inline float widen(Value value) {
    uint32_t bits = uint32_t(value.bits) << 16;
    float wide;
    __builtin_memcpy(&wide, &bits, sizeof wide);
    return wide;
}

static inline Value narrow(float value) {  // to the nearest, of two equally near to the even one
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return {value != value ? uint16_t(0x7fc0) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
#endif

static inline Weights load_weights(const Value* weights) {
    Weights loaded;
    __builtin_memcpy(&loaded, weights, sizeof loaded);
    return loaded;
}

struct Tap {  // offset of an input voxel, and the input channels that are multiplied there
    int32_t depth, height, width, begin, end;
};

struct Group {  // blocks with the same taps
    int32_t first_block, blocks, first_tap, taps;
    int64_t weights;  // where its weights begin; for each tap (blocks, end - begin, lanes)
};

struct Shape {
    int64_t batch, depth, height, width, out_depth, out_height, out_width, out_channels;
    int32_t stride_depth, stride_height, threads, groups, groups_first;
};

struct Convolution {
    const Value *x, *weights;
    const Tap* taps;
    const int32_t* channels;  // the output channel of each block's lane, -1 for none
    const float* bias;        // (blocks, lanes)
    Value* y;
    Shape shape;
};

// One tap of a tile; BEFORE and BEHIND are whether its first and last voxel are beyond the border.
template <int BLOCKS, int VOXELS, bool BEFORE, bool BEHIND>
static inline __attribute__((always_inline)) void add_tap(Vector (&sums)[BLOCKS][VOXELS], const Value* x,
                                                          const Value* weights, long channels) {
    for (long channel = 0; channel < channels; channel += TOGETHER) {
        Weights block_weights[BLOCKS];
        UNROLL for (int b = 0; b < BLOCKS; b++) block_weights[b] = load_weights(weights + (b * channels + channel) * LANES);
        UNROLL for (int v = BEFORE; v < VOXELS - BEHIND; v++)
            UNROLL for (int b = 0; b < BLOCKS; b++)
                sums[b][v] = add_product(sums[b][v], x + v * (CHANNELS * STRIDE) + channel, block_weights[b]);
    }
}

template <int BLOCKS, int VOXELS>
static __attribute__((noinline)) void tile(const Convolution& c, const Group& group, long n, long d, long h, long w) {
    const Shape& s = c.shape;
    Vector sums[BLOCKS][VOXELS];
    UNROLL for (int b = 0; b < BLOCKS; b++)
        UNROLL for (int v = 0; v < VOXELS; v++)
            sums[b][v] = *reinterpret_cast<const Vector*>(c.bias + (group.first_block + b) * LANES);
    const Value* weights = c.weights + group.weights;
    for (int t = 0; t < group.taps; t++) {
        const Tap& tap = c.taps[group.first_tap + t];
        const long channels = tap.end - tap.begin;
        const Value* own = weights;
        weights += BLOCKS * channels * LANES;
        long z = d * s.stride_depth + tap.depth, y = h * s.stride_height + tap.height, x = w * STRIDE + tap.width;
        if (z < 0 || z >= s.depth || y < 0 || y >= s.height) continue;
        const Value* voxel = c.x + (((n * s.depth + z) * s.height + y) * s.width + x) * CHANNELS + tap.begin;
        bool before = x < 0, behind = x + (VOXELS - 1) * STRIDE >= s.width;
        if (!before && !behind) add_tap<BLOCKS, VOXELS, false, false>(sums, voxel, own, channels);
        else if (!behind) add_tap<BLOCKS, VOXELS, true, false>(sums, voxel, own, channels);
        else if (!before) add_tap<BLOCKS, VOXELS, false, true>(sums, voxel, own, channels);
        else if (VOXELS > 1) add_tap<BLOCKS, VOXELS, true, true>(sums, voxel, own, channels);
    }
    Value* out = c.y + (((n * s.out_depth + d) * s.out_height + h) * s.out_width + w) * s.out_channels;
    UNROLL for (int b = 0; b < BLOCKS; b++) {
        const int32_t* channels = c.channels + (group.first_block + b) * LANES;
        bool neighbours = channels[0] >= 0;
        for (int lane = 1; lane < LANES; lane++) neighbours &= channels[lane] == channels[0] + lane;
        UNROLL for (int v = 0; v < VOXELS; v++) {
            Value* y = out + v * s.out_channels;
            if (neighbours) store(y + channels[0], sums[b][v]);
            else for (int lane = 0; lane < LANES; lane++)
                if (channels[lane] >= 0) y[channels[lane]] = narrow(sums[b][v][lane]);
        }
    }
}

// Tiles of VOXELS voxels along a row while there is room.
template <int BLOCKS, int VOXELS>
static inline void tiles(const Convolution& c, const Group& group, long n, long d, long h, long& w) {
    if constexpr (BLOCKS * VOXELS <= ACCUMULATORS)
        for (; w + VOXELS <= c.shape.out_width; w += VOXELS) tile<BLOCKS, VOXELS>(c, group, n, d, h, w);
}

template <int BLOCKS>
static void row(const Convolution& c, const Group& group, long n, long d, long h) {
    long w = 0;
    tiles<BLOCKS, 24>(c, group, n, d, h, w);
    tiles<BLOCKS, 12>(c, group, n, d, h, w);
    tiles<BLOCKS, 6>(c, group, n, d, h, w);
    tiles<BLOCKS, 3>(c, group, n, d, h, w);
    tiles<BLOCKS, 2>(c, group, n, d, h, w);
    tiles<BLOCKS, 1>(c, group, n, d, h, w);
}

extern "C" int lanes() { return LANES; }

extern "C" void convolve(const Convolution* convolution, const Group* groups) {
    const Convolution& c = *convolution;
    const Shape& s = c.shape;
    const long rows = s.batch * s.out_depth * s.out_height;
    auto run = [&](long index, const Group& group) {
        long n = index / (s.out_depth * s.out_height), d = index / s.out_height % s.out_depth, h = index % s.out_height;
        if (group.blocks == 1) row<1>(c, group, n, d, h);
        else if (group.blocks == 2) row<2>(c, group, n, d, h);
        else row<4>(c, group, n, d, h);
    };
#pragma omp parallel for num_threads(s.threads) schedule(static)
    for (long part = 0; part < s.threads; part++) {
        long begin = rows * part / s.threads, end = rows * (part + 1) / s.threads;
        if (s.groups_first)
            for (int g = 0; g < s.groups; g++)
                for (long index = begin; index < end; index++) run(index, groups[g]);
        else
            for (long index = begin; index < end; index++)
                for (int g = 0; g < s.groups; g++) run(index, groups[g]);
    }
}

// Mean and sum of squared deviations of every channel over some voxels; combined as Chan, Golub and LeVeque (1983).
struct Moments {
    double count = 0, mean[CHANNELS] = {}, squares[CHANNELS] = {};

    void add(const Moments& other) {
        if (other.count == 0) return;
        const double total = count + other.count;
        CHANNEL_LOOP for (int c = 0; c < CHANNELS; c++) {
            const double difference = other.mean[c] - mean[c];
            mean[c] += difference * other.count / total;
            squares[c] += other.squares[c] + difference * difference * count * other.count / total;
        }
        count = total;
    }

    void add(const Value* x, long voxels) {
        float sum[CHANNELS] = {}, square[CHANNELS] = {}, first[CHANNELS];
        CHANNEL_LOOP for (int c = 0; c < CHANNELS; c++) first[c] = widen(x[c]);
        for (long v = 0; v < voxels; v++)
            CHANNEL_LOOP for (int c = 0; c < CHANNELS; c++) {
                const float difference = widen(x[v * CHANNELS + c]) - first[c];
                sum[c] += difference;
                square[c] += difference * difference;
            }
        Moments part;
        part.count = voxels;
        CHANNEL_LOOP for (int c = 0; c < CHANNELS; c++) {
            part.mean[c] = first[c] + double(sum[c]) / voxels;
            part.squares[c] = std::max(0.0, square[c] - double(sum[c]) * sum[c] / voxels);
        }
        add(part);
    }
};

template <bool SUM>
static inline void activate(const Value* x, const float* scale, const float* shift, float slope, const Value* added, Value* y) {
    CHANNEL_LOOP for (int c = 0; c < CHANNELS; c++) {
        const float value = widen(x[c]) * scale[c] + shift[c];
        const float active = value > 0 ? value : slope * value;
        y[c] = narrow(SUM ? active + widen(added[c]) : active);
    }
}

// y = act(norm(x)) + added, act a leaky ReLU of that slope (1: none); y may be x; added may be null.
extern "C" void instance_norm(const Value* x, const float* weight, const float* bias, const Value* added, Value* y,
                              long batch, long voxels, float epsilon, float slope, int threads) {
    constexpr long TOGETHER_IN_CACHE = std::max(1L, 4096L / CHANNELS);
    for (long n = 0; n < batch; n++) {
        const long offset = n * voxels * CHANNELS;
        std::vector<Moments> parts(threads);
#pragma omp parallel for num_threads(threads) schedule(static)
        for (long part = 0; part < threads; part++) {
            const long end = voxels * (part + 1) / threads;
            for (long v = voxels * part / threads; v < end; v += TOGETHER_IN_CACHE)
                parts[part].add(x + offset + v * CHANNELS, std::min(TOGETHER_IN_CACHE, end - v));
        }
        for (int part = 1; part < threads; part++) parts[0].add(parts[part]);
        float scale[CHANNELS], shift[CHANNELS];
        CHANNEL_LOOP for (int c = 0; c < CHANNELS; c++) {
            scale[c] = float(weight[c] / std::sqrt(parts[0].squares[c] / voxels + epsilon));
            shift[c] = float(bias[c] - parts[0].mean[c] * scale[c]);
        }
#pragma omp parallel for num_threads(threads) schedule(static)
        for (long v = 0; v < voxels; v++) {
            const long at = offset + v * CHANNELS;
            if (added) activate<true>(x + at, scale, shift, slope, added + at, y + at);
            else activate<false>(x + at, scale, shift, slope, nullptr, y + at);
        }
    }
}

// Trilinear up-sampling by 2, borders repeated (torch: align_corners=False): along each axis an output voxel is 3/4 of
// the nearest input voxel and 1/4 of the next but one.
extern "C" void upsample(const Value* x, Value* y, long batch, long depth, long height, long width, int threads) {
    auto neighbour = [](long out, long size) { return std::clamp(out / 2 + (out % 2 ? 1 : -1), 0L, size - 1); };
    const long rows = batch * 2 * depth * 2 * height;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long part = 0; part < threads; part++) {
        std::vector<float> row(width * CHANNELS);  // of the input, up-sampled along depth and height
        for (long index = rows * part / threads; index < rows * (part + 1) / threads; index++) {
            const long n = index / (4 * depth * height), d = index / (2 * height) % (2 * depth), h = index % (2 * height);
            auto source = [&](long z, long v) { return x + ((n * depth + z) * height + v) * width * CHANNELS; };
            const long far_d = neighbour(d, depth), far_h = neighbour(h, height);
            const Value *near = source(d / 2, h / 2), *beside = source(d / 2, far_h);
            const Value *above = source(far_d, h / 2), *diagonal = source(far_d, far_h);
            CHANNEL_LOOP for (long i = 0; i < width * CHANNELS; i++)
                row[i] = 0.75f * (0.75f * widen(near[i]) + 0.25f * widen(beside[i])) +
                         0.25f * (0.75f * widen(above[i]) + 0.25f * widen(diagonal[i]));
            Value* out = y + index * 2 * width * CHANNELS;
            for (long w = 0; w < 2 * width; w++) {
                const float *nearest = row.data() + w / 2 * CHANNELS, *next = row.data() + neighbour(w, width) * CHANNELS;
                CHANNEL_LOOP for (int c = 0; c < CHANNELS; c++) out[w * CHANNELS + c] = narrow(0.75f * nearest[c] + 0.25f * next[c]);
            }
        }
    }
}

struct Product {  // rows of a weight gradient: output channels and the tap at which they are multiplied
    int32_t depth, height, width, begin, end;
    int64_t row;  // where they are in the gradient, (rows, CHANNELS)
};

// Sums over a chunk of rows: gradient[o][c] += y_gradient[voxel][o] * x[voxel + tap][c].
template <int ROWS, int VECTORS>
static inline void add_products(const float* x, const float* y, long x_row, long y_row, long rows, long voxels,
                                long x_voxel, long y_voxel, float* gradient) {
    Vector sums[ROWS][VECTORS];
    UNROLL for (int o = 0; o < ROWS; o++)
        UNROLL for (int i = 0; i < VECTORS; i++) sums[o][i] = *(const Vector*)(gradient + o * x_voxel + i * LANES);
    for (long row = 0; row < rows; row++)
        for (long v = 0; v < voxels; v++) {
            const float *from = x + row * x_row + v * x_voxel, *to = y + row * y_row + v * y_voxel;
            Vector values[VECTORS];
            UNROLL for (int i = 0; i < VECTORS; i++) values[i] = *(const Vector*)(from + i * LANES);
            UNROLL for (int o = 0; o < ROWS; o++)
                UNROLL for (int i = 0; i < VECTORS; i++) sums[o][i] += to[o] * values[i];
        }
    UNROLL for (int o = 0; o < ROWS; o++)
        UNROLL for (int i = 0; i < VECTORS; i++) *(Vector*)(gradient + o * x_voxel + i * LANES) = sums[o][i];
}

// gradient (rows, CHANNELS) of the weights of a convolution with stride 1.
extern "C" void weight_gradient(const Value* x, const Value* y_gradient, float* gradient, const Product* products,
                                int count, long total_rows, long batch, long depth, long height, long width,
                                long out_channels, int threads) {
    constexpr long PADDED = (CHANNELS + LANES - 1) / LANES * LANES, CACHE = 96 * 1024;  // floats
    const long high = std::clamp(CACHE / (3 * width * PADDED) - 2, 1L, height), chunks = (height + high - 1) / high;
    const long x_row = width * PADDED, x_plane = (high + 2) * x_row, y_row = width * out_channels;
    std::vector<std::vector<float>> sums(threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long part = 0; part < threads; part++) {
        std::vector<float>& own = sums[part];
        own.assign(total_rows * PADDED, 0.0f);
        std::vector<float> wide_x(3 * x_plane, 0.0f), wide_y(high * y_row);
        const long all = batch * depth * chunks;
        for (long chunk = all * part / threads; chunk < all * (part + 1) / threads; chunk++) {
            const long n = chunk / (depth * chunks), d = chunk / chunks % depth, h = chunk % chunks * high;
            const long rows = std::min(high, height - h);
            for (long z = std::max(0L, d - 1); z < std::min(depth, d + 2); z++)  // voxels of other channels: padding
                for (long r = std::max(0L, h - 1); r < std::min(height, h + rows + 1); r++) {
                    const Value* from = x + ((n * depth + z) * height + r) * width * CHANNELS;
                    float* to = wide_x.data() + (z - d + 1) * x_plane + (r - h + 1) * x_row;
                    for (long v = 0; v < width; v++)
                        CHANNEL_LOOP for (int c = 0; c < CHANNELS; c++) to[v * PADDED + c] = widen(from[v * CHANNELS + c]);
                }
            const Value* from = y_gradient + ((n * depth + d) * height + h) * y_row;
            CHANNEL_LOOP for (long i = 0; i < rows * y_row; i++) wide_y[i] = widen(from[i]);
            for (int p = 0; p < count; p++) {
                const Product& product = products[p];
                if (d + product.depth < 0 || d + product.depth >= depth) continue;
                const long first = std::max(0L, -(h + product.height));
                const long last = std::min(rows, height - h - product.height);
                const long left = std::max(0, -product.width), voxels = width - left - std::max(0, product.width);
                if (last <= first || voxels <= 0) continue;
                const float* xs = wide_x.data() + (product.depth + 1) * x_plane + (first + product.height + 1) * x_row +
                                  (left + product.width) * PADDED;
                const float* ys = wide_y.data() + first * y_row + left * out_channels + product.begin;
                float* into = own.data() + product.row * PADDED;
                auto run = [&](auto size, long& o) {
                    constexpr int ROWS = decltype(size)::value;
                    for (; o + ROWS <= product.end - product.begin; o += ROWS) {
                        long c = 0;
                        for (; c + 2 * LANES <= PADDED; c += 2 * LANES)
                            add_products<ROWS, 2>(xs + c, ys + o, x_row, y_row, last - first, voxels, PADDED,
                                                  out_channels, into + o * PADDED + c);
                        for (; c < PADDED; c += LANES)
                            add_products<ROWS, 1>(xs + c, ys + o, x_row, y_row, last - first, voxels, PADDED,
                                                  out_channels, into + o * PADDED + c);
                    }
                };
                long o = 0;
                run(std::integral_constant<int, ACCUMULATORS / 2>(), o);
                run(std::integral_constant<int, 4>(), o);
                run(std::integral_constant<int, 1>(), o);
            }
        }
    }
    for (long row = 0; row < total_rows; row++)
        for (int c = 0; c < CHANNELS; c++) {
            float sum = 0;
            for (int part = 0; part < threads; part++) sum += sums[part][row * PADDED + c];
            gradient[row * CHANNELS + c] = sum;
        }
}
