// The tile instructions of AMX in plain C++, with which the tests run amx_tiles.h on any processor (Intel's
// manual, volume 2, TDPBF16PS). Sums round after every product; denormal numbers stay, which AMX takes for zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

// Some compilers have them as macros.
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

struct EmulatedTiles {
    bool configured = false;
    int rows[8], row_bytes[8];
    unsigned char data[8][16][64];
};
thread_local EmulatedTiles tiles;

inline void _tile_loadconfig(const void* configuration) {
    const auto* bytes = static_cast<const unsigned char*>(configuration);
    tiles.configured = bytes[0] == 1;
    for (int t = 0; t < 8; ++t) {
        uint16_t row_bytes;
        std::memcpy(&row_bytes, bytes + 16 + 2 * t, sizeof(row_bytes));
        tiles.row_bytes[t] = row_bytes;
        tiles.rows[t] = bytes[48 + t];
    }
}

// On a processor the next tile instruction would be an invalid one; here the sums become useless.
inline void _tile_release() {
    tiles.configured = false;
    std::memset(tiles.data, 0xff, sizeof(tiles.data));
}

inline void _tile_zero(int t) {
    if (tiles.configured) std::memset(tiles.data[t], 0, sizeof(tiles.data[t]));
}

inline void _tile_loadd(int t, const void* base, size_t stride) {
    if (!tiles.configured) return;
    std::memset(tiles.data[t], 0, sizeof(tiles.data[t]));
    for (int r = 0; r < tiles.rows[t]; ++r) {
        std::memcpy(tiles.data[t][r], static_cast<const char*>(base) + r * stride, tiles.row_bytes[t]);
    }
}

inline void _tile_stored(int t, void* base, size_t stride) {
    for (int r = 0; r < tiles.rows[t]; ++r) {
        std::memcpy(static_cast<char*>(base) + r * stride, tiles.data[t][r], tiles.row_bytes[t]);
    }
}

inline float of_bfloat16(const unsigned char* bytes) {
    uint16_t half;
    std::memcpy(&half, bytes, sizeof(half));
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

inline void _tile_dpbf16ps(int to, int a, int b) {
    if (!tiles.configured) return;
    for (int m = 0; m < tiles.rows[to]; ++m) {
        for (int k = 0; k < tiles.row_bytes[a] / 4; ++k) {
            for (int n = 0; n < tiles.row_bytes[to] / 4; ++n) {
                float sum;
                std::memcpy(&sum, tiles.data[to][m] + 4 * n, sizeof(sum));
                for (int i = 0; i < 2; ++i) {
                    const float left = of_bfloat16(tiles.data[a][m] + 4 * k + 2 * i);
                    sum += left * of_bfloat16(tiles.data[b][k] + 4 * n + 2 * i);
                }
                std::memcpy(tiles.data[to][m] + 4 * n, &sum, sizeof(sum));
            }
        }
    }
}

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
