// Runs a network through the CUDA kernel's own code on the emulated grid. Standard input has int64 numbers
//   features dim heads joints band steps gelu layers | batch frames step rows blocks threads seed
// then float32 arrays: embedding, joint embedding; for each layer an int64 hidden (0: attention) and its arrays;
// head; the input. Standard output gets the result in float32.
#include <cmath>
#include <cstring>
#include <memory>

#include "stc_device.h"
#include "stc_pack.h"
#include "stdin_arrays.h"

using namespace refiner;

int main() {
    const auto sizes = read_array<int64_t>(8), how = read_array<int64_t>(7);
    const int64_t features = sizes[0], dim = sizes[1], joints = sizes[3], steps = sizes[5];
    NetworkPacker packer({features, dim, sizes[2], joints, sizes[4], steps, sizes[6] != 0});
    {
        const auto weight = read_array<float>(dim * features), offset = read_array<float>(steps * joints * dim);
        packer.embedding(weight.data(), offset.data());
    }
    for (int64_t layer = 0; layer < sizes[7]; ++layer) {
        const int64_t hidden = read_array<int64_t>(1)[0];
        if (hidden == 0) {
            const auto qkv = read_array<float>(3 * dim * dim), qkv_bias = read_array<float>(3 * dim);
            const auto convolution = read_array<float>(9 * dim), mix_bias = read_array<float>(joints * dim);
            const auto proj = read_array<float>(dim * dim), bias = read_array<float>(steps * dim);
            packer.attention(qkv.data(), qkv_bias.data(), convolution.data(), mix_bias.data(), proj.data(),
                             bias.data());
        } else {
            const auto up = read_array<float>(hidden * dim), up_bias = read_array<float>(hidden);
            const auto down = read_array<float>(dim * hidden), bias = read_array<float>(steps * dim);
            packer.mlp(up.data(), up_bias.data(), down.data(), bias.data(), hidden);
        }
    }
    packer.head(read_array<float>(3 * dim).data());
    const int64_t batch = how[0], frames = how[1], tokens = batch * frames * joints;
    const auto input = read_array<float>(tokens * features);

    // Exact sizes, in memory that the address sanitizer watches; aligned as new aligns.
    std::unique_ptr<unsigned char[]> weights(new unsigned char[packer.bytes().size()]);
    std::memcpy(weights.get(), packer.bytes().data(), packer.bytes().size());
    std::vector<DeviceLayer> layers(static_cast<size_t>(sizes[7]));
    const DeviceNetwork net = packer.at(weights.get(), layers, layers.data());
    const auto nan = std::nanf("");
    const auto x = poisoned<float>(tokens * dim, nan), output = poisoned<float>(tokens * 3, nan);
    const auto qkv = poisoned<uint16_t>(tokens * 3 * dim, 0x7e00),
               mixed = poisoned<uint16_t>(tokens * dim, 0x7e00);
    const DeviceCall call{batch,
                          static_cast<int>(frames),
                          static_cast<int>(how[2]),
                          input.data(),
                          x.get(),
                          qkv.get(),
                          mixed.get(),
                          output.get()};
    const auto rows = static_cast<int>(how[3]);
    const int64_t blocks = how[4], bytes = tile_layout(rows, net.dim, net.hidden).bytes;
    std::vector<std::unique_ptr<unsigned char[]>> shared;
    for (int64_t block = 0; block < blocks; ++block) {
        shared.push_back(poisoned<unsigned char>(bytes, 0xff));
    }
    simt::run(blocks, static_cast<int>(how[5]), static_cast<unsigned>(how[6]), [&] {
        unsigned char* memory = shared[static_cast<size_t>(simt::block())].get();
        if (rows == 16) run_network<16>(net, call, memory);
        if (rows == 32) run_network<32>(net, call, memory);
        if (rows == 64) run_network<64>(net, call, memory);
    });
    write_array(output.get(), tokens * 3);
    return 0;
}
