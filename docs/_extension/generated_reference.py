"""Sphinx directives for the reference: its tables and classes are read from the package when the pages are built."""

from __future__ import annotations

from typing import Any, ClassVar

import facts
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

TABLES = {
    "command": facts.command,
    "connection-extras": facts.connection_extras,
    "environment": facts.environment,
    "examples": facts.examples,
    "manifest-fields": facts.manifest_fields,
    "simulator-options": facts.simulator_options,
}
VERBATIM = {"error-tree": facts.error_tree, "simulator-manual": facts.simulator_manual}


class FromPackage(SphinxDirective):
    """``{from-package} NAME``: a table of ``facts``, for Markdown pages."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the Markdown and parse it."""
        name = self.arguments[0]
        if name in VERBATIM:
            text = VERBATIM[name]()
            return [nodes.literal_block(text, text, language="text")]
        if name not in TABLES:
            raise self.error(f"unknown table {name!r}; there are {', '.join([*TABLES, *VERBATIM])}")
        return self.parse_text_to_nodes(TABLES[name](), allow_section_headings=True)


class ProviderClasses(SphinxDirective):
    """``.. provider-classes:: KIND``: every class that the provider's description lists, for reStructuredText pages."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"members": lambda _: True}

    def run(self) -> list[nodes.Node]:
        """Write a section with an autoclass directive for each, and parse it."""
        found = facts.public_classes(self.arguments[0])
        if not found:
            raise self.error(f"the provider's description lists no {self.arguments[0]}")
        members = "   :members:\n   :member-order: bysource\n" if "members" in self.options else ""
        sections = []
        for each in found:
            name = each.__name__
            sections += [name, "-" * len(name), "", f".. autoclass:: {each.__module__}.{name}", members, ""]
        text = "\n".join(sections)
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class ErrorClasses(SphinxDirective):
    """``.. error-classes::``: every class of ``exceptions.py``."""

    def run(self) -> list[nodes.Node]:
        """Write an autoexception directive for each, and parse it."""
        text = "\n".join(f".. autoexception:: {each.__module__}.{each.__name__}\n" for each in facts.errors())
        return self.parse_text_to_nodes(text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Give Sphinx the directives."""
    app.add_directive("from-package", FromPackage)
    app.add_directive("provider-classes", ProviderClasses)
    app.add_directive("error-classes", ErrorClasses)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
