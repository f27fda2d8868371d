"""The API pages: what autodoc and napoleon need to know about this package.

A primitive is an object that behaves as a function, so autodoc would leave it out of ``automodule``; here it is
documented as the function that it is, and ``{py:func}`` finds it. In ``Returns:`` and in a constant's docstring, the
text before a colon is text: napoleon would take it for a type and look for a class of that name.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.autodoc import FunctionDocumenter
from sphinx.ext.napoleon.docstring import GoogleDocstring


class PrimitiveDocumenter(FunctionDocumenter):
    objtype = "primitive"
    directivetype = "function"
    priority = FunctionDocumenter.priority + 10

    @classmethod
    def can_document_member(cls, member: Any, membername: str, isattr: bool, parent: Any) -> bool:
        from nnbook.backprop import Primitive

        return isinstance(member, Primitive)


def consume_returns_section(self: GoogleDocstring, preprocess_types: bool = False) -> list[tuple[str, str, list[str]]]:
    lines = self._dedent(self._consume_to_next_section())
    return [("", "", self.__class__(lines, self._config).lines())] if lines else []


def parse_attribute_docstring(self: GoogleDocstring) -> list[str]:
    return self._consume_to_end()


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.add_autodocumenter(PrimitiveDocumenter)
    GoogleDocstring._consume_returns_section = consume_returns_section
    GoogleDocstring._parse_attribute_docstring = parse_attribute_docstring
    return {"parallel_read_safe": True, "parallel_write_safe": True}
