# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""The network of C2FNAS in which the operation of every cell is a choice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cakes_monai.architecture import OPERATIONS, SUB_KERNELS, Architecture, Cell, Topology, even_cells
from cakes_monai.blocks import OperationChoice
from cakes_monai.blocks.transition import Factory
from cakes_monai.nets.c2fnas import C2FNASBackbone

__all__ = ["C2FNASOperationSupernet", "operation_cells"]


def operation_cells(topology: Topology, operations: Sequence[str], init_filters: int) -> tuple[Cell, ...]:
    """
    Cells with these operations, "cakes" with its channels divided evenly among all sub-kernels.

    Args:
        topology: levels of the cells.
        operations: one for each cell.
        init_filters: filters of the first convolution.

    Raises:
        ValueError: for an unknown operation, or another number of them than cells.
    """
    if isinstance(operations, str) or len(operations) != len(topology.levels):
        raise ValueError(f"operations are {operations!r}, the topology has {len(topology.levels)} cells.")
    even = even_cells(topology, SUB_KERNELS, init_filters)
    return tuple(cell if name == "cakes" else Cell(name) for name, cell in zip(operations, even, strict=True))


class C2FNASOperationSupernet(C2FNASBackbone):
    """
    Super-network of the fine stage of C2FNAS (Yu et al., CVPR 2020, section 3.4).

    Each cell has all operations, with weights of their own, and computes one of them. Stem, end, transitions and 1x1x1
    convolutions are shared by all candidates. With BatchNorm the running statistics of what is shared are a mixture of
    all paths, and no candidate's; collect them anew before a candidate is evaluated. InstanceNorm and GroupNorm have
    none.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output, background included.
        topology: levels of the cells.
        operations: what a cell can do; the paper's are "2d", "3d" and "p3d".
        init_filters: filters of the first convolution, 32 in the papers.
        norm: norm after every convolution, as MONAI names it.
        act: activation after every norm, as MONAI names it.
        dropout: probability of the dropout behind every cell, 0 for none.

    Raises:
        ValueError: for no, unknown or repeated operations, an illegal topology, and in ``forward`` before the first
            choice.

    Shapes:
        - input: ``(N, in_channels, D, H, W)``
        - output: ``(N, out_channels, D, H, W)``, logits

    Example:
        >>> network = C2FNASOperationSupernet(1, 2, (0, 1, 0), init_filters=4)
        >>> network.choose(("2d", "cakes", "p3d"))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        topology: Topology | Sequence[int],
        operations: Sequence[str] = OPERATIONS,
        init_filters: int = 32,
        norm: Factory = ("INSTANCE", {"affine": True}),
        act: Factory = ("RELU", {"inplace": True}),
        dropout: float = 0.0,
    ) -> None:
        topology = topology if isinstance(topology, Topology) else Topology(tuple(topology))

        def operation(channels: int, norm: Factory, act: Factory) -> nn.Module:
            return OperationChoice(channels, operations, norm, act)

        cells = [operation] * len(topology.levels)
        super().__init__(in_channels, out_channels, topology, cells, init_filters, norm, act, dropout)
        self.topology = topology
        self.operations = tuple(operations)
        self.in_channels, self.out_channels, self.init_filters = in_channels, out_channels, init_filters
        #: The arguments, as JSON can say them, that make another network like this one.
        self.settings: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "topology": list(topology.levels),
            "operations": list(operations),
            "init_filters": init_filters,
            "norm": norm,
            "act": act,
            "dropout": dropout,
        }

    @property
    def num_cells(self) -> int:
        """Number of operations that :meth:`choose` takes."""
        return len(self.topology.levels)

    def choose(self, operations: Sequence[str]) -> None:
        """
        Compute this path from now on, in training and in eval.

        Args:
            operations: one for each cell; both inputs of a cell get the same.

        Raises:
            ValueError: for another number of operations than cells, or one that is no choice.
        """
        self._check(operations)
        for cell, name in zip(self.cells, operations, strict=True):
            for choice in cell.operations:  # type: ignore[union-attr]  # a ModuleList
                choice.choose(name)

    def derived(self, operations: Sequence[str], origin: Mapping[str, Any] | None = None) -> Architecture:
        """
        The architecture of a path.

        Raises:
            ValueError: as :meth:`choose`.
        """
        self._check(operations)
        return Architecture(
            self.topology, operation_cells(self.topology, operations, self.init_filters), dict(origin or {})
        )

    def state_of(self, operations: Sequence[str]) -> dict[str, Tensor]:
        """
        The weights of a path, as the state of a :class:`C2FNAS` with the :meth:`derived` architecture.

        The tensors are this network's own, as in ``state_dict()``; ``load_state_dict`` copies them.

        Raises:
            ValueError: as :meth:`choose`.
        """
        self._check(operations)
        state: dict[str, Tensor] = {}
        for name, value in self.state_dict().items():
            match = re.fullmatch(r"(cells\.(\d+)\.operations\.\d+\.)choices\.(\w+)\.(.+)", name)
            if match is None:
                state[name] = value
            elif match[3] == operations[int(match[2])]:
                state[match[1] + match[4]] = value
        return state

    def _check(self, operations: Sequence[str]) -> None:
        unknown = [name for name in operations if name not in self.operations]
        if isinstance(operations, str) or unknown or len(operations) != self.num_cells:
            raise ValueError(
                f"operations are {operations!r}, allowed is one of {', '.join(self.operations)} for each of "
                f"{self.num_cells} cells."
            )
