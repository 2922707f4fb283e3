"""The CUDA kernels against their CPU twins, on the current stream and with the errors of a wrong call."""

from __future__ import annotations

import numpy as np
import pytest

from refiner import native
from refiner.errors import DTypeError

torch = pytest.importorskip("torch")

FEATURES = native.features()
if not FEATURES.get("cuda"):
    pytest.skip("refiner was built without CUDA", allow_module_level=True)
if not torch.cuda.is_available() or FEATURES["cuda_devices"] == 0:
    pytest.skip("no CUDA device", allow_module_level=True)

RNG = np.random.default_rng(404)


def poses(count, dtype):
    target = RNG.normal(0, 0.4, (count, 17, 3))
    return (target + RNG.normal(0, 0.05, target.shape) + [10, -4, 3]).astype(dtype), target.astype(dtype)


def gaussian(size=51, inputs=85):
    return {
        "mean_error": RNG.normal(size=size).astype(np.float32),
        "mean_condition": RNG.normal(size=inputs).astype(np.float32),
        "gain": (RNG.normal(size=(size, inputs)) * 0.1).astype(np.float32),
        "cholesky": (np.tril(RNG.normal(size=(size, size))) * 0.1).astype(np.float32),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 127, 1001])
@pytest.mark.parametrize("scale", [True, False])
def test_alignment_equals_the_cpus(count, dtype, scale):
    pred, target = poses(count, dtype)
    on_gpu = [torch.from_numpy(pose).cuda() for pose in (pred, target)]
    for name in ("p_mpjpe", "procrustes_align"):
        found = getattr(native, name)(*on_gpu, scale=scale)
        assert found.is_cuda
        expected = getattr(native, name)(pred, target, scale=scale)
        assert found.cpu().numpy().dtype == dtype
        np.testing.assert_allclose(found.cpu().numpy(), expected, atol=1e-6 if dtype == np.float32 else 1e-12)


def test_nan_stays_in_its_pose():
    pred, target = poses(300, np.float32)
    pred[77, 3, 1] = np.nan
    error = native.p_mpjpe(torch.from_numpy(pred).cuda(), torch.from_numpy(target).cuda()).cpu().numpy()
    assert list(np.flatnonzero(np.isnan(error))) == [77]


@pytest.mark.parametrize("named", [False, True])
def test_samples_and_forward_process_equal_the_cpus_up_to_rounding(named):
    g, frames = gaussian(), 333
    condition = RNG.normal(size=(frames, 85)).astype(np.float32)
    clean = RNG.normal(size=(frames, 51)).astype(np.float32)
    factors = [RNG.uniform(0, 1.4, frames).astype(np.float32) for _ in range(2)]
    choice = {"frame_ids": RNG.permutation(frames) + 2**40} if named else {"first_frame": 2**33}
    expected = native.diffuse(condition, clean, *factors, **g, seed=5, **choice)
    on_gpu = [torch.from_numpy(array).cuda() for array in (condition, clean, *factors)]
    found = native.diffuse(*on_gpu, **g, seed=5, **choice)
    for there, here in zip(found, expected, strict=True):
        np.testing.assert_allclose(there.cpu().numpy(), here, atol=2e-5)
    torch.testing.assert_close(native.sample_conditional(on_gpu[0], **g, seed=5, **choice), found[1], rtol=0, atol=0)


def test_the_split_of_the_batch_changes_no_bit():
    g, condition = gaussian(), torch.randn(1001, 85, device="cuda")
    whole = native.sample_conditional(condition, **g, seed=3, first_frame=50)
    parts = [
        native.sample_conditional(condition[start : start + 77], **g, seed=3, first_frame=50 + start)
        for start in range(0, 1001, 77)
    ]
    assert torch.equal(whole, torch.cat(parts))


def test_kernels_run_on_the_current_stream():
    pred, target = (torch.from_numpy(pose).cuda() for pose in poses(4096, np.float32))
    expected = native.p_mpjpe(pred, target)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        late = pred + 0.0
        found = native.p_mpjpe(late, target)
    stream.synchronize()
    assert torch.equal(found, expected)


def test_two_devices_are_refused():
    pred, target = (torch.from_numpy(pose) for pose in poses(4, np.float32))
    with pytest.raises(DTypeError, match="two devices"):
        native.p_mpjpe(pred.cuda(), target)


def test_weights_and_given_memory():
    pred, target = (torch.randn(501, 17, 3, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    weights = torch.linspace(0.1, 3.0, 17)
    expected = native.p_mpjpe(pred, target, weights=weights)
    out = torch.empty(501, device="cuda")
    assert native.p_mpjpe(pred.cuda(), target.cuda(), weights=weights, out=out) is out
    torch.testing.assert_close(out.cpu(), expected, atol=1e-6, rtol=0)
    aligned = native.procrustes_align(pred.cuda(), target.cuda(), weights=weights.cuda())
    torch.testing.assert_close(aligned.cpu(), native.procrustes_align(pred, target, weights=weights), atol=2e-6, rtol=0)


def test_operators_run_and_differentiate_on_the_device():
    from refiner import torch_ops

    pred, target = (torch.randn(64, 17, 3, dtype=torch.float64) for _ in range(2))
    there = pred.cuda().requires_grad_()
    here = pred.clone().requires_grad_()
    torch_ops.p_mpjpe(there, target.cuda()).sum().backward()
    torch_ops.p_mpjpe(here, target).sum().backward()
    torch.testing.assert_close(there.grad.cpu(), here.grad, atol=1e-9, rtol=1e-7)
