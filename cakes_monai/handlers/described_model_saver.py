# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights together with what one must know to use them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
from monai.engines import Evaluator
from torch import nn

from cakes_monai.atomic_file import written_whole
from cakes_monai.handlers.checkpoint import ModelSaver

__all__ = ["DescribedModelSaver"]


class DescribedModelSaver(ModelSaver):
    """
    ModelSaver that writes text files beside the weights whenever it writes weights, so that both always fit.

    Args:
        path: where to, usually ``models/model.pt``.
        network: its state dict is written.
        validator: its key metric says what is best.
        select: "best" or "last".
        descriptions: name of a file -> its text, or what has a method ``dumps`` that gives it, such as a
            :class:`~cakes_monai.data.DecathlonTask`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        network: nn.Module,
        validator: Evaluator,
        select: str = "best",
        descriptions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(path, network, validator, select)
        self.descriptions = {
            name: item if isinstance(item, str) else item.dumps() for name, item in (descriptions or {}).items()
        }

    def _save(self) -> None:
        if idist.get_rank() == 0:
            for name, text in self.descriptions.items():
                with written_whole(self.path.with_name(name)) as temporary:
                    temporary.write_text(text, encoding="utf-8")
        super()._save()
