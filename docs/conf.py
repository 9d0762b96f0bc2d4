# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of Sphinx; nothing here needs a network."""

from __future__ import annotations

import re
from typing import Any

from cakes_monai import __version__

project = "cakes-monai"
author = "The cakes-monai authors"
project_copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "figures"]
html_theme = "furo"
html_title = f"cakes-monai {release}"

myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False  # what torch and MONAI say of their own methods is in their documentation
autodoc_member_order = "groupwise"
# Long unions are shown by a short name.
autodoc_type_aliases = {"Volume": "ArrayLike | Tensor", "Spacing": "Sequence[float] | None", "Factory": "Factory"}
maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shapes"]


def readable_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write out what Sphinx leaves as the text of its own objects: aliases in unions, and defaults from factories."""
    if signature is not None:
        signature = re.sub(r"TypeAliasForwardRef\('([^']*)'\)", r"\1", signature).replace("<factory>", "{}")
    return signature, returns


def setup(app: Any) -> None:
    """Register with Sphinx."""
    app.connect("autodoc-process-signature", readable_signature)
