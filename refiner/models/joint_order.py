"""The order of the joints inside a network, where it is not that of Human3.6M.

All modules of this package take and give poses in Human3.6M's order. The weights that the authors of a lifter trained
on MPI-INF-3DHP expect the joints in that data set's order: they have learnt the positions of the joints, or mix
neighbouring joints. Such a network puts the joints of its input into its own order, and those of its output back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refiner.skeleton import H36M17, joint_order


class JointOrder(nn.Module):
    """Puts joints of Human3.6M's order into the order of another joint set, and back. It has no parameters.

    Attributes:
        joints: the name of the joint set.
        order: joint ``i`` of the set is joint ``order[i]`` of Human3.6M.

    Raises:
        ConfigError: the set does not have the same joints as Human3.6M's.
        UsageError: the set is unknown.
    """

    _inside: Tensor
    _outside: Tensor

    def __init__(self, joints: str = H36M17.name) -> None:
        super().__init__()
        self.joints, self.order = joints, joint_order(joints)
        if joints != H36M17.name:
            order = torch.tensor(self.order)
            self.register_buffer("_inside", order, persistent=False)
            self.register_buffer("_outside", torch.argsort(order), persistent=False)

    def inside(self, values: Tensor) -> Tensor:
        """Put values of Human3.6M's joints, ``[..., J, C]``, into the order of the network."""
        return values if self.joints == H36M17.name else values.index_select(-2, self._inside)

    def outside(self, values: Tensor) -> Tensor:
        """Put values of the network's joints, ``[..., J, C]``, into Human3.6M's order."""
        return values if self.joints == H36M17.name else values.index_select(-2, self._outside)
