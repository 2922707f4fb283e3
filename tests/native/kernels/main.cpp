// Tests the kernels without Python: against references in double precision, written with plain loops. For machines
// where Python and PyTorch are not at hand, such as an ARM processor under emulation.
//
//   kernel_tests [GROUP ...]     runs the groups (all without an argument)
#include <cstdio>
#include <string>
#include <vector>

#include "check.h"
#include "isa.h"
#include "products.h"

int main(int count, char** arguments) {
    using namespace refiner::test;
    const refiner::Products* bfloat16 = refiner::select_products(refiner::Precision::kBfloat16);
    std::printf("instruction set: %s, bfloat16: %s\n", refiner::isa_name(refiner::processor_isa()),
                bfloat16 != nullptr ? bfloat16->name : "none");
    const std::vector<Group> groups = {
        {"numbers", test_numbers},
        {"products", test_products},
        {"procrustes", test_procrustes},
        {"sampling", test_sampling},
        {"attention", test_attention},
        {"gradients", test_attention_gradients},
        {"windows", test_windows},
        {"frames", test_frames},
        {"mixste", test_mixste},
        {"bfloat16_products", test_bfloat16_products},
        {"bfloat16_networks", test_bfloat16_networks},
        {"pool", test_pool},
        {"fork", test_fork},
    };
    return run_groups(groups, std::vector<std::string>(arguments + 1, arguments + count));
}
