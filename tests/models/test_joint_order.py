"""Networks that were trained in the order of MPI-INF-3DHP's joints."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refiner.errors import ConfigError, UsageError  # noqa: E402
from refiner.model_files.build import build_model  # noqa: E402
from refiner.models import D3DP, from_published  # noqa: E402
from refiner.models.joint_order import JointOrder  # noqa: E402
from refiner.skeleton import H36M17, MPI_INF_3DHP, flip_pose, from_h36m17, joint_order, to_h36m17  # noqa: E402
from refiner.stc_layout import PARTS  # noqa: E402

# The pairs and the root of the authors' evaluation on that data set.
LEFT, RIGHT, ROOT = [5, 6, 7, 11, 12, 13], [2, 3, 4, 8, 9, 10], 14
# Torso, right leg, left leg, left arm, right arm, by the names of MPI-INF-3DHP's joints.
PARTS_3DHP = [0, 0, 4, 4, 4, 3, 3, 3, 1, 1, 1, 2, 2, 2, 0, 0, 0]


def mirrored(pose):
    """The mirror image in MPI-INF-3DHP's order, as the authors compute it."""
    flipped = pose.clone()
    flipped[..., 0] *= -1
    flipped[..., LEFT + RIGHT, :] = flipped[..., RIGHT + LEFT, :]
    return flipped


def test_the_order_is_the_exact_conversion():
    order = JointOrder("3dhp")
    pose = torch.randn(2, 5, 17, 3)
    np.testing.assert_array_equal(order.inside(pose).numpy(), from_h36m17(pose.numpy(), MPI_INF_3DHP))
    np.testing.assert_array_equal(order.outside(pose).numpy(), to_h36m17(pose.numpy(), MPI_INF_3DHP))
    assert torch.equal(order.outside(order.inside(pose)), pose)
    assert joint_order("3dhp")[ROOT] == 0 and [PARTS[joint] for joint in joint_order("3dhp")] == PARTS_3DHP
    # Left and right are the same joints in both orders.
    assert {joint_order("3dhp")[joint] for joint in LEFT} == set(H36M17.left)
    assert torch.equal(order.inside(flip_pose(pose)), mirrored(order.inside(pose)))


def test_human36m_s_order_changes_nothing():
    order, pose = JointOrder(), torch.randn(1, 3, 17, 2)
    assert order.inside(pose) is pose and order.outside(pose) is pose
    assert not list(order.buffers()) and order.order == tuple(range(17))


@pytest.mark.parametrize(("joints", "error"), [("coco17", ConfigError), ("halpe26", UsageError), ("4dhp", UsageError)])
def test_other_joints_have_no_order(joints, error):
    with pytest.raises(error):
        JointOrder(joints)


@pytest.fixture(params=["stcformer", "mixste"])
def published(request, layouts, random_state):
    """Weights in the published layout, read as MPI-INF-3DHP's and as if they were Human3.6M's."""
    shapes = layouts.stcformer(32, 2, 8, 4) if request.param == "stcformer" else layouts.mixste(16, 2, 5)
    state = random_state(shapes, seed=5)
    return request.param, state


def test_weights_see_the_joints_in_their_own_order(published):
    name, state = published
    model, bare = from_published(name, state, joints="3dhp"), from_published(name, state)
    if name == "stcformer":  # its table of body parts is the only thing that depends on the names of the joints
        for block in bare.stcformer.stc_block:
            block.stc_att.part.copy_(torch.tensor(PARTS_3DHP))
    pose_2d = torch.randn(2, 5, 17, 2)
    with torch.no_grad():
        # `bare` does not reorder: it gets and gives MPI-INF-3DHP's order.
        expected = bare(torch.from_numpy(from_h36m17(pose_2d.numpy(), MPI_INF_3DHP)))
        np.testing.assert_array_equal(model(pose_2d).numpy(), to_h36m17(expected.numpy(), MPI_INF_3DHP))
        assert not torch.allclose(model(pose_2d), bare(pose_2d), atol=1e-3)
        # The average with the mirrored pass is the authors', by their own pairs.
        own = torch.from_numpy(from_h36m17(pose_2d.numpy(), MPI_INF_3DHP))
        average = 0.5 * (bare(own) + mirrored(bare(mirrored(own))))
        found = 0.5 * (model(pose_2d) + flip_pose(model(flip_pose(pose_2d))))
        np.testing.assert_allclose(from_h36m17(found.numpy(), MPI_INF_3DHP), average.numpy(), atol=1e-6)
    assert model.state_dict().keys() == state.keys()


@pytest.mark.parametrize("flip", [False, True])
def test_a_diffusion_lifter_samples_and_mirrors_by_its_own_pairs(layouts, random_state, flip):
    shapes = layouts.mixste(16, 1, 5, channels=5) | layouts.time_mlp(16)
    state = random_state({f"pose_estimator.{name}": shape for name, shape in shapes.items()})
    model, bare = from_published("d3dp", state, joints="3dhp"), from_published("d3dp", state)
    assert isinstance(model, D3DP)
    pose_2d, noises = torch.randn(2, 5, 17, 2), torch.randn(2, 1, 3, 5, 17, 3)
    own_2d, own_noises = (torch.from_numpy(from_h36m17(part.numpy(), MPI_INF_3DHP)) for part in (pose_2d, noises))
    with torch.no_grad():
        found = model.sample(pose_2d, noises, flip=flip)
        expected = _sampled(bare, own_2d, own_noises, flip)
    np.testing.assert_allclose(from_h36m17(found.numpy(), MPI_INF_3DHP), expected.numpy(), atol=1e-5)


def _sampled(model, pose_2d, noises, flip):
    """The published sampler in MPI-INF-3DHP's order, with a mirror of its own pairs."""
    from refiner.models.d3dp import HypothesisSampler

    class Mirror(torch.nn.Module):
        def forward(self, pose):
            return mirrored(pose)

    sampler = HypothesisSampler(model, len(noises), 1.0, flip)
    sampler.mirror = Mirror()
    return sampler(pose_2d, noises)


@pytest.mark.parametrize(
    ("kind", "architecture", "told"),
    [
        ("lifter", "mlp", "mlp sees Human3.6M's joints"),
        ("lifter", "tcn", "tcn sees Human3.6M's joints"),
        ("refiner", "default", "a refiner sees Human3.6M's joints"),
        ("refiner", "smoothnet", "a refiner sees Human3.6M's joints"),
    ],
)
def test_other_networks_have_no_order_of_their_own(kind, architecture, told):
    import dataclasses

    from refiner.training.config import config_from_dict

    config = config_from_dict({"kind": kind, "model": {"architecture": architecture, "joints": "3dhp", "dim": 16}})
    with pytest.raises(ConfigError, match=told):
        build_model(dataclasses.asdict(config))


def test_there_is_no_published_lifter_of_other_joints(layouts, random_state):
    with pytest.raises(UsageError, match="no published lifter of 'coco17'"):
        from_published("mixste", random_state(layouts.mixste(16, 1, 5)), joints="coco17")
