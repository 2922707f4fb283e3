"""The compiled module: unchecked kernels, called through refiner.native and refiner.models."""

from typing import Any

from numpy import float32, float64
from numpy.typing import NDArray

with_cuda: bool

def thread_count(requested: int, /) -> int: ...
def isa() -> str: ...
def quick_p_mpjpe(pred: Any, target: Any, scale: bool, threads: int, /) -> Any: ...
def p_mpjpe_f32(
    pred: NDArray[float32],
    target: NDArray[float32],
    weights: NDArray[float64] | None,
    out: NDArray[float32],
    scale: bool,
    threads: int,
    /,
) -> None: ...
def p_mpjpe_f64(
    pred: NDArray[float64],
    target: NDArray[float64],
    weights: NDArray[float64] | None,
    out: NDArray[float64],
    scale: bool,
    threads: int,
    /,
) -> None: ...
def procrustes_align_f32(
    pred: NDArray[float32],
    target: NDArray[float32],
    weights: NDArray[float64] | None,
    out: NDArray[float32],
    scale: bool,
    threads: int,
    /,
) -> None: ...
def procrustes_align_f64(
    pred: NDArray[float64],
    target: NDArray[float64],
    weights: NDArray[float64] | None,
    out: NDArray[float64],
    scale: bool,
    threads: int,
    /,
) -> None: ...
def sample_conditional(
    condition: NDArray[float32],
    mean_error: NDArray[float32],
    mean_condition: NDArray[float32],
    gain: NDArray[float32],
    cholesky: NDArray[float32],
    error: NDArray[float32],
    seed: int,
    first_frame: int,
    threads: int,
    frame_ids: NDArray[Any] | None = None,
) -> None: ...
def diffuse(
    condition: NDArray[float32],
    clean: NDArray[float32],
    clean_factor: NDArray[float32],
    noise_factor: NDArray[float32],
    mean_error: NDArray[float32],
    mean_condition: NDArray[float32],
    gain: NDArray[float32],
    cholesky: NDArray[float32],
    seed: int,
    first_frame: int,
    threads: int,
    frame_ids: NDArray[Any] | None = None,
) -> tuple[NDArray[float32], NDArray[float32]]: ...
def philox_normal(seed: int, first_frame: int, frames: int, dims: int, threads: int, /) -> NDArray[float32]: ...
def stc_attention_forward(*arguments: Any) -> None: ...
def stc_attention_backward(*arguments: Any) -> None: ...
def rows_attention_forward(*arguments: Any) -> None: ...
def rows_attention_backward(*arguments: Any) -> None: ...

# The precisions of networks that this processor has instructions for.
def precisions() -> list[str]: ...

# What both networks have; a class of this stub alone.
class _Network:
    attentions: int
    def __init__(
        self,
        features: int,
        dim: int,
        heads: int,
        joints: int,
        band: int,
        steps: int,
        gelu_after_embedding: bool,
    ) -> None: ...
    def embedding(self, weight: NDArray[float32], joint_embedding: NDArray[float32]) -> None: ...
    def attention(self, *arrays: NDArray[float32]) -> None: ...
    def mlp(self, *arrays: NDArray[float32]) -> None: ...
    def head(self, weight: NDArray[float32]) -> None: ...

# A network of STC blocks (csrc/include/stc_network.h); refiner.runtime.native.network checks and fills it.
class StcNetwork(_Network):
    instructions: str
    def __init__(self, *sizes_and_precision: Any) -> None: ...
    def full_attention(self, over_frames: bool, *arrays: NDArray[float32]) -> None: ...
    def norms(self, epsilon: float) -> None: ...
    def norm_after(self, scale: NDArray[float32], shift: NDArray[float32]) -> None: ...
    def positions(self, table: NDArray[float32]) -> None: ...
    def normed_head(self, weight: NDArray[float32], bias: NDArray[float32], epsilon: float) -> None: ...
    def windows(self, step: int, input: NDArray[float32], output: NDArray[float32], threads: int) -> None: ...

# The streams of a causal refiner (csrc/bindings/causal_streams.cpp); refiner.runtime.native.causal uses it.
class CausalStreams:
    def __init__(
        self,
        network: StcNetwork,
        streams: int,
        rays: bool,
        pipelined: bool,
        schedule: NDArray[float32],
        error_scale: NDArray[float32],
        gain: NDArray[float32],
        offset: NDArray[float32],
    ) -> None: ...
    def step(self, *arrays_and_threads: Any) -> None: ...

# Only where with_cuda is true; addresses of device memory and of the stream are integers.
def cuda_device_count() -> int: ...
def cuda_p_mpjpe_f32(*arguments: int) -> None: ...
def cuda_p_mpjpe_f64(*arguments: int) -> None: ...
def cuda_procrustes_align_f32(*arguments: int) -> None: ...
def cuda_procrustes_align_f64(*arguments: int) -> None: ...
def cuda_sample_conditional(*arguments: int) -> None: ...

# A network of STC blocks on a CUDA device (csrc/include/cuda_network.h).
class CudaStcNetwork(_Network):
    def windows(
        self, step: int, input: NDArray[float32], output: NDArray[float32], threads: int, rows: int = 0
    ) -> None: ...
    def windows_on_device(
        self, step: int, batch: int, frames: int, input: int, output: int, stream: int, rows: int = 0
    ) -> None: ...
