// One step of a whole network of STC modules in one kernel. The grid alternates between segments, in which every
// block takes tiles of tokens through all that happens between two attentions, and attention, in which a thread
// takes one head of a token; a barrier of the grid lies between them.
#pragma once

#include "stc_mix.h"
#include "stc_product.h"

namespace refiner {

// The shared memory of a block.
struct Tile {
    TileLayout layout;
    float* x;          // the tokens, float32
    uint16_t* normal;  // normalised, or mixed by attention
    uint16_t* hidden;
};

REFINER_DEVICE Tile tile_in(unsigned char* memory, const TileLayout& layout) {
    return {layout, reinterpret_cast<float*>(memory), reinterpret_cast<uint16_t*>(memory + layout.normal),
            reinterpret_cast<uint16_t*>(memory + layout.hidden)};
}

// Layer norm without scale and shift, which are folded into the next product. A warp takes a row.
template <int kRows>
REFINER_DEVICE void normalise_tile(const Tile& tile, int dim) {
    const int lane = simt::thread() % 32;
    for (int row = simt::thread() / 32; row < kRows; row += simt::threads() / 32) {
        const float* x = tile.x + row * tile.layout.x_stride;
        float sum = 0.0f, square = 0.0f;
        for (int c = lane; c < dim; c += 32) sum += x[c];
        const float mean = simt::warp_sum(sum) / static_cast<float>(dim);
        for (int c = lane; c < dim; c += 32) square += (x[c] - mean) * (x[c] - mean);
        const float scale = 1.0f / sqrtf(simt::warp_sum(square) / static_cast<float>(dim) + 1e-5f);
        uint16_t* target = tile.normal + row * tile.layout.normal_stride;
        for (int c = 2 * lane; c < dim; c += 64) {
            *reinterpret_cast<uint32_t*>(target + c) =
                simt::to_halves((x[c] - mean) * scale, (x[c + 1] - mean) * scale);
        }
    }
}

// The first tokens: the embedding in float32. Rows that do not exist become 0.
template <int kRows>
REFINER_DEVICE void embed_tile(const DeviceNetwork& net, const DeviceCall& call, int64_t first, int rows,
                               const Tile& tile) {
    const float* offset = net.joint_embedding + int64_t{call.step} * net.joints * net.dim;
    for (int at = simt::thread(); at < kRows * net.dim; at += simt::threads()) {
        const int row = at / net.dim, c = at % net.dim;
        float value = 0.0f;
        if (row < rows) {
            const float* input = call.input + (first + row) * net.features;
            for (int f = 0; f < net.features; ++f) {
                value += input[f] * simt::read_constant(net.embedding + f * net.dim + c);
            }
            if (net.gelu) value = device_gelu(value);
            value += simt::read_constant(offset + (first + row) % net.joints * net.dim + c);
        }
        tile.x[row * tile.layout.x_stride + c] = value;
    }
}

// The tokens and what attention made of them. Rows that do not exist become 0.
template <int kRows>
REFINER_DEVICE void load_tile(const DeviceNetwork& net, const DeviceCall& call, int64_t first, int rows,
                              const Tile& tile) {
    const int quads = net.dim / 4, eights = net.dim / 8;
    for (int at = simt::thread(); at < kRows * quads; at += simt::threads()) {
        const int row = at / quads, c = at % quads * 4;
        const Quad nothing{};
        *reinterpret_cast<Quad*>(tile.x + row * tile.layout.x_stride + c) =
            row < rows ? *reinterpret_cast<const Quad*>(call.x + (first + row) * net.dim + c) : nothing;
    }
    for (int at = simt::thread(); at < kRows * eights; at += simt::threads()) {
        const int row = at / eights, c = at % eights * 8;
        const Quad nothing{};
        *reinterpret_cast<Quad*>(tile.normal + row * tile.layout.normal_stride + c) =
            row < rows ? *reinterpret_cast<const Quad*>(call.mixed + (first + row) * net.dim + c) : nothing;
    }
}

REFINER_DEVICE void store_tile(const DeviceNetwork& net, const DeviceCall& call, int64_t first, int rows,
                               const Tile& tile) {
    const int quads = net.dim / 4;
    for (int at = simt::thread(); at < rows * quads; at += simt::threads()) {
        const int row = at / quads, c = at % quads * 4;
        *reinterpret_cast<Quad*>(call.x + (first + row) * net.dim + c) =
            *reinterpret_cast<const Quad*>(tile.x + row * tile.layout.x_stride + c);
    }
}

// A warp takes a row.
REFINER_DEVICE void head_of_tile(const DeviceNetwork& net, const DeviceCall& call, int64_t first, int rows,
                                 const Tile& tile) {
    const int lane = simt::thread() % 32;
    for (int row = simt::thread() / 32; row < rows; row += simt::threads() / 32) {
        const float* x = tile.x + row * tile.layout.x_stride;
        for (int o = 0; o < 3; ++o) {
            float sum = 0.0f;
            for (int c = lane; c < net.dim; c += 32) sum += x[c] * simt::read_constant(net.head + o * net.dim + c);
            sum = simt::warp_sum(sum);
            if (lane == 0) call.output[(first + row) * 3 + o] = sum;
        }
    }
}

template <int kRows>
REFINER_DEVICE void mlp_of_tile(const DeviceNetwork& net, const DeviceLayer& layer, int step, const Tile& tile) {
    normalise_tile<kRows>(tile, net.dim);
    simt::block_barrier();
    const int width = layer.first.outputs;
    for (int first = 0; first < width; first += net.hidden) {
        const int count = width - first < net.hidden ? width - first : net.hidden;
        multiply_tile<kRows, ProductEnd::kGelu>(
            tile.normal, tile.layout.normal_stride, layer.first, {first, count, 0, net.dim},
            {layer.first_bias + first, nullptr, tile.hidden, tile.layout.hidden_stride, kRows});
        simt::block_barrier();
        const float* bias = first == 0 ? layer.second_bias + int64_t{step} * net.dim : nullptr;
        multiply_tile<kRows, ProductEnd::kAdd>(tile.hidden, tile.layout.hidden_stride, layer.second,
                                               {0, net.dim, first, count},
                                               {bias, tile.x, nullptr, tile.layout.x_stride, kRows});
        simt::block_barrier();
    }
}

// All that happens to the tile at `first` between the attention layer `from` (-1: the beginning) and layer `next`,
// the next attention or the number of layers.
template <int kRows>
REFINER_DEVICE void segment_of_tile(const DeviceNetwork& net, const DeviceCall& call, int from, int next,
                                    int64_t first, int rows, const Tile& tile) {
    if (from < 0) {
        embed_tile<kRows>(net, call, first, rows, tile);
        simt::block_barrier();
    } else {
        load_tile<kRows>(net, call, first, rows, tile);
        simt::block_barrier();
        const DeviceLayer& layer = net.layers[from];
        multiply_tile<kRows, ProductEnd::kAdd>(
            tile.normal, tile.layout.normal_stride, layer.second, {0, net.dim, 0, net.dim},
            {layer.second_bias + int64_t{call.step} * net.dim, tile.x, nullptr, tile.layout.x_stride, kRows});
        simt::block_barrier();
    }
    for (int index = from + 1; index < next; ++index) {
        mlp_of_tile<kRows>(net, net.layers[index], call.step, tile);
    }
    if (next == net.layer_count) {
        head_of_tile(net, call, first, rows, tile);
    } else {
        const DeviceLayer& layer = net.layers[next];
        store_tile(net, call, first, rows, tile);
        normalise_tile<kRows>(tile, net.dim);
        simt::block_barrier();
        multiply_tile<kRows, ProductEnd::kStore>(
            tile.normal, tile.layout.normal_stride, layer.first, {0, 3 * net.dim, 0, net.dim},
            {layer.first_bias, nullptr, call.qkv + first * 3 * net.dim, 3 * int64_t{net.dim}, rows});
    }
    simt::block_barrier();
}

// The body of the kernel. `memory` is the shared memory of the block.
template <int kRows>
REFINER_DEVICE void run_network(const DeviceNetwork& net, const DeviceCall& call, unsigned char* memory) {
    const Tile tile = tile_in(memory, tile_layout(kRows, net.dim, net.hidden));
    const int64_t tokens = call.batch * call.frames * net.joints;
    int from = -1;
    while (true) {
        int next = from + 1;
        while (next < net.layer_count && !net.layers[next].attention) ++next;
        for (int64_t first = simt::block() * kRows; first < tokens; first += simt::blocks() * kRows) {
            const int rows = static_cast<int>(tokens - first < kRows ? tokens - first : kRows);
            segment_of_tile<kRows>(net, call, from, next, first, rows, tile);
        }
        if (next == net.layer_count) return;
        simt::grid_barrier();
        mix(net, net.layers[next], call);
        simt::grid_barrier();
        from = next;
    }
}

}  // namespace refiner
